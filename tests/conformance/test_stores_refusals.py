"""What is missing or wrong is said in one sentence, by each store."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.errors import CredentialError, MissingExtraError, MlflowExecError
from mlflow_exec.schemes import SCHEMES, Authority, Scheme
from mlflow_exec.storage.opening import open_store
from tests.databases import PASSWORD, USER
from tests.file_servers import apache
from tests.object_servers import BUCKET, ObjectServer, gofakes3
from tests.unit.tls_relay import Authority as CertificateAuthority
from tests.unit.tls_relay import TlsRelay

NEEDS = {
    "azure": "azure", "ftp": "fsspec", "gcs": "crc32c", "s3": "botocore", "sftp": "asyncssh",
    "smb": "smbclient",
}  # fmt: skip


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.3)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority.make(tmp_path_factory.mktemp("tls") / "ca", "127.0.0.1")


def refusal(uri: str) -> str:
    """Return what is said of a first upload."""
    with pytest.raises(MlflowExecError) as told:
        open_store(uri).put("a", io.BytesIO(b"1"))
    said = str(told.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES if s.extra in NEEDS], ids=lambda scheme: scheme.name
)
def test_a_missing_extra_is_named_with_its_command(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == NEEDS[scheme.extra]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, scheme.store.partition(":")[0], raising=False)
    monkeypatch.setitem(sys.modules, NEEDS[scheme.extra], None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'mlflow-exec\[{scheme.extra}\]'"):
        open_store(scheme.example)


@pytest.mark.parametrize(
    "scheme",
    [s for s in SCHEMES if s.authority is Authority.HOST and s.environment],
    ids=lambda scheme: scheme.name,
)
def test_a_credential_is_not_sent_to_another_host(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    for field, variables in scheme.environment:
        monkeypatch.setenv(variables[0], "other.example" if field == "hosts" else "a-secret")
    with pytest.raises(CredentialError, match=r"is for other\.example"):
        open_store(scheme.example)


def test_a_certificate_that_nobody_vouches_for_is_not_accepted_by_webdav(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for field, value in (("HOST", "127.0.0.1"), ("USER", USER), ("PASSWORD", PASSWORD)):
        monkeypatch.setenv(f"MLFLOW_EXEC_WEBDAV_{field}", value)
    with apache() as server:
        relay = TlsRelay("127.0.0.1", server.port, authority)
        uri = f"webdavs://127.0.0.1:{relay.port}/tls"
        assert "set REQUESTS_CA_BUNDLE to a file with its authority" in refusal(uri)
        plain = f"webdavs://127.0.0.1:{server.port}/tls"
        assert "the scheme of the URI says whether it speaks TLS" in refusal(plain)
        relay.close()


def test_a_certificate_that_is_vouched_for_is_accepted_by_webdav(
    authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca_cert)
    for field, value in (("HOST", "127.0.0.1"), ("USER", USER), ("PASSWORD", PASSWORD)):
        monkeypatch.setenv(f"MLFLOW_EXEC_WEBDAV_{field}", value)
    with apache() as server:
        relay = TlsRelay("127.0.0.1", server.port, authority)
        store = open_store(f"webdavs://127.0.0.1:{relay.port}/tls")
        store.put("d/a", io.BytesIO(b"1"))
        assert b"".join(store.read("d/a")) == b"1"
        relay.close()


def test_a_token_that_no_header_can_have_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXEC_WEBDAV_HOST", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_EXEC_WEBDAV_TOKEN", "abc\nInjected: header")
    said = refusal("webdav://127.0.0.1:9/x")
    assert "MLFLOW_EXEC_WEBDAV_TOKEN is none: there are characters in it" in said
    assert "Injected" not in said


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with gofakes3(tmp_path_factory.mktemp("s3")) as server:
        yield server


def signed_in_to_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_a_certificate_that_nobody_vouches_for_is_not_accepted_by_s3(
    authority: CertificateAuthority, s3: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = TlsRelay("127.0.0.1", s3.port, authority)
    signed_in_to_s3(monkeypatch, f"https://127.0.0.1:{relay.port}")
    said = refusal(f"fsspec+s3://{BUCKET}/tls")
    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert "AWS_CA_BUNDLE names a file" in said
    relay.close()


def test_s3_without_any_credential(
    s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in_to_s3(monkeypatch, s3.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    said = refusal(f"fsspec+s3://{BUCKET}/x")
    assert "Unable to locate credentials; asked with the credential from" in said
