"""Which Ray is meant, and with which token."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_exec.clients.ray import find_token, resolve_address
from mlflow_exec.errors import ConfigError
from mlflow_exec.jobs import JobHandle
from mlflow_exec.schedulers.ray import RayScheduler
from mlflow_exec.schedulers.ray.place import address_of, handle_of
from mlflow_exec.settings import RaySettings

VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_EXEC_HOME", str(tmp_path / "home"))


def resolved(address: str | None = None) -> tuple[str | None, str]:
    return resolve_address(RaySettings(address=address))


def test_the_setting_wins_then_the_api_server_then_ray_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolved() == (None, "the Ray of this machine")
    monkeypatch.setenv("RAY_ADDRESS", "http://third:8265")
    assert resolved() == ("http://third:8265", "the variable RAY_ADDRESS")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://second:8265/")
    assert resolved() == ("http://second:8265", "the variable RAY_API_SERVER_ADDRESS")
    assert resolved("https://first") == ("https://first", "the setting 'address'")


@pytest.mark.parametrize(
    "address", ["auto", "ray://head:10001", "head:6379", "10.0.0.1:6379", "ftp://head", "http://"]
)
def test_what_is_no_dashboard_is_refused_with_the_way_on(address: str) -> None:
    with pytest.raises(ConfigError, match=r"http://head-node:8265") as refused:
        resolved(address)
    assert repr(address.rstrip("/")) in str(refused.value)


def test_a_variable_that_is_no_dashboard_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS: 'auto'"):
        resolved()


@pytest.mark.parametrize("address", ["http://me:pw@head:8265", "http://head?x=1", "http://head#x"])
def test_an_address_holds_nothing_but_the_place(address: str) -> None:
    with pytest.raises(ConfigError, match="token_file"):
        resolved(address)


def test_a_bad_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="no http"):
        resolved("http://head:port")


@pytest.mark.parametrize(
    ("address", "handle"),
    [
        ("http://head:8265", "ray-job+http://head:8265/mlflow-1"),
        ("https://ray.example.org", "ray-job+https://ray.example.org/mlflow-1"),
        ("https://example.org/a/ray", "ray-job+https://example.org/a/ray/mlflow-1"),
        ("http://[::1]:8265", "ray-job+http://[::1]:8265/mlflow-1"),
    ],
)
def test_a_handle_leads_back_to_the_address(address: str, handle: str) -> None:
    made = handle_of(address, "mlflow-1", "a session")
    assert str(made) == handle
    assert address_of(JobHandle.parse(handle)) == address
    assert (made.name, made.uid) == ("mlflow-1", "a session")


def test_constructing_and_looking_start_nothing(tmp_path: Path) -> None:
    scheduler = RayScheduler(RaySettings())
    assert list(scheduler.snapshot()) == []
    (finding,) = scheduler.diagnose()
    assert finding.ok
    assert not (tmp_path / "home").exists()


def test_tokens_are_found_in_rays_own_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert find_token(None) is None
    default = tmp_path / ".ray" / "auth_token"
    default.parent.mkdir()
    default.write_text("of the home\n")
    assert find_token(None) == "of the home"
    (tmp_path / "by-path").write_text("by path")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "by-path"))
    assert find_token(None) == "by path"
    monkeypatch.setenv("RAY_AUTH_TOKEN", " by value ")
    assert find_token(None) == "by value"
    (tmp_path / "by-setting").write_text("by setting")
    assert find_token(str(tmp_path / "by-setting")) == "by setting"


def test_a_token_file_without_a_token_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"token_file: .*cannot be read"):
        find_token(str(tmp_path / "missing"))
    (tmp_path / "empty").write_text(" \n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"RAY_AUTH_TOKEN_PATH: .*is empty"):
        find_token(None)
