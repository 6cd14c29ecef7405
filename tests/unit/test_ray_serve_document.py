"""Serve's one document: ours is put into it, and the others stay as they are."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from mlflow_exec.errors import ClusterError, ConflictError
from mlflow_exec.targets.ray_serve.document import (
    in_the_making,
    is_running,
    refuse_taken,
    with_application,
    without_application,
)

NEIGHBOUR = {
    "name": "theirs", "route_prefix": "/theirs", "import_path": "app:app",
    "runtime_env": {"env_vars": {"A": "1"}}, "args": {"x": None},
    "deployments": [{"name": "D", "user_config": {"y": [1]}}],
}  # fmt: skip
OURS = {"name": "iris", "route_prefix": "/iris", "import_path": "ours:build"}
START = {"http_options": {"host": "127.0.0.1", "port": 1}}


def details(*applications: dict[str, Any], **changes: Any) -> dict[str, Any]:
    found = {
        app["name"]: {
            "deployed_app_config": app, "route_prefix": app["route_prefix"], "status": "RUNNING",
            "source": "declarative",
        }
        for app in applications
    }  # fmt: skip
    return {
        "controller_info": {"node_id": "n"}, "applications": found, "proxy_location": "HeadOnly",
        "http_options": {"host": "0.0.0.0", "port": 8000}, "grpc_options": {"port": 9000},
        "target_capacity": 40.0, **changes,
    }  # fmt: skip


def test_the_others_are_sent_as_they_were_submitted() -> None:
    here = details(NEIGHBOUR)
    before = deepcopy(here)
    sent = with_application(here, OURS, START)
    assert sent["applications"] == [NEIGHBOUR, OURS]
    assert here == before
    for key in ("proxy_location", "http_options", "grpc_options", "target_capacity"):
        assert sent[key] == here[key], "what is left out would be reset"


def test_ours_takes_the_place_of_the_one_before() -> None:
    here = details({**OURS, "args": {"old": 1}}, NEIGHBOUR)
    assert with_application(here, OURS, START)["applications"] == [OURS, NEIGHBOUR]


def test_removing_ours_leaves_the_others() -> None:
    sent = without_application(details(OURS, NEIGHBOUR), "iris")
    assert sent["applications"] == [NEIGHBOUR]
    assert sent["target_capacity"] == 40.0


def test_a_serve_that_does_not_run_is_started_as_we_say() -> None:
    none = details(controller_info={"node_id": None}, http_options={"host": "0.0.0.0"})
    assert with_application(none, OURS, START) == {**START, "applications": [OURS]}
    assert (is_running(none), is_running(details(NEIGHBOUR))) == (False, True)


def test_what_python_has_deployed_is_left_to_it() -> None:
    here = details(NEIGHBOUR)
    here["applications"]["theirs"] |= {"source": "imperative", "deployed_app_config": None}
    assert with_application(here, OURS, START)["applications"] == [OURS]
    with pytest.raises(ConflictError, match="'theirs' that is not of mlflow-exec"):
        refuse_taken(here, {**OURS, "name": "theirs"})


def test_one_that_is_being_deleted_is_not_brought_back() -> None:
    here = details(NEIGHBOUR)
    here["applications"]["theirs"]["status"] = "DELETING"
    assert with_application(here, OURS, START)["applications"] == [OURS]


def test_a_route_is_not_taken_twice() -> None:
    with pytest.raises(ConflictError, match="application 'theirs' of this Serve has '/theirs'"):
        refuse_taken(details(NEIGHBOUR), {**OURS, "route_prefix": "/theirs"})
    going = details(NEIGHBOUR)
    going["applications"]["theirs"]["status"] = "DELETING"
    refuse_taken(going, {**OURS, "route_prefix": "/theirs"})


def test_what_serve_is_building_is_waited_for() -> None:
    here = details(NEIGHBOUR, OURS)
    assert in_the_making(here, "iris") == []
    here["applications"]["theirs"] |= {"status": "DEPLOYING", "deployments": {}}
    here["applications"]["iris"] |= {"status": "DEPLOYING", "deployments": {}}
    assert in_the_making(here, "iris") == ["theirs"]
    here["applications"]["theirs"]["deployments"] = {"D": {}}
    assert in_the_making(here, "iris") == [], "its replicas come, which a write does not disturb"


def test_hidden_variables_are_not_written_back_hidden() -> None:
    hidden = {**NEIGHBOUR, "runtime_env": {"env_vars": {"A": "<redacted>"}}}
    with pytest.raises(ClusterError, match="nothing was changed"):
        with_application(details(hidden), OURS, START)
    with pytest.raises(ClusterError, match="nothing was changed"):
        without_application(details(hidden, OURS), "iris")
