"""Deployments on Ray Serve, by the REST interface of a cluster's dashboard.

Each deployment is an application of its own. Serve keeps one document of all applications, so each
write reads it, changes one entry, writes it back, and looks whether that is what stands there; on
one machine the writers take turns by a lock, and among machines who lost repeats it.

The revisions of a deployment are kept in its ``user_config``: a change of that restarts nothing.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mlflow_exec.clients import ray_embedded
from mlflow_exec.clients.ports import free_port
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
from mlflow_exec.targets.ray_serve.doctor import findings
from mlflow_exec.targets.ray_serve.document import (
    declared,
    in_the_making,
    with_application,
    without_application,
)
from mlflow_exec.targets.ray_serve.plan import TEMPLATE, make_endpoint_plan, make_plan
from mlflow_exec.targets.ray_serve.status import is_ours, revisions_in, rollout_of, user_config
from mlflow_exec.targets.ray_serve.turns import turn

_LOG = logging.getLogger(__name__)

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TRIES = 5
_POLL_S = 0.5
# So long a write waits for another application's environment and code; then that begins anew.
_BUILDING_S = 300.0
# Room in a package for its names.
_PACKAGE_BYTES = PACKAGE_LIMIT_BYTES - 1024 * 1024
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
        with_application(client.applications(), application, {})
        needed, there = application["args"]["python"], client.python_version()
        if needed and there and needed != there:
            raise ConfigError(
                f"model_uri: {plan.revision.model_uri} was logged with Python {needed}, and the "
                f"cluster {client.address} runs {there}; deploy it to a cluster with {needed}, or "
                f"accept another Python by 'any_python'"
            )
        for uri in application["runtime_env"].get("py_modules") or ():
            name = str(uri).removeprefix("gcs://")
            missing = str(uri).startswith("gcs://") and name not in plan.data
            if missing and not client.has_package(name):
                raise ConfigError(
                    f"revision {plan.revision.rolled_back_to or plan.revision.number}: Ray has "
                    f"removed its files, which were sent along ({name}); "
                    f"make an update instead"
                )
        return Report()

    # -- acting -----------------------------------------------------------------------------

    def apply(self, plan: ReleasePlan) -> Revision:
        """See :meth:`~.Target.apply`."""
        client = self._client(start=True)
        for name, content in plan.data.items():
            put_package(client, name, content)
        self._write(client, plan.revision)
        return plan.revision

    def _write(self, client: ServeClient, revision: Revision) -> None:
        def change(details: Mapping[str, Any]) -> dict[str, Any] | None:
            ours = self._application(details, revision)
            stands = declared(details).get(revision.name)
            # Not as a whole: an older Ray keeps only the keys that it knows.
            if stands and user_config(stands).get("revision") == revision.to_data():
                _tell_unknown(client, ours, stands)
                return None
            return with_application(details, ours, self._start_options(client))

        self._change(client, revision.name, change)

    def _application(self, details: Mapping[str, Any], revision: Revision) -> dict[str, Any]:
        """Return the application to send: the planned one, with the revisions so far."""
        here = (details.get("applications") or {}).get(revision.name)
        if here is not None and not is_ours(here) and here.get("status") != "DELETING":
            raise ConflictError(
                f"name: Serve has an application {revision.name!r} that is not of mlflow-exec; "
                f"choose another name"
            )
        before = declared(details).get(revision.name)
        history = list(user_config(before).get("history") or ()) if before else []
        kept = revisions_in(before) if before else []
        newest = kept[-1] if kept else None
        if newest is not None and newest.number < revision.number:
            history.append(newest.to_data())
        elif newest is not None and newest.to_data() != revision.to_data():
            raise ConflictError(
                f"{revision.name}: somebody else has applied revision {newest.number} meanwhile; "
                f"look at it by 'mlflow deployments get', then apply yours again"
            )
        application: dict[str, Any] = dict(revision.objects[0])
        others = max(self._settings.revision_limit - 1, 1)  # one at least to go back to
        config = {"revision": revision.to_data(), "history": history[-others:]}
        application["deployments"] = [{**application["deployments"][0], "user_config": config}]
        return application

    def _change(
        self,
        client: ServeClient,
        name: str,
        change: Callable[[Mapping[str, Any]], dict[str, Any] | None],
    ) -> None:
        """Write a changed document until what is wanted stands there, which ``change`` tells."""
        for attempt in range(_TRIES):
            with turn(client.address):
                details = client.applications()
                if change(details) is None:
                    return
                document = change(_settled(client, name, details))
                if document is not None:
                    client.put_applications(document)
            # Another machine may have read before this was written, and writes what it read.
            time.sleep(random.uniform(0.3, 0.6) * (attempt + 1))
        raise ConflictError(
            f"Ray {client.address}: others change Serve's applications all the time; "
            f"{_TRIES} tries were overwritten; try again"
        )

    @staticmethod
    def _start_options(client: ServeClient) -> dict[str, Any]:
        """Return the options of a Serve that is started by us.

        On the Ray of this machine nobody else is let in; a cluster's has Ray's own defaults.
        """
        own = ray_embedded.recorded()
        if own is None or own.address != client.address:
            return {}
        options = {"host": "127.0.0.1", "port": free_port()}
        return {"proxy_location": "HeadOnly", "http_options": options}

    def delete(self, name: str, *, timeout_s: float = 120) -> None:
        """See :meth:`~.Target.delete`."""
        check_name(name)
        try:
            client = self._client()
        except UnreachableError:  # none is named and none runs, so nothing is there
            return
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
                self._change(client, name, lambda details: _without(details, name))
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
        return revisions_in(rollout.native.get("deployed_app_config") or {})

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


def _settled(client: ServeClient, name: str, details: dict[str, Any]) -> dict[str, Any]:
    """Return the document, once Serve builds no other application, or it takes too long."""
    end_s = time.monotonic() + _BUILDING_S
    told: list[str] = []
    while (others := in_the_making(details, name)) and time.monotonic() < end_s:
        if others != told:
            told = others
            _LOG.info("waiting until Serve has built %s", ", ".join(others))
        time.sleep(_POLL_S)
        details = client.applications()
    return details


def _tell_unknown(client: ServeClient, sent: Mapping[str, Any], stands: Mapping[str, Any]) -> None:
    """Tell what this Ray has passed over of an application."""
    (ours,), (theirs,) = sent["deployments"], stands["deployments"]
    unknown = sorted((set(sent) - set(stands)) | (set(ours) - set(theirs)))
    if unknown:
        _LOG.warning(
            "Ray %s does not know %s of the application, and passes over it%s", client.address,
            ", ".join(unknown),
            ": old replicas go before new ones come" if "max_surge_percent" in unknown else "",
        )  # fmt: skip


def _without(details: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    return without_application(details, name) if name in declared(details) else None


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
