"""Queues as a ResourceManager tells them, and what users may do in them."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_exec.errors import ConfigError
from mlflow_exec.schedulers.yarn.queues import find_queue, largest_container, may_submit, queues_in


def acl(submit: str, administer: str = " ") -> dict[str, Any]:
    return {
        "queueAcl": [
            {"accessType": "SUBMIT_APP", "accessControlList": submit},
            {"accessType": "ADMINISTER_QUEUE", "accessControlList": administer},
        ]
    }


def leaf(path: str, submit: str = "*", **further: Any) -> dict[str, Any]:
    name = path.rpartition(".")[2]
    return {"queueName": name, "queuePath": path, "queueAcls": acl(submit), **further}


def scheduler(*queues: dict[str, Any], submit: str = " ") -> dict[str, Any]:
    return {"type": "capacityScheduler", "queueName": "root", "queuePath": "root",
            "queueAcls": acl(submit), "queues": {"queue": list(queues)}}  # fmt: skip


def parent(path: str, *queues: dict[str, Any], **further: Any) -> dict[str, Any]:
    return {**leaf(path, " "), "queues": {"queue": list(queues)}, **further}


TREE = scheduler(
    leaf("root.default"),
    parent("root.a", leaf("root.a.x"), leaf("root.a.y", "ada,bob team")),
    parent("root.b", leaf("root.b.x", " ")),
    parent("root.users", leaf("root.users.ada"), autoCreationEligibility="flexible"),
)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("default", "root.default"), ("root.default", "root.default"), ("y", "root.a.y"),
        ("a.x", "root.a.x"), ("root.b.x", "root.b.x"), ("users", "root.users"),
    ],
)  # fmt: skip
def test_a_queue_is_found_by_its_name_or_its_path(name: str, path: str) -> None:
    found = find_queue(TREE, name)
    assert found is not None
    assert found["path"] == path


def test_a_name_that_fits_several_queues_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"root\.a\.x, root\.b\.x"):
        find_queue(TREE, "x")


def test_a_queue_that_takes_none_by_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"choose one of root\.a\.x"):
        find_queue(TREE, "a")


def test_a_queue_that_nobody_knows() -> None:
    assert find_queue(TREE, "nosuch") is None


@pytest.mark.parametrize(
    ("path", "user", "administrators", "may"),
    [
        ("root.default", "eve", "", True),
        ("root.a.y", "ada", "", True),
        ("root.a.y", "eve", "", None),  # perhaps by a group
        ("root.b.x", "eve", "", False),
        ("root.b.x", "eve", "admin,eve", True),
    ],
)
def test_who_may_submit(path: str, user: str, administrators: str, may: bool | None) -> None:
    queue = next(item for item in queues_in(TREE) if item["path"] == path)
    assert may_submit(TREE, queue, user, administrators) is may


def test_a_right_to_a_queue_is_one_to_those_below() -> None:
    tree = scheduler(leaf("root.x", " "), submit="ada")
    (_, queue) = queues_in(tree)
    assert may_submit(tree, queue, "ada") is True


def test_a_version_that_tells_no_rights_is_not_guessed() -> None:
    tree = scheduler({"queueName": "x"})
    (_, queue) = queues_in(tree)
    assert queue["path"] == "root.x"
    assert may_submit(tree, queue, "ada") is None
    assert largest_container(queue) == {}
