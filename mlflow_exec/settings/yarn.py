"""The settings of ``--backend yarn``."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mlflow_exec.settings.backends import BackendSettings, Resources
from mlflow_exec.settings.fields import Settings
from mlflow_exec.settings.secrets import ClientSecret

# The names of mlflow-yarn's backend_config.json, which it hands to cluster-pack's skein_launcher:
# https://github.com/criteo/mlflow-yarn, https://github.com/criteo/cluster-pack.
_OF_MLFLOW_YARN = {
    "hadoop_file_systems": "file_systems",
    "env_vars": "env",
    "name": "application_name",
}
_NO_WAY_HERE = {
    "additional_files": "the whole project travels by itself; put the files into it",
    "pre_script_hook": "write it into the entry point's command, or into a template of your own",
    "acquire_map_reduce_delegation_token": "name the file systems in 'file_systems'; no token of "
    "the job history server is acquired",
    "process_logs": "the whole log is kept on the run",
    "num_containers": "a job is one container",
    "max_attempts": "a second start would write the same run; see 'infra_retries'",
    "max_restarts": "see 'retries'",
}
# What they are there by default means nothing here, and is left out.
_MEANINGLESS: dict[str, Any] = {"num_containers": 1, "max_attempts": 1, "allow_large_pex": None}
_SIZE = re.compile(r"\s*([\d.]+)\s*([KMGTP]?)(i?)B?\s*", re.IGNORECASE)


class YarnAcls(Settings):
    """Who may look at the application and end it, beside its user and YARN's administrators."""

    view_users: list[str] = Field(default_factory=list, description="Users who may see it.")
    view_groups: list[str] = Field(default_factory=list, description="Groups that may see it.")
    modify_users: list[str] = Field(default_factory=list, description="Users who may end it.")
    modify_groups: list[str] = Field(default_factory=list, description="Groups that may end it.")


class YarnEnvironmentCache(Settings):
    """Where jobs on a node keep built environments for later ones."""

    path: str = Field(
        ...,
        description="A folder on every node that is there, writable for the users of jobs "
        "(`chmod 1777`).",
    )

    @model_validator(mode="after")
    def _absolute(self) -> YarnEnvironmentCache:
        if not self.path.startswith("/"):
            raise ValueError(f"path: an absolute path is needed; given {self.path!r}")
        return self


class YarnSettings(BackendSettings):
    """Settings of `--backend yarn`."""

    hadoop_conf_dir: str | None = Field(
        None,
        description="The folder with `yarn-site.xml` and `core-site.xml`; `HADOOP_CONF_DIR`, "
        "`YARN_CONF_DIR`, `$HADOOP_HOME/etc/hadoop`, then `/etc/hadoop/conf` if null.",
    )
    cluster_name: str | None = Field(
        None,
        description="The cluster's identity in job handles; the address of its first "
        "ResourceManager if null.",
    )
    queue: str = Field("default", description="The queue.")
    node_label: str | None = Field(None, description="Only on nodes of this label.")
    resources: Resources = Field(
        default_factory=Resources,
        description="vcores, memory (1 GiB if null; some 200 MiB of it are for YARN's own "
        "application master), GPUs.",
    )
    priority: int | None = Field(
        None, ge=0, description="The application's priority in its queue; the queue's if null."
    )
    application_name: str | None = Field(
        None, description="What YARN's pages call it; `mlflow-<run id>-<n>` if null."
    )
    acls: YarnAcls = Field(
        default_factory=YarnAcls, description="Who else may see and end the application."
    )
    user: str | None = Field(
        None,
        description="Run as this user: with Kerberos where you may act for others (a proxy user), "
        "without it as `HADOOP_USER_NAME` does.",
    )
    principal: str | None = Field(
        None, description="With Kerberos: sign in as this principal, by `keytab`."
    )
    keytab: str | None = Field(
        None, description="With Kerberos: its keytab; the ticket of `kinit` is used if null."
    )
    file_systems: list[str] = Field(
        default_factory=list,
        description="Further file systems that the job reaches: with Kerberos a delegation token "
        "is acquired for each, as for `fs.defaultFS`.",
    )
    staging_dir: str | None = Field(
        None,
        description="Where uploads are staged, a folder in HDFS: each user gets a folder of their "
        "own in it. `.mlflow-exec` in the user's HDFS home if null.",
    )
    environment: Literal["build", "local", "venv-pack", "conda-pack"] = Field(
        "build",
        description="The job's Python environment: built on the node (`build`), the node's own "
        "(`local`), or built and packed on this machine and kept in HDFS.",
    )
    environment_cache: YarnEnvironmentCache | None = Field(
        None,
        description="With `environment: build`: where nodes keep built environments for later "
        "jobs; nowhere if null (or false).",
    )
    python: str = Field("python3", description="The nodes' Python that starts the job.")
    secrets: dict[str, ClientSecret] = Field(
        default_factory=dict,
        description="Secret environment variables: `{\"HF_TOKEN\": {\"env\": \"HF_TOKEN\"}}` takes "
        "it from the submitting process, `{\"file\": \"/etc/hf\"}` from a file on the node.",
    )
    source: Literal["auto", "hdfs", "artifact"] = Field(
        "auto",
        description="How the project reaches the container: by HDFS, or by the run's artifacts. "
        "`auto` is `hdfs`.",
    )
    ca_cert: str | None = Field(
        None, description="A PEM file with the authority of the cluster's HTTPS certificates."
    )

    _way_of_secrets: ClassVar[str] = "give it by 'secrets'"

    @model_validator(mode="before")
    @classmethod
    def _of_mlflow_yarn(cls, given: Any) -> Any:
        """Read the keys of mlflow-yarn's configuration as ours."""
        if not isinstance(given, dict):
            return given
        for key, why in _NO_WAY_HERE.items():
            if given.get(key) and given[key] != _MEANINGLESS.get(key):
                raise ValueError(f"{key}: a key of mlflow-yarn that has no meaning here: {why}")
        left_out = {*_NO_WAY_HERE, *_MEANINGLESS}
        result = {key: value for key, value in given.items() if key not in left_out}
        moved = {"num_cores": "cpu", "memory": "memory"}
        resources = dict(result.get("resources") or {})
        for old, new in moved.items():
            if old in result:
                if new in resources:
                    raise ValueError(f"{old!r} and 'resources.{new}' say the same; give one")
                value = result.pop(old)
                resources[new] = _size(value) if new == "memory" else value
        if resources:
            result["resources"] = resources
        for old, new in _OF_MLFLOW_YARN.items():
            if old in result:
                if new in result:
                    raise ValueError(f"{old!r} and {new!r} say the same; give one")
                value = result.pop(old)
                result[new] = value.split(",") if old == "hadoop_file_systems" and isinstance(
                    value, str
                ) else value
        return result

    @field_validator("environment_cache", mode="before")
    @classmethod
    def _switched_off(cls, value: Any) -> Any:
        return None if value is False else value

    @model_validator(mode="after")
    def _check(self) -> YarnSettings:
        if (self.principal is None) != (self.keytab is None):
            raise ValueError("'principal' and 'keytab' belong together")
        if self.environment_cache is not None and self.environment != "build":
            raise ValueError(
                f"environment_cache: it keeps what nodes build, and 'environment' is "
                f"{self.environment!r}; leave one of them out"
            )
        if self.resources.cpu is not None and self.resources.cpu != int(self.resources.cpu):
            raise ValueError(
                f"resources.cpu: YARN gives whole vcores; given {self.resources.cpu:g}"
            )
        return self


def _size(value: Any) -> Any:
    """Read ``"2 GiB"`` as skein does; what is none stays for the check of quantities."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        # A number alone is MiB there: https://jcristharif.com/skein/specification.html
        return f"{value}Mi" if isinstance(value, (int, float)) else value
    number, unit, binary = match.groups()
    if not unit:
        return f"{number}Mi"
    return f"{number}{unit.upper()}{'i' if binary else ''}"
