"""The conformance suite of endpoints, on every target: one address over several deployments.

A module of tests has the suite's class as a base, and the fixture ``serving`` for its system.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.commands import mlflow_deployments, mlflow_exec
from mlflow_exec.testing.served import Served, steady_load
from mlflow_exec.testing.served_models import ROW


def answers(
    serving: Served, name: str, count: int, headers: Mapping[str, str] | None = None
) -> list[int]:
    """Ask an endpoint so often; returns what it predicted."""
    ask, found = serving.asks(name, headers or {}), []
    for _ in range(count):
        status, body = ask()
        assert status == 200, body
        found += json.loads(body)["predictions"]
    return found


class EndpointConformance:
    """What endpoints do on every target, in this order; see `mlflow_exec.testing.deployments`."""

    @pytest.fixture(scope="class")
    @classmethod
    def wine(cls, serving: Served) -> Iterator[dict[str, Any]]:
        """An endpoint over two deployments, of which nine of ten requests go to the first."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(serving.make, ("wine-1", "wine-2"), (1, 2)))
        config = {**serving.of_endpoints, "weights": {"wine-1": 90, "wine-2": 10}}
        yield serving.client.create_endpoint("wine", config)
        serving.client.delete_endpoint("wine")
        for name in ("wine-1", "wine-2"):
            serving.client.delete_deployment(name)

    @pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.large)])
    def test_each_deployment_gets_its_share_and_zero_is_none(
        self, serving: Served, wine: dict[str, Any], count: int
    ) -> None:
        serving.client.update_endpoint("wine", {"weights": {"wine-1": 90, "wine-2": 10}})
        found = Counter(answers(serving, "wine", count))
        assert found == {1: count * 9 // 10, 2: count // 10}
        serving.client.update_endpoint("wine", {"weights": {"wine-1": 0}})
        assert Counter(answers(serving, "wine", count // 5)) == {2: count // 5}

    def test_weights_change_under_load_without_a_restart_or_a_failure(
        self, serving: Served, wine: dict[str, Any]
    ) -> None:
        before = serving.replicas("wine")
        with steady_load(serving.asks("wine", {}), threads=2) as load:
            for weights in ({"wine-1": 1, "wine-2": 0}, {"wine-1": 0, "wine-2": 1}):
                changed = serving.client.update_endpoint("wine", {"weights": weights})
                assert changed["weights"] == weights
                changed_s = time.monotonic()
                load.reaches(20)
                expected = 1 if weights["wine-1"] else 2
                found = load.since(changed_s)
                assert found == [expected] * len(found)
                assert len(found) >= 18  # two threads ask, and had one under way each
        assert serving.replicas("wine") == before
        assert not load.failures

    def test_a_key_stays_with_its_deployment(
        self, serving: Served, wine: dict[str, Any]
    ) -> None:
        config = {"weights": {"wine-1": 50, "wine-2": 50}, "sticky_header": "X-User"}
        serving.client.update_endpoint("wine", config)
        by_user = [
            answers(serving, "wine", 3, {"X-User": f"user-{number}"}) for number in range(20)
        ]
        assert all(len(set(found)) == 1 for found in by_user)
        assert {found[0] for found in by_user} == {1, 2}

    def test_copies_for_a_shadow_are_compared_and_counted(
        self, serving: Served, wine: dict[str, Any]
    ) -> None:
        mlflow_exec("endpoints", "update", "-t", serving.uri, "-n", "wine",
            "-w", "wine-1=1", "-w", "wine-2=0", "-s", "wine-2=50")  # fmt: skip

        def counted() -> int:
            counts = serving.client.get_endpoint("wine")["counts"]["shadows"]
            assert counts.get("wine-2", {}).get("same", 0) == 0
            return int(counts.get("wine-2", {}).get("different", 0))

        before = counted()
        assert answers(serving, "wine", 20) == [1] * 20
        until(lambda: counted() == before + 10, "half of them are compared", 60)

    def test_the_command_line_and_mlflows(
        self, serving: Served, wine: dict[str, Any], tmp_path: Path
    ) -> None:
        name, target = ("-n", "wine", "-t", serving.uri), ("-t", serving.uri)
        mlflow_exec("endpoints", "update", *name, "-w", "wine-2=1", "--remove", "wine-1")
        found = json.loads(mlflow_exec("endpoints", "get", *name, "-o", "json"))
        assert (found["state"], found["weights"]) == ("READY", {"wine-2": 1.0})
        assert found["shadows"] == {}, "who has a weight needs no copies any more"
        assert found["counts"]["answers"]["wine-2"]["200"] > 0
        back = json.loads(mlflow_exec("endpoints", "rollback", *name, "-o", "json"))
        assert (back["weights"], back["shadows"]) == ({"wine-1": 1, "wine-2": 0}, {"wine-2": 50})
        rendered = mlflow_exec("endpoints", "render", *name, "-w", "wine-2=5")
        assert "router" in rendered
        body = tmp_path / "body.json"
        body.write_text(json.dumps(ROW))
        asked = mlflow_deployments("predict", *target, "--endpoint", "wine", "-I", str(body))
        assert json.loads(asked) == {"predictions": [1]}
        changed = mlflow_deployments(
            "update-endpoint", *target, "--endpoint", "wine", "-C", "weights.wine-2=3",
            "-C", "shadows=null", "-C", "sticky_header=null",
        )  # fmt: skip
        assert "is updated" in changed
        shown = mlflow_deployments("get-endpoint", *target, "--endpoint", "wine")
        assert "'wine-2': 3.0" in shown
        assert "'name': 'wine'" in mlflow_deployments("list-endpoints", *target)
        assert "wine" in mlflow_exec("endpoints", "list", *target)

    def test_an_endpoint_is_no_deployment_and_a_deployment_no_endpoint(
        self, serving: Served, wine: dict[str, Any]
    ) -> None:
        client = serving.client
        assert "wine" not in [found["name"] for found in client.list_deployments()]
        assert [found["name"] for found in client.list_endpoints()] == ["wine"]
        for call in (client.get_deployment, client.delete_deployment):
            with pytest.raises(MlflowException, match="it is an endpoint"):
                call("wine")
        for call in (client.get_endpoint, client.delete_endpoint):
            with pytest.raises(MlflowException, match="it is a deployment"):
                call("wine-1")
        target = ("-t", serving.uri, "-n")
        for kind, name, says in (
            ("deployments", "wine", "it is an endpoint"), ("endpoints", "wine", "WEIGHTS"),
            ("endpoints", "wine-1", "it is a deployment"), ("deployments", "wine-1", "PINNED URI"),
        ):  # fmt: skip
            refused = says.startswith("it is")
            assert says in mlflow_exec(kind, "revisions", *target, name, fails=refused)
        with pytest.raises(MlflowException, match="a deployment or an endpoint 'wine-1'"):
            client.create_endpoint("wine-1", {"weights": {"wine-2": 1}})

    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ({"weights": {"wine-3": 1}}, "no deployment 'wine-3'; did you mean 'wine-[12]'?"),
            ({"weights": {"wine": 1}}, "no deployment 'wine'; did you mean"),
            ({"weights": {"wine-1": 0, "wine-2": 0}}, "one deployment at least needs more than 0"),
            ({"weights": {"wine-7": None}}, "'wine-7' is no variant of it"),
            ({"weights": "wine-1"}, "weights: a mapping is needed"),
            ({"weights": {"wine-1": -1}}, "greater than or equal to 0"),
            ({"weights": {"wine-1": "many"}}, "weights.wine-1: .*number"),
            ({"weights": {"wine-1": 1}, "shadows": {"wine-1": 5}}, "by its weight already"),
            ({"shadows": {"wine-2": 101}}, "less than or equal to 100"),
            ({"sticky_header": "two words"}, "no header's name"),
            ({"batch.max_rows": "5"}, "batch: it is of models, and has no effect on an endpoint"),
            ({"weight": {"wine-1": 1}}, "unknown setting 'weight'"),
        ],
    )
    def test_a_wrong_route_is_refused_before_anything_is_touched(
        self, serving: Served, wine: dict[str, Any], config: dict[str, Any], says: str
    ) -> None:
        before = serving.client.get_endpoint("wine")["revision"]
        with pytest.raises(MlflowException, match=says):
            serving.client.update_endpoint("wine", config)
        assert serving.client.get_endpoint("wine")["revision"] == before

    def test_a_deployment_that_gets_requests_is_not_deleted(
        self, serving: Served, wine: dict[str, Any]
    ) -> None:
        serving.client.update_endpoint("wine", {"weights": {"wine-1": 1, "wine-2": 1}})
        with pytest.raises(MlflowException, match="variant of endpoint 'wine'; take it out"):
            serving.client.delete_deployment("wine-1")
        assert {1, 2} == set(answers(serving, "wine", 4))

    def test_a_deployment_is_made_as_a_variant(
        self, serving: Served, wine: dict[str, Any]
    ) -> None:
        client = serving.client
        path = serving.model(4)
        made = mlflow_deployments(
            "create", "-t", serving.uri, "--name", "wine-4", "-m", path, "--endpoint", "wine",
            *serving.options(),
        )  # fmt: skip
        assert "wine-4 is created" in made
        assert client.get_endpoint("wine")["weights"] == {"wine-1": 1, "wine-2": 1, "wine-4": 0}
        listed = client.list_deployments(endpoint="wine")
        assert {one["name"] for one in listed} == {"wine-1", "wine-2", "wine-4"}
        client.delete_deployment("wine-4", endpoint="wine")
        assert client.get_endpoint("wine")["weights"] == {"wine-1": 1, "wine-2": 1}
        back = ("endpoints", "rollback", "-n", "wine", "-t", serving.uri)
        assert "there is no deployment 'wine-4'" in mlflow_exec(*back, fails=True)
        with pytest.raises(MlflowException, match="'wine-5' is the deployment's own name"):
            client.create_deployment("wine-5", path, config={}, endpoint="wine-5")

    def test_the_first_variant_makes_the_endpoint(self, serving: Served) -> None:
        client = serving.client
        path = serving.model(3, requirements=("mlflow-skinny", "pandas"))
        client.create_deployment("beer-3", path, config=dict(serving.of_both), endpoint="beer")
        assert client.get_endpoint("beer")["weights"] == {"beer-3": 100}
        assert client.predict(endpoint="beer", inputs=ROW)["predictions"] == [3]
        with pytest.raises(MlflowException, match="one deployment at least needs more than 0"):
            client.delete_deployment("beer-3", endpoint="beer")
        for _ in range(2):
            client.delete_endpoint("beer")
        client.delete_deployment("beer-3")
        with pytest.raises(MlflowException, match="there is no deployment 'beer'"):
            client.get_endpoint("beer")
