"""Deployments on Kubernetes: their head, a Service, and what belongs to them, in one namespace.

Applied on the server's side by the field manager ``mlflow-exec``. The revisions are ConfigMaps that
the head owns, as it owns everything else, so that nothing outlives it. `kinds` says what it can be.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from mlflow_exec.clients import kubernetes as api
from mlflow_exec.clients import kubernetes_config as ways
from mlflow_exec.clients.kubernetes_doctor import findings
from mlflow_exec.clients.kubernetes_proxy import ask_service
from mlflow_exec.errors import AccessDeniedError, ConfigError, NotFoundError, RejectedError
from mlflow_exec.releases import EndpointRelease, Release, Revision, Rollout, check_name
from mlflow_exec.reports import Finding, Report
from mlflow_exec.settings import KubernetesTargetSettings, TargetSettings
from mlflow_exec.targets.base import TOKEN_VARIABLE, Answer, ReleasePlan, Target, not_found
from mlflow_exec.targets.kubernetes.applying import Application
from mlflow_exec.targets.kubernetes.kinds import DEPLOYMENT, kind_of
from mlflow_exec.targets.kubernetes.kserve import service_rollout
from mlflow_exec.targets.kubernetes.objects import (
    APPS,
    find_head,
    heads,
    largest_request_bytes,
    listed,
    number_of,
    records,
    selector,
)
from mlflow_exec.targets.kubernetes.plan import (
    LABEL_DEPLOYMENT,
    PACKAGE_BYTES,
    make_endpoint_plan,
    make_plan,
    repeated,
)
from mlflow_exec.targets.kubernetes.preflight import RIGHTS, ROLE, check, optional_rights
from mlflow_exec.targets.kubernetes.removal import remove
from mlflow_exec.targets.kubernetes.routers import PATIENCE_S, tell_routers, with_routes
from mlflow_exec.targets.kubernetes.status import rollout_of

Json = Mapping[str, Any]

_SCHEME = "k8s"
_TOKEN_VOLUME = "mlflow-exec-token"
# The API server keeps the usual header for itself.
TOKEN_HEADER = "X-Mlflow-Exec-Token"


class KubernetesTarget(Target):
    """Deployments in one namespace of a Kubernetes cluster."""

    template = DEPLOYMENT.template

    def __init__(self, settings: TargetSettings, uri: str) -> None:
        """See `TargetFactory`.

        Raises:
            ConfigError: The URI is none of the forms that are known.
        """
        if not isinstance(settings, KubernetesTargetSettings):
            raise TypeError(f"KubernetesTargetSettings are needed, not {type(settings).__name__}")
        self._settings = settings
        self._context, self._named_namespace = _place_in(uri)
        self._found: api.KubernetesClient | None = None
        self._tokens: dict[str, str] = {}
        self._unreachable: set[str] = set()
        self._patient_until_s: dict[str, float] = {}
        self._limits: dict[str, int | None] = {}

    # -- where ------------------------------------------------------------------------------

    def shares_this_machine(self) -> bool:
        """See :meth:`~.Target.shares_this_machine`: pods have file systems of their own."""
        return False

    def package_limit_bytes(self) -> int:
        """See :meth:`~.Target.package_limit_bytes`: what a ConfigMap holds."""
        return PACKAGE_BYTES

    def reuse(self, other: Target) -> None:
        """See :meth:`~.Target.reuse`."""
        if isinstance(other, KubernetesTarget):
            same = other._context == self._context
            if same and other._settings.kubeconfig == self._settings.kubeconfig:
                self._found = other._found

    @property
    def _client(self) -> api.KubernetesClient:
        if self._found is None:
            self._found = ways.connect(self._context, self._settings.kubeconfig)
        return self._found

    @property
    def _namespace(self) -> str:
        return self._named_namespace or self._client.namespace

    # -- planning ---------------------------------------------------------------------------

    def plan(self, release: Release) -> ReleasePlan:
        """See :meth:`~.Target.plan`."""
        return make_plan(release, self._settings, self._namespace)

    def plan_endpoint(self, release: EndpointRelease) -> ReleasePlan:
        """See :meth:`~.Target.plan_endpoint`."""
        return make_endpoint_plan(release, self._settings, self._namespace)

    def repeat(self, revision: Revision, number: int, applied_at: str) -> ReleasePlan:
        """See :meth:`~.Target.repeat`: what its pods mount is there, or `check` says so."""
        return repeated(revision, number, applied_at)

    def check(self, plan: ReleasePlan) -> Report:
        """See :meth:`~.Target.check`."""
        return check(self._client, plan)

    # -- acting -----------------------------------------------------------------------------

    def apply(self, plan: ReleasePlan) -> Revision:
        """See :meth:`~.Target.apply`."""
        revision = Application(self._client, plan, self._settings.revision_limit).run()
        if revision.routes is not None:
            tell_routers(self._client, self._namespace, revision)
            self._patient_until_s[revision.name] = time.monotonic() + PATIENCE_S
        self._tokens.pop(revision.name, None)
        self._limits.pop(revision.name, None)
        return revision

    def delete(self, name: str, *, timeout_s: float = 120) -> None:
        """See :meth:`~.Target.delete`."""
        check_name(name)
        remove(self._client, self._namespace, name, timeout_s)

    # -- reading ----------------------------------------------------------------------------

    def get(self, name: str) -> Rollout:
        """See :meth:`~.Target.get`."""
        check_name(name)
        client, namespace = self._client, self._namespace
        head = find_head(client, namespace, name)
        if head is None:
            raise not_found(name, self._where())
        below = _below(client, namespace, selector(name), {str(head["kind"])})
        known = records(client, namespace, name)
        return self._rollout(head, below.get(name, _Below()), list(known.values()))

    def rollouts(self) -> Iterator[Rollout]:
        """See :meth:`~.Target.rollouts`: one list for each kind of object."""
        client, namespace = self._client, self._namespace
        found = heads(client, namespace)
        if not found:
            return
        below = _below(client, namespace, selector(), {str(head["kind"]) for head in found})
        known = records(client, namespace)
        for head in found:
            name = head["metadata"]["name"]
            of_it = [r for (owner, _), r in known.items() if owner == name]
            yield self._rollout(head, below.get(name, _Below()), of_it)

    def _rollout(self, head: Json, below: _Below, known: list[Revision]) -> Rollout:
        client, namespace = self._client, self._namespace
        metadata, sets, pods = head["metadata"], below.replica_sets, below.pods
        url = f"http://{metadata['name']}.{metadata['namespace']}.svc"
        revision = next((r for r in known if r.number == number_of(head)), None)
        if head["kind"] == DEPLOYMENT.name:
            found = rollout_of(head, sets, pods, revision, url, known)
            patient = time.monotonic() < self._patient_until_s.get(metadata["name"], 0.0)
            return with_routes(client, namespace, found, pods, self._unreachable, patient=patient)
        made = next(iter(below.deployments), None)
        return service_rollout(head, made, sets, pods, revision, url, known, client.now())

    def revisions(self, name: str) -> list[Revision]:
        """See :meth:`~.Target.revisions`."""
        check_name(name)
        found = records(self._client, self._namespace, name)
        if not found and find_head(self._client, self._namespace, name) is None:
            raise not_found(name, self._where())
        return [found[key] for key in sorted(found)]

    def _where(self) -> str:
        return f"{self._client.name}, namespace {self._namespace!r}"

    # -- asking it --------------------------------------------------------------------------

    def request(
        self,
        name: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float = 60,
    ) -> Answer:
        """See :meth:`~.Target.request`: through the API server, by the kubeconfig alone.

        Raises:
            RejectedError: The body is larger than the deployment takes. Sent all the same it would
                only break the connection.
        """
        check_name(name)
        if name not in self._limits:
            head = find_head(self._client, self._namespace, name)
            if head is None:
                raise not_found(name, self._where())
            self._limits[name] = largest_request_bytes(head)
        limit_bytes = self._limits[name]
        if body is not None and limit_bytes is not None and len(body) > limit_bytes:
            raise RejectedError(
                f"{name}: the request has {len(body)} bytes, and 'max_request' is {limit_bytes}; "
                f"send fewer rows at a time, or raise it by an update",
                status=413,
            )
        known = self._tokens.get(name)
        answer = self._ask(name, path, body, headers, known, timeout_s)
        if answer.status == 401 and TOKEN_HEADER not in headers:
            token = self._read_token(name) or os.environ.get(TOKEN_VARIABLE)
            if token is not None and token != known:
                self._tokens[name] = token
                answer = self._ask(name, path, body, headers, token, timeout_s)
        return answer

    def _ask(
        self,
        name: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        token: str | None,
        timeout_s: float,
    ) -> Answer:
        sent = dict(headers) if token is None else {TOKEN_HEADER: token, **headers}
        service = f"{name}:http"
        try:
            answer = ask_service(
                self._client, self._namespace, service, path, body, sent, timeout_s
            )
        except NotFoundError as error:
            raise not_found(name, self._where()) from error
        return Answer(answer.status, answer.content_type, answer.body)

    def _read_token(self, name: str) -> str | None:
        """Return the token that requests must bring; None where it may not be read."""
        head = find_head(self._client, self._namespace, name)
        pod = kind_of(head).pods_of(head)["spec"] if head else {}
        for volume in pod.get("volumes") or ():
            if volume["name"] == _TOKEN_VOLUME:
                source = volume["secret"]
                path = api.object_path("secrets", self._namespace, source["secretName"])
                with suppress(AccessDeniedError, NotFoundError, KeyError):
                    data = self._client.request("GET", path)["data"]
                    text = base64.b64decode(data[source["items"][0]["key"]]).decode()
                    return next((line.strip() for line in text.splitlines() if line.strip()), None)
        return None

    def diagnose(self) -> Iterator[Finding]:
        """See :meth:`~.Target.diagnose`."""
        try:
            client, namespace = self._client, self._namespace
        except ConfigError as error:
            yield Finding(False, "kubeconfig", str(error), "Point KUBECONFIG at a kubeconfig.")
            return
        yield from findings(client, namespace, None, [*RIGHTS, *optional_rights()], ROLE)


@dataclass
class _Below:
    """What controllers have made below the head of one deployment."""

    deployments: list[Json] = field(default_factory=list)
    replica_sets: list[Json] = field(default_factory=list)
    pods: list[Json] = field(default_factory=list)


def _below(
    client: api.KubernetesClient, namespace: str, chosen: str, kinds: set[str]
) -> dict[str, _Below]:
    """Return what is below the heads of these kinds, by the name of the deployment."""
    found: dict[str, _Below] = {}
    wanted = [("replicasets", APPS, "replica_sets"), ("pods", "", "pods")]
    if kinds - {DEPLOYMENT.name}:
        wanted.append(("deployments", APPS, "deployments"))
    for resource, group, where in wanted:
        for item in listed(client, resource, namespace, chosen, group=group):
            name = item["metadata"]["labels"][LABEL_DEPLOYMENT]
            getattr(found.setdefault(name, _Below()), where).append(item)
    return found


def _place_in(uri: str) -> tuple[str | None, str | None]:
    """Return the context and the namespace that a target URI names; None for each if it does not.

    Contexts may have slashes in their names, as those of some clouds do: they are written as %2F.
    """
    scheme, _, rest = uri.partition("://")
    parts = [unquote(part) for part in rest.split("/")] if rest else []
    if parts and not parts[-1]:
        parts.pop()
    wrong = scheme != _SCHEME or (uri != _SCHEME and "://" not in uri) or len(parts) > 2
    if wrong or any(mark in rest for mark in "?#"):
        raise ConfigError(
            f"target: {uri!r}: 'k8s', 'k8s://context', 'k8s://context/namespace' or "
            f"'k8s:///namespace' is needed"
        )
    context, namespace = ([*parts, "", ""])[:2]
    return context or None, namespace or None
