"""References to the values of secret variables, which no setting ever holds itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from mlflow_exec.settings.fields import Settings

_FILE = (
    "A file where the job runs, with an absolute path or one in the home (`~/`) of the job's user."
)


class SecretReference(Settings):
    """Where the value of a secret environment variable comes from: exactly one of the three."""

    secret: str | None = Field(None, description="A Secret in the job's namespace.")
    key: str | None = Field(None, description="The key in it; the variable's name if not given.")
    env: str | None = Field(
        None, description="A variable of the submitting process; it travels in a per-run Secret."
    )
    file: str | None = Field(None, description=_FILE)

    @model_validator(mode="before")
    @classmethod
    def _of_kubernetes(cls, given: Any) -> Any:
        if isinstance(given, dict) and "node_env" in given:
            raise ValueError(
                "'node_env' is for Ray; here 'secret' (with 'key') names a Secret of the "
                "namespace, 'env' a variable of the submitting process, 'file' a file in the pod"
            )
        return given

    @model_validator(mode="after")
    def _one_source(self) -> SecretReference:
        if [self.secret, self.env, self.file].count(None) != 2:
            raise ValueError("exactly one of 'secret' (with 'key'), 'env' and 'file' is needed")
        if self.key is not None and self.secret is None:
            raise ValueError("'key' belongs to 'secret'")
        _check_file(self.file)
        return self


class NodeSecret(Settings):
    """Where a node of the cluster has the value of a secret variable: exactly one of the two."""

    node_env: str | None = Field(
        None, description="A variable of the environment in which the cluster's nodes were started."
    )
    file: str | None = Field(None, description=_FILE)

    @model_validator(mode="before")
    @classmethod
    def _of_ray(cls, given: Any) -> Any:
        elsewhere = {"env", "secret", "key"} & set(given) if isinstance(given, dict) else set()
        if elsewhere:
            raise ValueError(
                f"{min(elsewhere)!r} is for Kubernetes; no value is sent to Ray, which shows a "
                f"job's variables to everybody: 'node_env' names a variable of the environment of "
                f"the cluster's nodes, 'file' a file on them"
            )
        return given

    @model_validator(mode="after")
    def _one_source(self) -> NodeSecret:
        if (self.node_env is None) == (self.file is None):
            raise ValueError("exactly one of 'node_env' and 'file' is needed")
        _check_file(self.file)
        return self


class ClientSecret(Settings):
    """Where the value of a secret variable comes from: exactly one of the two."""

    env: str | None = Field(
        None, description="A variable of the submitting process; it travels in a file of its own "
        "that only the job's user can read."
    )
    file: str | None = Field(None, description=_FILE)

    @model_validator(mode="before")
    @classmethod
    def _of_yarn(cls, given: Any) -> Any:
        elsewhere = {"node_env", "secret", "key"} & set(given) if isinstance(given, dict) else set()
        if elsewhere:
            raise ValueError(
                f"{min(elsewhere)!r} is not for YARN: 'env' names a variable of the submitting "
                f"process, 'file' a file on the nodes"
            )
        return given

    @model_validator(mode="after")
    def _one_source(self) -> ClientSecret:
        if (self.env is None) == (self.file is None):
            raise ValueError("exactly one of 'env' and 'file' is needed")
        _check_file(self.file)
        return self


def _check_file(path: str | None) -> None:
    if path is not None and not path.startswith(("/", "~/")):
        raise ValueError("file: it begins with '/' or '~/'")
