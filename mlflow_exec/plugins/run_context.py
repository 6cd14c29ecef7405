"""The run-context provider: tags that say on which cluster's what a run was made."""

from __future__ import annotations

from mlflow.tracking.context.abstract_context import RunContextProvider

from mlflow_exec.surroundings import facts

_PREFIX = "mlflow_exec."
_LIMIT_CHARS = 500


class ExecRunContext(RunContextProvider):  # type: ignore[misc]
    """Tags of new runs, such as ``mlflow_exec.k8s.pod``."""

    def in_context(self) -> bool:
        """Whether there is anything to tell."""
        return bool(facts())

    def tags(self) -> dict[str, str]:
        """Return the tags."""
        return {_PREFIX + name: value[:_LIMIT_CHARS] for name, value in facts().items()}
