"""TLS to the services of clouds: whom they trust, and what is said where they do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import huggingface_hub
import pytest
from huggingface_hub.utils import _http

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError, RejectedError
from mlflow_exec.storage.base import Store
from mlflow_exec.storage.gcs import GcsStore
from mlflow_exec.storage.huggingface import HfStore
from mlflow_exec.storage.huggingface_buckets import HfBucketStore
from mlflow_exec.storage.objects_azure import AzureStore
from mlflow_exec.storage.oci import OciStore
from mlflow_exec.storage.oss import OssStore
from mlflow_exec.uris import Location
from tests import gcs_server, hf_bucket_server, hf_server, oci_server, oss_server
from tests.cloud_server import CloudServer, serving
from tests.forwarding_server import ForwardingServer
from tests.object_servers import ACCOUNT, ACCOUNT_KEY, BUCKET, ObjectServer, azurite
from tests.unit.tls_relay import Authority, TlsRelay


def credential(**fields: str) -> Credential:
    return Credential("the test", {n: Secret.of(value, "the test") for n, value in fields.items()})


def oss(url: str, _: CloudServer) -> Store:
    given = credential(
        endpoint=url, region=oss_server.REGION, key_id=oss_server.KEY_ID,
        key_secret=oss_server.KEY_SECRET, session_token=oss_server.TOKEN,
    )  # fmt: skip
    return OssStore(Location.parse("oss://artifacts/x"), given)


def gcs(url: str, _: CloudServer) -> Store:
    given = credential(endpoint=url, token=gcs_server.TOKEN)
    return GcsStore(Location.parse("fsspec+gs://artifacts/x"), given)


def oci(url: str, server: CloudServer) -> Store:
    assert isinstance(server, oci_server.OciServer)
    given = credential(
        endpoint=url, region="eu-frankfurt-1", user=oci_server.USER, account=oci_server.TENANCY,
        key_id=oci_server.FINGERPRINT, private_key=server.key,
    )  # fmt: skip
    return OciStore(Location.parse("oci://artifacts@acme/x"), given)


def hf(url: str, _: CloudServer) -> Store:
    given = credential(endpoint=url, token=hf_server.TOKEN)
    return HfStore(Location.parse("hf://datasets/team/artifacts/x"), given)


def hf_buckets(url: str, _: CloudServer) -> Store:
    given = credential(endpoint=url, token=hf_server.TOKEN)
    return HfBucketStore(Location.parse("hf://buckets/team/bucket/x"), given)


def azure(url: str, _: CloudServer) -> Store:
    place = f"BlobEndpoint={url}/{ACCOUNT};AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY}"
    given = credential(connection_string=place)
    return AzureStore(Location.parse(f"fsspec+abfs://{BUCKET}/x"), given)


@pytest.fixture(scope="module")
def real_azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with azurite(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("tls") / "ca", "127.0.0.1")


@pytest.fixture(
    params=[
        (azure, None, "REQUESTS_CA_BUNDLE"),
        (gcs, gcs_server.GcsServer, "REQUESTS_CA_BUNDLE"),
        (oss, oss_server.OssServer, "REQUESTS_CA_BUNDLE"),
        (oci, oci_server.OciServer, "REQUESTS_CA_BUNDLE"),
        (hf, hf_server.HfServer, "SSL_CERT_FILE"),
        (hf_buckets, hf_bucket_server.HfBucketServer, "SSL_CERT_FILE"),
    ],
    ids=["azure", "gcs", "oss", "oci", "hf", "hf buckets"],
)
def opened(
    request: pytest.FixtureRequest, authority: Authority
) -> Iterator[tuple[Callable[[], Store], str]]:
    """What opens a store by TLS, and the variable by which its client is told whom to trust."""
    make, kind, variable = request.param
    if kind is None:
        server: CloudServer = ForwardingServer(request.getfixturevalue("real_azure").url)
    else:
        server = kind()
    with serving(server):
        relay = TlsRelay("127.0.0.1", server.server_port, authority)
        yield lambda: make(f"https://127.0.0.1:{relay.port}", server), variable
        relay.close()


def test_an_authority_that_is_not_known_is_one_sentence_with_a_way_on(
    opened: tuple[Callable[[], Store], str],
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, variable = opened
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    monkeypatch.setitem(_http.http_backoff.__kwdefaults__, "base_wait_time", 0.01)
    with pytest.raises(ArtifactError, match=rf"certificate is not accepted: .*{variable}") as told:
        make().entries("")
    assert "\n" not in str(told.value)
    assert isinstance(told.value.__cause__, RejectedError), "it is not tried again"
    monkeypatch.setenv(variable, authority.ca_cert)
    huggingface_hub.close_session()  # as in another process
    assert make().entries("") == []
    huggingface_hub.close_session()
