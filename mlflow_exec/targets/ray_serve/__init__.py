"""Deployments on Ray Serve, by the REST interface of a cluster's dashboard.

Each deployment is an application of its own, which one of two ways leads to: Serve's document of
all applications, or Serve's Python interface by way of a Ray job. Reading is the same for both.

The revisions of a deployment are kept in its ``user_config``: a change of that restarts nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mlflow_exec.clients import ray_embedded
from mlflow_exec.clients.pauses import repeated
from mlflow_exec.clients.ray import PACKAGE_LIMIT_BYTES, find_token, resolve_address
from mlflow_exec.clients.ray_packages import put_package
from mlflow_exec.clients.ray_serve import ServeClient, ask
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import (
    ClusterError,
    ConfigError,
    ConflictError,
    DeploymentNotFoundError,
    UnreachableError,
)
from mlflow_exec.releases import (
    EndpointRelease,
    Release,
    Revision,
    Rollout,
    RolloutState,
    check_name,
)
from mlflow_exec.reports import Finding, Report
from mlflow_exec.settings import RayServeSettings, TargetSettings
from mlflow_exec.targets.base import TOKEN_VARIABLE, Answer, ReleasePlan, Target, not_found
from mlflow_exec.targets.ray_serve.deaths import with_deaths
from mlflow_exec.targets.ray_serve.declarative import DeclarativeWriter
from mlflow_exec.targets.ray_serve.doctor import findings
from mlflow_exec.targets.ray_serve.document import refuse_taken
from mlflow_exec.targets.ray_serve.imperative import ImperativeWriter
from mlflow_exec.targets.ray_serve.plan import TEMPLATE, make_endpoint_plan, make_plan
from mlflow_exec.targets.ray_serve.preflight import check_python, check_room
from mlflow_exec.targets.ray_serve.status import (
    api_of,
    is_ours,
    revisions_in,
    rollout_of,
    submitted,
)
from mlflow_exec.targets.ray_serve.writing import Writer

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_POLL_S = 0.5
# Room in a package for its names.
_PACKAGE_BYTES = PACKAGE_LIMIT_BYTES - 1024 * 1024
_WRITERS = {"declarative": DeclarativeWriter, "imperative": ImperativeWriter}
_SCHEMES = {"ray-serve": "http", "ray-serve+https": "https"}


class RayServeTarget(Target):
    """Deployments on one Ray cluster."""

    template = TEMPLATE

    def __init__(self, settings: TargetSettings, uri: str) -> None:
        """See `TargetFactory`.

        Raises:
            ConfigError: The URI names no dashboard.
        """
        if not isinstance(settings, RayServeSettings):
            raise TypeError(f"RayServeSettings are needed, not {type(settings).__name__}")
        self._settings = settings
        self.address = _address_in(uri)
        self._found: ServeClient | None = None

    # -- where ------------------------------------------------------------------------------

    def shares_this_machine(self) -> bool:
        """See :meth:`~.Target.shares_this_machine`."""
        address, _ = resolve_address(self)
        return address is None or urlsplit(address).hostname in _LOOPBACK

    def package_limit_bytes(self) -> int:
        """See :meth:`~.Target.package_limit_bytes`: of the dashboard's requests."""
        return _PACKAGE_BYTES

    def _client(self, *, start: bool = False) -> ServeClient:
        """Return the client of the cluster.

        Raises:
            UnreachableError: There is none on this machine, and none is named.
        """
        if self._found is None:
            address, _ = resolve_address(self)
            embedded = ray_embedded.start_or_reuse() if start and not address else None
            embedded = embedded or (ray_embedded.status() if not address else None)
            if embedded is None and not address:
                raise UnreachableError(
                    "ray-serve: no Ray is named and none runs on this machine; 'create' starts "
                    "one, -t ray-serve://host:8265 names one"
                )
            self._found = self._client_at(embedded.address if embedded else str(address))
            if embedded is not None:  # it is there; what Serve adds to its dashboard comes later
                repeated(self._found.applications)
        return self._found

    def _client_at(self, address: str) -> ServeClient:
        settings = self._settings
        own = ray_embedded.recorded()
        if own and own.address == address and not settings.token_file:
            return ServeClient(address, token=own.token())
        return ServeClient(
            address,
            token=find_token(settings.token_file),
            ca_cert=settings.ca_cert,
            verify_tls=settings.verify_tls,
        )

    # -- planning ---------------------------------------------------------------------------

    def plan(self, release: Release) -> ReleasePlan:
        """See :meth:`~.Target.plan`."""
        return make_plan(release, self._settings)

    def plan_endpoint(self, release: EndpointRelease) -> ReleasePlan:
        """See :meth:`~.Target.plan_endpoint`."""
        return make_endpoint_plan(release, self._settings)

    def repeat(self, revision: Revision, number: int, applied_at: str) -> ReleasePlan:
        """See :meth:`~.Target.repeat`: its packages are there, or `check` says so."""
        again = replace(
            revision, number=number, applied_at=applied_at, rolled_back_to=revision.number
        )
        return ReleasePlan(again)

    def check(self, plan: ReleasePlan) -> Report:
        """See :meth:`~.Target.check`; starts the Ray of this machine where none is named."""
        client = self._client(start=True)
        client.version()
        application = plan.revision.objects[0]
        refuse_taken(client.applications(), application)
        check_python(application["args"]["python"], plan.revision.model_uri, client)
        warnings = tuple(check_room(application, client))
        for uri in application["runtime_env"].get("py_modules") or ():
            name = str(uri).removeprefix("gcs://")
            missing = str(uri).startswith("gcs://") and name not in plan.data
            if missing and not client.has_package(name):
                raise ConfigError(
                    f"revision {plan.revision.rolled_back_to or plan.revision.number}: Ray has "
                    f"removed its files, which were sent along ({name}); "
                    f"make an update instead"
                )
        return Report(warnings)

    # -- acting -----------------------------------------------------------------------------

    def apply(self, plan: ReleasePlan) -> Revision:
        """See :meth:`~.Target.apply`."""
        client = self._client(start=True)
        for name, content in plan.data.items():
            put_package(client, name, content)
        # Each revision by its own: going back to one leads back to its way, too.
        api = plan.revision.settings.get("api", RayServeSettings.model_fields["api"].default)
        self._writer(client, api).write(plan.revision)
        return plan.revision

    def _writer(self, client: ServeClient, api: str) -> Writer:
        return _WRITERS[api](client, self._settings.revision_limit)

    def delete(self, name: str, *, timeout_s: float = 120) -> None:
        """See :meth:`~.Target.delete`."""
        check_name(name)
        try:
            client = self._client()
        except UnreachableError:
            if self._found is None:  # none is named and none runs, so nothing is there
                return
            raise
        end_s = time.monotonic() + timeout_s
        while True:
            here = (client.applications().get("applications") or {}).get(name)
            if here is None:
                return
            if here.get("status") != "DELETING":
                if not is_ours(here):
                    raise ConflictError(
                        f"delete: application {name!r} of this Serve is not of mlflow-exec"
                    )
                self._writer(client, api_of(here)).remove(name)
            if time.monotonic() > end_s:
                raise ClusterError(
                    f"delete: application {name!r} is still {here.get('status')} after "
                    f"{timeout_s:g} s: {here.get('message') or 'Serve does not say why'}"
                )
            time.sleep(_POLL_S)

    # -- reading ----------------------------------------------------------------------------

    def _details(self) -> Mapping[str, Any]:
        try:
            return self._client().applications()
        except UnreachableError:
            if self._found is None:  # no Ray, so nothing is deployed
                return {}
            raise

    def get(self, name: str) -> Rollout:
        """See :meth:`~.Target.get`."""
        check_name(name)
        details = self._details()
        application = (details.get("applications") or {}).get(name)
        if application is None or not is_ours(application):
            raise not_found(name, self._where())
        rollout = rollout_of(name, application, self._url(details, application))
        return with_deaths(self._client(), rollout)

    def rollouts(self) -> Iterator[Rollout]:
        """See :meth:`~.Target.rollouts`."""
        details = self._details()
        for name, application in (details.get("applications") or {}).items():
            if is_ours(application):
                yield rollout_of(name, application, self._url(details, application))

    def revisions(self, name: str) -> list[Revision]:
        """See :meth:`~.Target.revisions`."""
        rollout = self.get(name)
        return revisions_in(submitted(rollout.native))

    def request(
        self,
        name: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float = 60,
    ) -> Answer:
        """See :meth:`~.Target.request`: to the proxy on the machine of the dashboard.

        Where a replica is gone before it has answered, another one is asked. So a request may reach
        two of them.
        """
        rollout = self.get(name)
        if rollout.url is None or rollout.state is RolloutState.DELETING:
            raise DeploymentNotFoundError(f"{name}: Serve tells no address for it")
        sent = dict(headers)
        if os.environ.get(TOKEN_VARIABLE):  # only the cluster's nodes have what 'token' names
            token = Secret.from_environment(TOKEN_VARIABLE).reveal()
            sent["Authorization"] = f"Bearer {token}"
        return Answer(*ask(rollout.url + path, body, sent, verify=True, timeout_s=timeout_s))

    def _url(self, details: Mapping[str, Any], application: Mapping[str, Any]) -> str | None:
        options = details.get("http_options") or {}
        port, route = options.get("port"), application.get("route_prefix")
        if not port or route is None:
            return None
        host = urlsplit(self._client().address).hostname or ""
        root = str(options.get("root_path") or "").rstrip("/")
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{root}{route.rstrip('/')}"

    def _where(self) -> str:
        return f"ray-serve {self._found.address}" if self._found else "ray-serve"

    def diagnose(self) -> Iterator[Finding]:
        """See :meth:`~.Target.diagnose`; starts no Ray on this machine."""
        try:
            client = self._client()
        except UnreachableError:
            text = "none is named; the first deployment starts a Ray on this machine"
            yield Finding(True, "cluster", text)
            return
        yield from findings(client)


def _address_in(uri: str) -> str | None:
    """Return the dashboard's address that a target URI names; None if it names none."""
    if uri == "ray-serve":
        return None
    parts = urlsplit(uri)
    if parts.scheme not in _SCHEMES or not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(
            f"target: {uri!r}: 'ray-serve', 'ray-serve://host:8265' or "
            f"'ray-serve+https://host:8265' is needed"
        )
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, parts.path.rstrip("/"), "", ""))
