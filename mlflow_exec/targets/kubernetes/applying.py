"""Applies a release so that its head changes last, and a failure before changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient
from mlflow_exec.clients.kubernetes_apply import (
    apply,
    collection_of,
    path_of,
    scale,
)
from mlflow_exec.clients.kubernetes_preflight import find
from mlflow_exec.errors import ClusterError, ConflictError, NotFoundError
from mlflow_exec.releases import Revision
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.kubernetes.changes import secret_of, with_replicas, with_same_pods
from mlflow_exec.targets.kubernetes.kinds import kind_of
from mlflow_exec.targets.kubernetes.objects import (
    APPS,
    find_head,
    holds,
    listed,
    number_of,
    pods_number,
    read_record,
    ready_pods_numbers,
    refuse_another_kind,
    refuse_foreign,
    revision_of,
    selector,
    with_contents,
)
from mlflow_exec.targets.kubernetes.plan import (
    KEPT_KINDS,
    LABEL_REVISION,
    is_kept,
    revision_record,
)

Json = Mapping[str, Any]

_MERGE = "application/merge-patch+json"
# An application takes a second; a number that nobody has used after a minute is free again.
_CLAIM_S = 60.0
_TRIES = 10
# https://github.com/kubernetes/kubernetes/blob/v1.34.1/staging/src/k8s.io/apiserver/pkg/registry/generic/registry/store.go
_MODIFIED = "the object has been modified"


class Application:
    """One application of a plan.

    Args:
        client: The cluster.
        plan: What to apply.
        revision_limit: How many revisions are kept.
    """

    def __init__(self, client: KubernetesClient, plan: ReleasePlan, revision_limit: int) -> None:
        self._client = client
        self._plan = plan
        self._limit = revision_limit
        self._made: list[Json] = []
        self._take(plan.revision)

    def _take(self, revision: Revision) -> None:
        self._revision = revision
        self._head, *self._others = revision.objects
        self._namespace = str(self._head["metadata"]["namespace"])
        self._record = revision_record(revision, self._namespace)

    def run(self) -> Revision:
        """Apply it, and return the revision as it is recorded: with the pods that it has kept.

        Raises:
            ConflictError: Another client has applied a revision of this number, or somebody else
                has changed what is to be changed.
            ClusterError: The cluster refuses something; what was made is removed.
        """
        name = self._revision.name
        before = find_head(self._client, self._namespace, name)
        if before is not None and before["metadata"].get("deletionTimestamp"):
            raise ConflictError(f"{name}: it is being deleted; try again when it is gone")
        refuse_another_kind(self._head, before)
        if before is None:
            refuse_foreign(self._client, self._head)
            refuse_foreign(self._client, next(o for o in self._others if o["kind"] == "Service"))
        previous = revision_of(self._client, before)
        if before is not None and previous is not None:
            same_values = self._same_values(previous)
            kept = with_same_pods(self._revision, before, previous, same_values=same_values)
            self._take(kept)
        self._claim(before)
        try:
            head = before or self._make_held()
            self._own(head, made_now=before is None)
            self._remove_unwanted(previous)
            self._apply_head(head, previous)
        except BaseException:
            if before is None or number_of(before) != self._revision.number:
                with suppress(ClusterError):
                    self._undo(before, previous)
            raise
        with suppress(ClusterError):  # they are in nobody's way
            self._prune()
        return self._revision

    def _same_values(self, previous: Revision) -> bool:
        """Whether a revision's Secret is there with the values that this one brings."""
        secret = secret_of(previous.objects)
        if secret is None or not self._plan.secrets:
            return False
        there = find(self._client, path_of(secret))
        return there is not None and holds(there, self._plan)

    # -- the number -------------------------------------------------------------------------

    def _claim(self, before: Json | None) -> None:
        """Take the number by creating the record; who comes second is told so."""
        record = {**self._record, "metadata": dict(self._record["metadata"])}
        if before is not None:
            record["metadata"]["ownerReferences"] = [_owner(before)]
        path = collection_of("ConfigMap", self._namespace)
        for attempt in range(2):
            try:
                self._client.request("POST", path, body=record)
                break
            except ConflictError:
                if self._is_free(before) and attempt == 0:
                    continue
                raise
        if before is None and (earlier := self._being_created()):
            self._remove(self._record)
            raise self._too_late(earlier)

    def _being_created(self) -> int:
        """Return the number by which another client creates the same deployment now, or 0."""
        found = self._records()
        numbers = [number_of(item) for item in found if self._age_s(item) < _CLAIM_S]
        return min([n for n in numbers if n < self._revision.number], default=0)

    def _is_free(self, before: Json | None) -> bool:
        """Whether to go on where the record is there: from our own earlier try, or abandoned.

        Raises:
            ConflictError: Somebody else has the number.
        """
        try:
            found = self._client.request("GET", path_of(self._record))
        except NotFoundError:
            return True
        number = self._revision.number
        if found.get("data") != self._record["data"]:
            used = before is not None and number_of(before) >= number
            if used or self._age_s(found) < _CLAIM_S:
                raise self._too_late(number)
        self._remove(found)  # to be made again, with the owner of now
        return True

    def _age_s(self, item: Json) -> float:
        text = str(item["metadata"]["creationTimestamp"])
        created = datetime.fromisoformat(text.replace("Z", "+00:00"))
        now = self._client.now()
        return (now - created).total_seconds() if now else 0.0

    def _too_late(self, number: int) -> ConflictError:
        return ConflictError(
            f"{self._revision.name}: somebody else has applied revision {number} meanwhile; look "
            f"at it by 'mlflow deployments get', then apply yours again"
        )

    # -- the objects ------------------------------------------------------------------------

    def _make_held(self) -> dict[str, Any]:
        """Make the head, which owns all the rest, so that it starts nothing yet."""
        return apply(self._client, kind_of(self._head).held(self._head))

    def _own(self, head: Json, *, made_now: bool) -> None:
        owner = _owner(head)
        if made_now:  # the record was there before its owner
            body = {"metadata": {"ownerReferences": [owner]}}
            path = path_of(self._record)
            self._client.request("PATCH", path, body=body, content_type=_MERGE)
        # What pods mount first.
        for item in sorted(self._others, key=lambda other: other["kind"] not in KEPT_KINDS):
            if is_kept(item):
                self._make(item, owner)
            else:
                apply(self._client, _owned(item, owner))

    def _make(self, item: Json, owner: Json) -> None:
        """Create what never changes, unless an earlier revision has."""
        if self._revision.rolled_back_to is not None:
            return  # `check` has seen it
        body = with_contents(item, self._plan)
        body["metadata"]["ownerReferences"] = [owner]
        path = collection_of(item["kind"], self._namespace)
        try:
            self._client.request("POST", path, body=body)
        except ConflictError:
            refuse_foreign(self._client, item)
            there = find(self._client, path_of(item))
            if there is not None:
                if item["kind"] != "Secret" or holds(there, self._plan):
                    return
                # Its name is a number, which is ours now: left by a client that has died.
                self._remove(item)
            self._client.request("POST", path, body=body)
        self._made.append(item)

    def _apply_head(self, live: Json, previous: Revision | None) -> None:
        """Apply it, unless somebody has applied a later revision.

        Raises:
            ConflictError: Somebody has, or has changed what is to be changed.
        """
        for attempt in range(_TRIES):
            if attempt:
                live = self._client.request("GET", path_of(self._head))
            if number_of(live) > self._revision.number:
                raise self._too_late(number_of(live))
            item, replicas = with_replicas(self._head, live, previous)
            if replicas is not None:
                scale(self._client, live, replicas)
                live = self._client.request("GET", path_of(self._head))
            item["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
            try:
                apply(self._client, item)
                return
            except ConflictError as error:
                # Its controller writes its status all the time; that counts as a change, too.
                if _MODIFIED not in str(error) or attempt == _TRIES - 1:
                    raise

    def _remove_unwanted(self, previous: Revision | None) -> None:
        """Remove what the revision before had and this one has not, such as an Ingress."""
        if previous is not None:
            self._remove_others(previous.objects, self._revision.objects)

    def _remove_others(self, objects: Sequence[Json], wanted: Sequence[Json]) -> None:
        kinds = {*KEPT_KINDS, self._head["kind"], *(item["kind"] for item in wanted)}
        for item in objects:
            if item["kind"] not in kinds:
                self._remove(item)

    # -- and back ---------------------------------------------------------------------------

    def _undo(self, before: Json | None, previous: Revision | None) -> None:
        """Remove what was made, and let what the revision before had stand again."""
        if before is None:
            self._remove(self._head)
        else:
            there = previous.objects if previous else ()
            self._remove_others(self._others, there)
            for item in there:
                if item["kind"] != self._head["kind"] and not is_kept(item):
                    apply(self._client, _owned(item, _owner(before)))
        for item in [*self._made, self._record]:
            self._remove(item)

    def _remove(self, item: Json) -> None:
        with suppress(NotFoundError):
            body = {"propagationPolicy": "Background"}
            self._client.request("DELETE", path_of({"kind": "ConfigMap", **item}), body=body)

    def _prune(self) -> None:
        """Remove revisions beyond the limit, and what only they have used."""
        # Before the records: what another client makes now has its record already.
        contents = list(self._contents(self._revision.name))
        found = sorted(self._records(), key=number_of)
        if len(found) <= self._limit:
            return
        revisions = {number_of(item): read_record(item) for item in found}
        stay = {*list(revisions)[-self._limit :], *self._serving(revisions)}
        for item in found:
            if number_of(item) not in stay:
                self._remove(item)
        kept = [r for number in stay if (r := revisions[number]) is not None]
        used = {(o["kind"], o["metadata"]["name"]) for r in kept for o in r.objects}
        for kind, content in contents:
            if (kind, content["metadata"]["name"]) not in used:
                self._remove({**content, "kind": kind})

    def _serving(self, revisions: Mapping[int, Revision | None]) -> Iterator[int]:
        """Yield the earlier revisions whose pods answer, which they do until the new ones do."""
        chosen = selector(self._revision.name)
        sets = listed(self._client, "replicasets", self._namespace, chosen, group=APPS)
        ready = ready_pods_numbers(sets)
        earlier = {
            pods_number(r): number
            for number, r in revisions.items()
            if r is not None and number < self._revision.number
        }
        yield from (number for pods, number in earlier.items() if pods in ready)

    def _records(self) -> list[dict[str, Any]]:
        chosen = selector(self._revision.name, LABEL_REVISION)
        return listed(self._client, "configmaps", self._namespace, chosen)

    def _contents(self, name: str) -> Iterator[tuple[str, Json]]:
        """Yield what pods mount of any revision, with its kind."""
        for kind, resource in (("ConfigMap", "configmaps"), ("Secret", "secrets")):
            chosen = selector(name, f"!{LABEL_REVISION}")
            for item in listed(self._client, resource, self._namespace, chosen):
                yield kind, item


def _owned(item: Json, owner: Json) -> dict[str, Any]:
    return {**item, "metadata": {**item["metadata"], "ownerReferences": [owner]}}


def _owner(head: Json) -> dict[str, Any]:
    metadata, kind = head["metadata"], kind_of(head)
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": False,
        "blockOwnerDeletion": False,
    }
