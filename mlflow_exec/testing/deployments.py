"""The conformance suite of targets: what deployments do on every one, by each way to ask for it.

A subclass in a test module runs it against a real system::

    class TestDeploymentsOnMySystem(DeploymentConformance):
        broken = {**DeploymentConformance.broken, "too large": ({"loading": "..."}, {}, "memory")}

    @pytest.fixture(scope="module")
    def serving():
        return Served(get_deploy_client("my-system"), "my-system", ...)
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow.exceptions import MlflowException

from mlflow_exec.runs.deploy import place
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.commands import mlflow_deployments, mlflow_exec
from mlflow_exec.testing.served import Served, steady_load
from mlflow_exec.testing.served_models import BODY, JSON, ROW


class Way(ABC):
    """One way to ask for deployments."""

    def __init__(self, serving: Served, folder: Path) -> None:
        self.serving = serving
        self.body = folder / "body.json"
        self.body.write_text(json.dumps(ROW))

    @abstractmethod
    def create(self, name: str, model: str) -> None:
        """Deploy a model."""

    @abstractmethod
    def update(self, name: str, model: str) -> None:
        """Give a deployment another model."""

    @abstractmethod
    def state(self, name: str) -> str:
        """Return what is shown as a deployment's state."""

    @abstractmethod
    def names(self) -> str:
        """Return a text that names all deployments."""

    @abstractmethod
    def answer(self, name: str) -> Any:
        """Return the answer to the one row."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a deployment."""

    @abstractmethod
    def refusal(self, name: str) -> str:
        """Return what is said when a deployment that is not there is asked for."""


class ByPython(Way):
    """MLflow's client."""

    def create(self, name: str, model: str) -> None:
        config = dict(self.serving.of_deployments)
        made = self.serving.client.create_deployment(name, model, config=config)
        assert (made["name"], made["flavor"]) == (name, "python_function")

    def update(self, name: str, model: str) -> None:
        self.serving.client.update_deployment(name, model)

    def state(self, name: str) -> str:
        return str(self.serving.client.get_deployment(name)["state"])

    def names(self) -> str:
        return str([found["name"] for found in self.serving.client.list_deployments()])

    def answer(self, name: str) -> Any:
        return self.serving.client.predict(name, ROW)["predictions"]

    def delete(self, name: str) -> None:
        self.serving.client.delete_deployment(name)

    def refusal(self, name: str) -> str:
        with pytest.raises(MlflowException) as raised:
            self.serving.client.get_deployment(name)
        return str(raised.value)


class ByMlflow(Way):
    """MLflow's command line."""

    def _ask(self, verb: str, name: str, *more: str, fails: bool = False) -> str:
        target = ("-t", self.serving.uri, "--name", name)
        return mlflow_deployments(verb, *target, *more, fails=fails)

    def create(self, name: str, model: str) -> None:
        said = self._ask("create", name, "-m", model, *self.serving.options())
        assert f"python_function deployment {name} is created" in said

    def update(self, name: str, model: str) -> None:
        assert f"Deployment {name} is updated" in self._ask("update", name, "-m", model)

    def state(self, name: str) -> str:
        [line] = re.findall(r"^state: (\w+)$", self._ask("get", name), re.MULTILINE)
        return str(line)

    def names(self) -> str:
        return mlflow_deployments("list", "-t", self.serving.uri)

    def answer(self, name: str) -> Any:
        return json.loads(self._ask("predict", name, "-I", str(self.body)))["predictions"]

    def delete(self, name: str) -> None:
        assert f"Deployment {name} is deleted" in self._ask("delete", name)

    def refusal(self, name: str) -> str:
        return self._ask("get", name, fails=True)


class ByOurs(ByPython):
    """``mlflow-exec deployments``, which leaves the asking to MLflow."""

    def _ask(self, verb: str, name: str, *more: str, fails: bool = False) -> str:
        target = ("-t", self.serving.uri, "-n", name)
        return mlflow_exec("deployments", verb, *target, *more, "-o", "json", fails=fails)

    def create(self, name: str, model: str) -> None:
        made = json.loads(self._ask("create", name, "-m", model, *self.serving.options()))
        assert (made["name"], made["revision"], made["serving"]) == (name, 1, 1)

    def update(self, name: str, model: str) -> None:
        assert json.loads(self._ask("update", name, "-m", model))["revision"] == 2

    def state(self, name: str) -> str:
        return str(json.loads(self._ask("get", name))["state"])

    def names(self) -> str:
        return mlflow_exec("deployments", "list", "-t", self.serving.uri)

    def delete(self, name: str) -> None:
        assert json.loads(self._ask("delete", name)) == {"deleted": name}

    def refusal(self, name: str) -> str:
        return self._ask("get", name, fails=True)


@dataclass(frozen=True)
class Attempt:
    """An update of a deployment, which did not become ready.

    Attributes:
        name: The deployment.
        answers: What it answered meanwhile.
        error: What the update said.
    """

    name: str
    answers: list[int]
    error: str


class DeploymentConformance:
    """What deployments do on every target; see the module for how to run it.

    Attributes:
        broken: Models that cannot be serving, by what is wrong with them: how they are made, with
            which settings, and a pattern of the reason that is given.
    """

    broken: ClassVar[Mapping[str, tuple[Mapping[str, Any], Mapping[str, str], str]]] = {
        "an exception while loading": (
            {"loading": "raise ValueError('no such weights')"}, {}, "no such weights",
        ),
        "a missing dependency": ({"loading": "import surely_missing"}, {}, "surely_missing"),
    }  # fmt: skip

    @pytest.fixture(scope="class")
    @classmethod
    def iris(cls, serving: Served) -> Iterator[dict[str, Any]]:
        """A deployment that answers 1 at first."""
        yield serving.make("iris", 1)
        serving.client.delete_deployment("iris")
        assert serving.leftovers("iris") == []

    @pytest.fixture(scope="class")
    @classmethod
    def attempts(cls, serving: Served) -> Iterator[dict[str, Attempt]]:
        """Each deployment gets a model that is broken in its own way, all at once."""
        names = {what: f"broken-{number}" for number, what in enumerate(cls.broken)}

        def attempt(what: str) -> Attempt:
            making, settings, _ = cls.broken[what]
            name = names[what]
            serving.make(name, 1)
            with steady_load(serving.asks(name, {}), threads=1) as load:
                model = serving.model(3, **making)
                with pytest.raises(MlflowException) as raised:
                    serving.client.update_deployment(name, model, config=dict(settings))
                load.reaches(5)
            return Attempt(name, load.answers, str(raised.value))

        with ThreadPoolExecutor() as pool:
            yield dict(zip(names, pool.map(attempt, names), strict=True))
            list(pool.map(serving.client.delete_deployment, names.values()))

    # -- the life of a deployment

    @pytest.mark.parametrize("way", [ByPython, ByMlflow, ByOurs], ids=lambda way: way.__name__)
    def test_a_deployment_is_made_asked_changed_and_deleted(
        self, serving: Served, way: type[Way], tmp_path: Path
    ) -> None:
        by, name = way(serving, tmp_path), f"life-{way.__name__.lower()}"
        by.create(name, serving.model(4))
        assert by.state(name) == "READY"
        assert name in by.names()
        assert by.answer(name) == [4]
        by.update(name, serving.model(5))
        assert by.answer(name) == [5]
        for _ in range(2):
            by.delete(name)
        assert serving.leftovers(name) == []
        assert name not in by.names()
        assert f"there is no deployment '{name}'" in by.refusal(name)

    def test_what_is_not_there_is_not_changed_and_what_is_there_not_made_again(
        self, serving: Served, iris: dict[str, Any]
    ) -> None:
        says = "there is no deployment 'gone'"
        with pytest.raises(MlflowException, match=says):
            serving.client.update_deployment("gone", "models:/none")
        with pytest.raises(MlflowException, match=says):
            serving.client.predict("gone", ROW)
        with pytest.raises(MlflowException, match="there is a deployment 'iris'; 'update'"):
            serving.make("iris", 2)
        assert serving.leftovers("gone") == []

    def test_what_would_be_sent_is_printed_and_nothing_is_sent(self, serving: Served) -> None:
        given = ("-t", serving.uri, "--name", "shown", "-m", serving.model(6), *serving.options())
        printed = mlflow_deployments("create", *given, "-C", "render=only")
        assert "shown" in printed
        assert "is created" not in printed
        ours = mlflow_exec("deployments", "render", *given)
        assert ours.strip() == printed.strip()
        assert serving.leftovers("shown") == []

    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ({"num_replica": "2"}, r"unknown setting 'num_replica' \(did you mean 'num_replicas'"),
            ({"num_replicas": "many"}, "num_replicas"),
            ({"max_request": "-1"}, "max_request"),
            ({"resources.cpu": "-1"}, "resources.cpu"),
        ],
    )
    def test_a_wrong_setting_is_refused_before_anything_is_touched(
        self, serving: Served, config: dict[str, str], says: str
    ) -> None:
        with pytest.raises(MlflowException, match=says):
            serving.make("wrong", 1, **config)
        assert serving.leftovers("wrong") == []

    def test_the_settings_are_explained(self, serving: Served) -> None:
        assert "num_replicas" in mlflow_deployments("help", "-t", serving.uri)

    # -- its requests

    @pytest.mark.parametrize(
        ("body", "content_type", "status", "says"),
        [
            (b'{"dataframe_split": ', "application/json", 400, "JSON"),
            (b'{"rows": [[1.5]]}', "application/json", 400, "dataframe_split"),
            (json.dumps({"dataframe_split": {"columns": ["y"], "data": [[1]]}}).encode(),
             "application/json", 400, "missing inputs"),
            (BODY, "application/xml", 415, "supports the following content types"),
        ],
    )  # fmt: skip
    def test_a_wrong_request_gets_mlflows_status_and_words(
        self,
        serving: Served,
        iris: dict[str, Any],
        body: bytes,
        content_type: str,
        status: int,
        says: str,
    ) -> None:
        headers = {**JSON, "Content-Type": content_type}
        answer = place(serving.uri, {}).target.request("iris", "/invocations", body, headers)
        assert (answer.status, says in answer.body.decode()) == (status, True), answer

    # -- its revisions

    def test_an_update_a_scaling_and_a_way_back_lose_no_request(
        self, serving: Served, iris: dict[str, Any]
    ) -> None:
        two = serving.model(2)
        with steady_load(serving.asks("iris", {}), threads=2) as load:
            load.reaches(20)
            serving.client.update_deployment("iris", two, config={"num_replicas": "2"})
            until(lambda: load.answers[-20:] == [2] * 20, "only the new one answers", 60)
            until(lambda: len(serving.replicas("iris")) == 2, "two are left", 60)
            serving.client.update_deployment("iris", config={"num_replicas": "1"})
            until(lambda: len(serving.replicas("iris")) == 1, "one is left", 60)
            back = json.loads(
                mlflow_exec("deployments", "rollback", "-t", serving.uri, "-n", "iris",
                    "--to", "1", "-o", "json")
            )  # fmt: skip
            until(lambda: load.answers[-20:] == [1] * 20, "only the first answers", 60)
        assert (back["revision"], back["state"]) == (4, "READY")
        assert set(load.answers) == {1, 2}

    def test_revisions_are_kept_and_compared(self, serving: Served, iris: dict[str, Any]) -> None:
        serving.client.update_deployment("iris", config={"request_timeout_s": "19"})
        where = ("-t", serving.uri, "-n", "iris", "-o", "json")
        kept = json.loads(mlflow_exec("deployments", "revisions", *where))
        newest = kept[-1]["number"]
        assert [r["number"] for r in kept] == list(range(1, newest + 1))
        diff = ("deployments", "diff", *where, "--from")
        lines = json.loads(mlflow_exec(*diff, str(newest - 1), "--to", str(newest)))["diff"]
        assert [line for line in lines if line.startswith("+") and "19" in line], lines
        assert json.loads(mlflow_exec(*diff, "1", "--to", "1")) == {"diff": []}

    def test_a_killed_replica_loses_no_request_of_our_clients(
        self, serving: Served, iris: dict[str, Any]
    ) -> None:
        serving.client.update_deployment("iris", config={"num_replicas": "2"})
        target = place(serving.uri, {}).target

        def ask() -> tuple[int, bytes]:
            answer = target.request("iris", "/invocations", BODY, JSON)
            return answer.status, answer.body

        with steady_load(ask) as load:
            load.reaches(20)
            victim = min(serving.replicas("iris"))
            serving.kill(victim)
            load.reaches(50)
            whole = "it is whole again"
            until(lambda: len(serving.replicas("iris") - {victim}) == 2, whole)

    # -- models that cannot be served

    def test_a_broken_model_leaves_the_one_before_serving_and_says_why(
        self, serving: Served, attempts: dict[str, Attempt]
    ) -> None:
        for what, attempt in attempts.items():
            pattern = self.broken[what][2]
            assert re.search(f"(?s){pattern}", attempt.error), f"{what}: {attempt.error}"
            assert set(attempt.answers) == {1}, what
            assert "Revision 1 serves again, as revision 3" in attempt.error
            found = serving.client.get_deployment(attempt.name)
            assert (found["state"], found["revision"], found["failure"]) == ("READY", 3, None)

    def test_a_broken_model_that_is_the_first_says_why_and_goes_by_delete(
        self, serving: Served
    ) -> None:
        model = serving.model(3, loading="raise ValueError('no such weights')")
        says = "(?s)no such weights.*It was left there; 'delete' removes it"
        with pytest.raises(MlflowException, match=says):
            serving.client.create_deployment("never", model, config=dict(serving.of_deployments))
        shown = serving.client.get_deployment("never")
        assert (shown["state"], shown["serving"]) == ("FAILED", None)
        assert "no such weights" in shown["failure"]
        serving.client.delete_deployment("never")
        assert serving.leftovers("never") == []
