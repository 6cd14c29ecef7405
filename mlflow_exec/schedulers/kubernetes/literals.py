"""Which variables of a Job's containers are secrets, and that none stands in it in the open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_exec.credentials import holds_credentials, why_secret
from mlflow_exec.errors import TemplateError
from mlflow_exec.templates import texts_in


def refuse_literals(job: Mapping[str, Any], known_as_none: list[str]) -> None:
    """Refuse secrets that a template or a patch writes into the Job, where all can read them."""
    for container, entry in _variables(job):
        name, value = str(entry.get("name")), str(entry.get("value") or "")
        why = why_secret(name, value, known_as_none) if "value" in entry else ""
        if why:
            raise TemplateError(
                f"patch: container {container!r}: the variable {name}: {why}, and everybody who "
                f"sees the Job can read it; give it by the setting 'secrets', or by valueFrom "
                f"with a secretKeyRef, or name it in 'not_secret' if it is none"
            )
    exempt = {str(entry.get("value")) for _, entry in _variables(job)}
    for text in texts_in(job):
        if text not in exempt and holds_credentials(text):
            raise TemplateError(
                "patch: a URL in the Job holds credentials, which everybody who sees the Job can "
                "read; give them by the setting 'secrets'"
            )


def _variables(job: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each variable of each container, with the container's name."""
    pod = ((job.get("spec") or {}).get("template") or {}).get("spec") or {}
    for kind in ("initContainers", "containers"):
        for container in pod.get(kind) or ():
            for entry in container.get("env") or ():
                yield str(container.get("name")), entry


def secret_names(job: Mapping[str, Any], container: str) -> list[str]:
    """Return the variables of a container whose values come from Secrets."""
    return [
        str(entry["name"])
        for name, entry in _variables(job)
        if name == container and "secretKeyRef" in (entry.get("valueFrom") or {})
    ]
