"""What an update keeps of a deployment: its settings, and the model that it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_exec.errors import ConfigError
from mlflow_exec.releases import Revision
from mlflow_exec.runs.deploy import kept_settings, place, ways_back, with_earlier
from mlflow_exec.runs.models import Pinned, pinned, same

URI = "ray-serve://192.0.2.1:8265"


def test_an_update_keeps_what_it_does_not_name() -> None:
    earlier = {"num_replicas": "2", "resources": {"cpu": "2", "memory": "4Gi"}, "max_replicas": "5"}
    now = place(URI, {"resources.cpu": "1", "max_replicas": "null"})
    found = with_earlier(URI, now, earlier)
    assert (found.settings.num_replicas, found.settings.max_replicas) == (2, None)
    assert (found.settings.resources.cpu, found.settings.resources.memory) == (1, 4 * 1024**3)
    assert found.given == {"num_replicas": "2", "resources": {"cpu": "1", "memory": "4Gi"}}


def test_of_two_ways_the_one_that_is_given_counts() -> None:
    found = with_earlier(
        URI, place(URI, {"token.file": "/run/token"}), {"token": {"node_env": "TOKEN"}}
    )
    assert found.given == {"token": {"file": "/run/token"}}
    more = with_earlier(
        URI,
        place(URI, {"secrets.B.node_env": "B"}),
        {"secrets": {"A": {"node_env": "A"}, "B": {"file": "/b"}}},
    )
    assert more.given["secrets"] == {"A": {"node_env": "A"}, "B": {"node_env": "B"}}


def test_how_this_machine_reaches_a_target_is_in_no_revision() -> None:
    given = {"ca_cert": "ca.pem", "kubeconfig": "k", "wait": "false", "num_replicas": "2"}
    assert kept_settings(given) == {"num_replicas": "2"}


def revision(number: int, uri: str = "a", rolled_back_to: int | None = None) -> Revision:
    return Revision("iris", number, uri, uri, "1", {}, (), "", rolled_back_to)


@pytest.mark.parametrize(
    ("kept", "to"),
    [
        ([revision(1), revision(2)], 1),
        ([revision(1), revision(2), revision(3, rolled_back_to=1)], None),
        ([revision(1), revision(2), revision(3), revision(4, rolled_back_to=2)], 1),
        ([revision(1)], None),
    ],
)
def test_the_way_back_leads_to_what_was_not_taken_back_itself(
    kept: list[Revision], to: int | None
) -> None:
    found = ways_back(kept)
    assert (found[-1].number if found else None) == to


def test_a_patch_is_given_as_a_whole() -> None:
    earlier = {"patch": {"args": {"a": 1}}}
    assert with_earlier(URI, place(URI, {}), earlier).given == earlier
    other = place(URI, {"patch": '{"logging_config": {}}'})
    assert with_earlier(URI, other, earlier).given == {"patch": {"logging_config": {}}}


def test_files_of_this_machine_are_kept_as_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "cfg.yaml").write_text(f"num_replicas: 3\npatch: {tmp_path}/patch.yaml\n")
    (tmp_path / "patch.yaml").write_text("args: {a: 1}\n")
    found = place(URI, {"file": str(tmp_path / "cfg.yaml")})
    assert found.given == {"num_replicas": 3, "patch": {"args": {"a": 1}}}


def test_a_folder_means_its_files_of_then(tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {}}")
    before = pinned(str(tmp_path), None)
    assert same(before) == before
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {other: 1}}")
    with pytest.raises(ConfigError, match="not those that were deployed; give a model"):
        same(before)
    (tmp_path / "MLmodel").unlink()
    with pytest.raises(ConfigError, match="not those that were deployed"):
        same(before)
    registered = Pinned("models:/iris@champion", "models:/iris/3", "3")
    assert same(registered) == registered


@pytest.mark.parametrize("uri", ["models://user:pw@host/x", "https://me:pw@example.org/model"])
def test_a_uri_with_a_password_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="credentials"):
        pinned(uri, None)
