"""Artifacts in Oracle Cloud, by its SDK, against a server of the tests: no account was had."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential, find_credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError, ArtifactNotFoundError, CredentialError
from mlflow_exec.storage.oci import OciStore
from mlflow_exec.testing.stores import StoreConformance, Stored, content, put
from mlflow_exec.uris import Location
from tests.cloud_server import serving
from tests.conformance.bucket_faults import (
    Bucket,
    ComparingFaults,
    assert_pages_are_listed_and_deleted,
)
from tests.oci_server import BUCKET, FINGERPRINT, NAMESPACE, TENANCY, USER, OciServer

REGION = "eu-frankfurt-1"


@pytest.fixture(scope="module")
def server() -> Iterator[OciServer]:
    with serving(server := OciServer()):
        yield server
    server.objects.clear()


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are neither variables nor files of this machine's user."""
    monkeypatch.setenv("HOME", str(tmp_path))


def store_at(server: OciServer, name: str, bucket: str = BUCKET, **changed: str) -> OciStore:
    fields = {
        "endpoint": server.url, "region": REGION, "user": USER, "account": TENANCY,
        "key_id": FINGERPRINT, "private_key": server.key, **changed,
    }  # fmt: skip
    secrets = {n: Secret.of(value, "the test") for n, value in fields.items() if value}
    location = Location.parse(f"oci://{bucket}@{NAMESPACE}/{name}")
    return OciStore(location, Credential("the test", secrets))


def by_environment(server: OciServer, name: str) -> OciStore:
    location = Location.parse(f"oci://{BUCKET}@{NAMESPACE}/{name}")
    return OciStore(location, find_credential(location))


class TestOci(StoreConformance):
    @pytest.fixture
    def stored(self, server: OciServer) -> Stored:
        return Stored(lambda name: store_at(server, name), has_folders=False)


class TestFaults(ComparingFaults):
    @pytest.fixture
    def bucket(self, server: OciServer) -> Bucket:
        asked = {
            "part": ("PUT", "uploadPartNum=2"), "end": ("POST", "uploadId="),
            "put": ("PUT", "/o/faults.+small"),
            "get large": ("GET", "/o/faults.+large"), "get small": ("GET", "/o/faults.+small"),
            "list": ("GET", r"o\?prefix"), "delete": ("POST", "batchDelete"),
        }  # fmt: skip
        return Bucket(
            server, lambda name: store_at(server, name), asked,
            lambda: server.uploads, r"400 UnmatchedContentCRC32C.*request fra-1:5C3D",
        )  # fmt: skip


def test_what_others_have_put_is_compared_by_its_md5(server: OciServer) -> None:
    store = store_at(server, "others")
    put(store, "a", b"some content")
    kept = server.objects["others/a"]
    object.__setattr__(kept, "crc", "")
    assert content(store, "a") == b"some content"
    object.__setattr__(kept, "md5", base64.b64encode(b"0" * 16).decode())
    with pytest.raises(ArtifactError, match="what came is not what is kept"):
        content(store, "a")
    store.delete("")


def test_more_than_fit_on_a_page_are_listed_and_deleted(server: OciServer) -> None:
    assert_pages_are_listed_and_deleted(store_at(server, "pages"), lambda: server.objects)


def test_a_wrong_key_is_one_sentence_without_it(server: OciServer) -> None:
    other = OciServer()
    other.server_close()
    for changed in ({"private_key": other.key}, {"user": "ocid1.user.oc1..bbbb"}):
        with pytest.raises(ArtifactError, match=r"401 NotAuthenticated.*from the test") as error:
            store_at(server, "x", **changed).entries("")
        assert "\n" not in str(error.value)
        assert "PRIVATE KEY" not in str(error.value)


def test_a_bucket_that_is_not_there(server: OciServer) -> None:
    store = store_at(server, "x", bucket="none")
    for action in (lambda: put(store, "a", b"1"), lambda: store.entries("")):
        with pytest.raises(ArtifactNotFoundError, match=r"'none' of namespace 'acme'.*BucketNotF"):
            action()


def test_a_server_that_is_not_there(server: OciServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    with pytest.raises(ArtifactError, match=r"no answer.*refused"):
        store_at(server, "x", endpoint="http://127.0.0.1:9").entries("")


# -- identities -----------------------------------------------------------------------------------


def test_oracles_configuration_file_and_its_profiles(
    server: OciServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.pem").write_text(server.key)
    (tmp_path / "key.pem").chmod(0o600)
    profile = (
        f"user={USER}\ntenancy={TENANCY}\nfingerprint={FINGERPRINT}\nregion={REGION}\n"
        f"key_file={tmp_path}/key.pem\n"
    )
    (tmp_path / ".oci").mkdir()
    (tmp_path / ".oci/config").write_text(f"[DEFAULT]\n{profile}")
    (tmp_path / "other").write_text(f"[TEAM]\n{profile}")
    monkeypatch.setenv("OCI_CLI_ENDPOINT", server.url)
    by_environment(server, "x").entries("")
    monkeypatch.setenv("OCI_CLI_CONFIG_FILE", str(tmp_path / "other"))
    monkeypatch.setenv("OCI_CLI_PROFILE", "TEAM")
    by_environment(server, "y").entries("")


def token_for(key_ids: list[str], **claims: object) -> str:
    """Return a token that the server takes, as Oracle's services give them; they alone read it."""
    told = {"exp": time.time() + 3600, "res_tenant": TENANCY, "res_compartment": TENANCY, **claims}
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, told)] + [b"signature"]
    token = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    key_ids.append(f"ST${token}")
    return token


def test_a_session_token_of_oracles_command_line(
    server: OciServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.pem").write_text(server.key)
    (tmp_path / "token").write_text(token_for(server.key_ids))
    (tmp_path / "config").write_text(
        f"[DEFAULT]\ntenancy={TENANCY}\nfingerprint={FINGERPRINT}\nregion={REGION}\n"
        f"key_file={tmp_path}/key.pem\nsecurity_token_file={tmp_path}/token\n"
    )
    monkeypatch.setenv("OCI_CLI_ENDPOINT", server.url)
    monkeypatch.setenv("OCI_CLI_CONFIG_FILE", str(tmp_path / "config"))
    by_environment(server, "x").entries("")


def test_a_resource_is_who_it_is(
    server: OciServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = token_for(server.key_ids, sub="ocid1.datasciencejobrun.oc1..aaaa")
    for name, value in {
        "OCIFS_IAM_TYPE": "resource_principal", "OCI_CLI_ENDPOINT": server.url,
        "OCI_RESOURCE_PRINCIPAL_VERSION": "2.2", "OCI_RESOURCE_PRINCIPAL_RPST": token,
        "OCI_RESOURCE_PRINCIPAL_PRIVATE_PEM": server.key, "OCI_RESOURCE_PRINCIPAL_REGION": REGION,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store = by_environment(server, "resource")
    put(store, "a", b"1")
    assert content(store, "a") == b"1"
    store.delete("")


@pytest.mark.parametrize(
    ("kind", "told"),
    [("", "Could not find config file"), ("api_key", "Could not find config file"),
     ("resource_principal", "OCI_RESOURCE_PRINCIPAL_VERSION"), ("nonsense", "no kind"),
     ("delegation_token", "delegation.jwt")],
)  # fmt: skip
def test_no_identity_is_one_sentence(
    server: OciServer, kind: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCIFS_IAM_TYPE", kind)
    with pytest.raises(CredentialError, match=f"no identity at Oracle Cloud: .*{told}") as error:
        by_environment(server, "x")
    assert "\n" not in str(error.value)
