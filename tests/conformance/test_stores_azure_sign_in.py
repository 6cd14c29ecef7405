"""Who signs in at Azure's blobs, to whom that is shown, and to whom not."""

from __future__ import annotations

import base64
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError, UnreachableError
from mlflow_exec.storage.objects_azure import AzureStore
from mlflow_exec.testing.stores import content, put
from mlflow_exec.uris import Location
from tests.answering_server import Answer, Asked, answering

# Of that SDK, when it is closed by the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
KEY = base64.b64encode(b"the key of an account").decode()
SIGNATURE = "c2lnbmF0dXJl%3D"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    monkeypatch.setattr(pauses, "_FIRST_S", 0.01)


@pytest.fixture
def asked() -> list[Asked]:
    return []


@pytest.fixture
def url(asked: list[Asked]) -> Iterator[str]:
    def keep(request: Asked) -> Answer:
        asked.append(request)
        return Answer("", 201, (("ETag", '"1"'),))

    with answering(keep) as url:
        yield url


def store_by(signed: str, url: str) -> AzureStore:
    given = Secret.of(f"AccountName=someone;BlobEndpoint={url}/someone;{signed}", "the test")
    place = Location.parse("fsspec+abfs://container/x")
    return AzureStore(place, Credential("the test", {"connection_string": given}))


def by_key(url: str) -> AzureStore:
    return store_by(f"AccountKey={KEY}", url)


def by_signature(url: str) -> AzureStore:
    return store_by(f"SharedAccessSignature=sv=2022-11-02&sig={SIGNATURE}", url)


def test_a_password_of_netrc_is_not_in_the_place_of_the_signature(
    url: str, asked: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login someone-else password of-something-else\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    put(by_key(url), "a", b"1")
    assert [request.headers["authorization"].split(":")[0] for request in asked] == [
        "SharedKey someone"
    ]


@pytest.mark.parametrize("store", [by_key, by_signature])
def test_who_is_sent_on_to_another_host_does_not_go_there(
    store: Callable[[str], AzureStore], url: str, asked: list[Asked]
) -> None:
    sent_on = Answer("", 307, (("Location", f"{url}/someone/container/x/a"),))
    with (
        answering(lambda _: sent_on) as redirecting,
        pytest.raises(ArtifactError, match="HTTP 307"),
    ):
        put(store(redirecting), "a", b"1")
    assert asked == []


def test_a_signature_is_in_no_message_log_or_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ArtifactError, match=r"sig=\*\*\*.* refused") as told:
        content(by_signature("http://127.0.0.1:9"), "a")
    assert "trying again" in caplog.text
    assert SIGNATURE not in "".join(traceback.format_exception(told.value)) + caplog.text


def test_a_file_whose_name_is_of_credentials_is_asked_for_again_too() -> None:
    with pytest.raises(ArtifactError, match=r"x/credentials\.json") as told:
        content(by_key("http://127.0.0.1:9"), "credentials.json")
    assert isinstance(told.value.__cause__, UnreachableError)
