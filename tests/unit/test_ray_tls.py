"""Jobs on a real Ray whose dashboard is reached by TLS."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlflow_exec.clients.ray import RayClient, find_token
from mlflow_exec.errors import AccessDeniedError, ConfigError, RejectedError
from mlflow_exec.jobs import JobHandle, JobState
from mlflow_exec.schedulers.ray import RayScheduler
from mlflow_exec.schedulers.ray.place import address_of
from mlflow_exec.settings import RaySettings
from mlflow_exec.testing.collecting import Collected
from mlflow_exec.testing.jobs import WAIT, JobMaker
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.pytest_ray import RayCluster
from tests.unit.ray_jobs import is_in, ray_jobs
from tests.unit.tcp_link import TcpLink
from tests.unit.tls_relay import Authority, TlsRelay

# Not a loopback address for requests, which looks for nothing in the environment for those.
FOREIGN = "127.0.0.2"

# urllib3 tells the user, once in a process, what was asked for.
insecure = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")


@dataclass(frozen=True)
class Encrypted:
    """The dashboard by TLS, and the file with the authority of its certificate."""

    relay: TlsRelay
    foreign: TlsRelay
    ca_cert: str

    @property
    def address(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self.relay.port}"

    @property
    def foreign_address(self) -> str:
        """Its address that is not taken for this machine's own."""
        return f"https://{FOREIGN}:{self.foreign.port}"


@pytest.fixture(scope="module")
def encrypted(
    ray_cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Encrypted]:
    parts = urlsplit(ray_cluster.address)
    if parts.scheme != "http":
        unavailable("this Ray has a certificate of its own")
    folder = tmp_path_factory.mktemp("tls") / "certificates"
    authority = Authority.make(folder, "127.0.0.1", FOREIGN)
    target = (parts.hostname or "", parts.port or 80)
    made = Encrypted(
        TlsRelay(*target, authority),
        TlsRelay(*target, authority, at=FOREIGN),
        authority.ca_cert,
    )
    yield made
    made.relay.close()
    made.foreign.close()


@pytest.fixture
def jobs(ray_cluster: RayCluster, encrypted: Encrypted, tmp_path: Path) -> Iterator[JobMaker]:
    trusted = {"address": encrypted.address, "ca_cert": encrypted.ca_cert}
    with ray_jobs(ray_cluster, tmp_path, **trusted) as maker:
        yield maker


@pytest.fixture
def plain(ray_cluster: RayCluster) -> RayClient:
    """The same dashboard without TLS."""
    return RayClient(ray_cluster.address, token=find_token(ray_cluster.token_file))


def refused_submission(jobs: JobMaker, plain: RayClient, **settings: Any) -> str:
    """Return the error of a submission by these settings, by which nothing was submitted."""
    program = f"# {uuid.uuid4()}"  # no other test's package
    scheduler, plan = jobs.plan(jobs.spec(program, **settings))
    with pytest.raises(RejectedError) as refused:
        scheduler.submit(plan)
    assert plain.job(plan.spec.name) is None
    assert not plain.has_package(next(iter(plan.data)))
    return str(refused.value)


# -- a certificate that is trusted ----------------------------------------------------------


def test_a_job_is_submitted_and_followed_to_its_end(jobs: JobMaker, encrypted: Encrypted) -> None:
    job = jobs.submit("for number in range(1000): print('encrypted', number, flush=True)")
    assert address_of(job.handle) == encrypted.address
    followed = "".join(job.follow().all())
    assert job.ends().state is JobState.SUCCEEDED
    numbers = [line for line in followed.splitlines() if line.startswith("encrypted ")]
    assert numbers == [f"encrypted {number}" for number in range(1000)]
    assert followed == job.log()


def test_another_process_finds_the_job_by_the_handle_alone(
    jobs: JobMaker, ray_cluster: RayCluster, encrypted: Encrypted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    job = jobs.submit(WAIT)
    job.says("it waits")
    handle = JobHandle.parse(str(job.handle), job.handle.uid)
    assert handle == job.handle
    settings = RaySettings(ca_cert=encrypted.ca_cert, token_file=ray_cluster.token_file)
    other = RayScheduler(settings)
    assert other.status(handle).state is JobState.RUNNING
    assert "it waits" in "".join(other.logs(handle))
    other.cancel(handle)
    assert job.ends().state is JobState.CANCELLED


def test_the_same_cluster_by_plain_http_knows_the_job_of_an_encrypted_handle(
    jobs: JobMaker, ray_cluster: RayCluster
) -> None:
    job = jobs.submit("print('found')")
    job.ends()
    inside = RayScheduler(RaySettings(**ray_cluster.settings()))
    assert inside.status(job.handle).state is JobState.SUCCEEDED
    assert "found" in "".join(inside.logs(job.handle))


def test_a_wrong_token_is_said_to_be_that(encrypted: Encrypted, ray_cluster: RayCluster) -> None:
    if ray_cluster.token_file is None:
        unavailable("this Ray asks for no token")
    client = RayClient(encrypted.address, token="wrong", ca_cert=encrypted.ca_cert)
    with pytest.raises(AccessDeniedError, match="give the cluster's token by 'token_file'"):
        client.version()


def test_a_watch_goes_on_after_the_encrypted_connection_broke(
    jobs: JobMaker, encrypted: Encrypted
) -> None:
    link = TcpLink("127.0.0.1", encrypted.relay.port)
    job = jobs.submit(WAIT)
    by_link = RayScheduler(jobs.settings({"address": f"https://127.0.0.1:{link.port}"}))
    seen = Collected(status for _, status in by_link.watch([job.handle]))
    seen.until(is_in(JobState.RUNNING), "running")
    link.cut()  # from now on a connection ends amid the greeting of TLS
    seen.until(is_in(JobState.UNKNOWN), "unknown while it is away")
    link.mend()
    seen.until(is_in(JobState.RUNNING), "running again")
    job.scheduler.cancel(job.handle)
    assert is_in(JobState.CANCELLED)(seen.all())
    link.close()


# -- one that is not ------------------------------------------------------------------------


def test_without_the_authority_the_error_names_the_settings_and_nothing_is_submitted(
    jobs: JobMaker, plain: RayClient, encrypted: Encrypted
) -> None:
    error = refused_submission(jobs, plain, ca_cert=None)
    assert error == (
        f"Ray {encrypted.address}: GET /api/version: the certificate is not accepted: unable to "
        f"get local issuer certificate; set 'ca_cert' to a file with its authority, or "
        f"'verify_tls' to false to accept any"
    )


def test_the_certificate_of_another_host_is_not_accepted(
    jobs: JobMaker, plain: RayClient, encrypted: Encrypted
) -> None:
    address = f"https://localhost:{encrypted.relay.port}"
    error = refused_submission(jobs, plain, address=address)
    assert "the certificate is not accepted: Hostname mismatch" in error
    assert "'verify_tls'" in error


@insecure
def test_any_certificate_is_accepted_where_none_is_to_be_verified(jobs: JobMaker) -> None:
    job = jobs.submit("print('unverified')", ca_cert=None, verify_tls=False)
    assert "unverified" in "".join(job.follow().all())
    assert job.ends().state is JobState.SUCCEEDED


@insecure
@pytest.mark.parametrize("chosen", ["ca_cert", "verify_tls"])
def test_the_settings_win_over_the_authorities_of_the_environment(
    chosen: str,
    jobs: JobMaker,
    plain: RayClient,
    encrypted: Encrypted,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", Authority.make(tmp_path / "other").ca_cert)
    address = encrypted.foreign_address
    assert "'ca_cert'" in refused_submission(jobs, plain, address=address, ca_cert=None)
    settings = {"ca_cert": {}, "verify_tls": {"ca_cert": None, "verify_tls": False}}[chosen]
    assert jobs.submit("", address=address, **settings).ends().state is JobState.SUCCEEDED


def test_a_file_without_an_authority_is_refused_by_its_name(
    jobs: JobMaker, encrypted: Encrypted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for wrong in (tmp_path / "missing.pem", Path(encrypted.ca_cert).with_name("ca.key")):
        scheduler, plan = jobs.plan(jobs.spec("", ca_cert=str(wrong)))
        with pytest.raises(ConfigError, match=rf"^ca_cert: '{wrong}' is no PEM file"):
            scheduler.check(plan)
    (tmp_path / "ca.pem").write_bytes(Path(encrypted.ca_cert).read_bytes())
    scheduler, plan = jobs.plan(jobs.spec("", ca_cert="~/ca.pem"))
    assert scheduler.check(plan).warnings == ()


def test_https_where_plain_http_is_spoken_is_said_to_be_that(
    jobs: JobMaker, plain: RayClient
) -> None:
    error = refused_submission(jobs, plain, address=plain.address.replace("http:", "https:"))
    assert "no TLS connection can be made" in error
    assert "its address begins with http://" in error
    assert "certificate" not in error
