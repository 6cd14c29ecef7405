"""The settings of the YARN backend, and those of mlflow-yarn that are read as ours."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_exec.errors import ConfigError
from mlflow_exec.settings import YarnSettings, parse_settings

GIB = 1024**3


def parsed(**config: Any) -> YarnSettings:
    return parse_settings(YarnSettings, config, "--backend-config")


def test_the_configuration_of_mlflow_yarn_is_accepted() -> None:
    settings = parsed(
        num_cores=2, memory="2 GiB", queue="ml", node_label="gpu", name="wine",
        hadoop_file_systems="hdfs://a,hdfs://b", env_vars={"A": "1"},
        num_containers=1, max_attempts=1, max_restarts=0, allow_large_pex=True,
    )  # fmt: skip
    assert settings.resources.cpu == 2
    assert settings.resources.memory == 2 * GIB
    assert (settings.queue, settings.node_label) == ("ml", "gpu")
    assert settings.application_name == "wine"
    assert settings.file_systems == ["hdfs://a", "hdfs://b"]
    assert settings.env == {"A": "1"}


@pytest.mark.parametrize(
    ("given", "memory_bytes"),
    [
        (512, GIB // 2), ("512", GIB // 2), ("1.5 GiB", GIB * 3 // 2), ("2GB", 2 * 10**9),
        ("500 MB", 500 * 10**6),
    ],
)  # fmt: skip
def test_its_memory_means_what_it_means_there(given: Any, memory_bytes: int) -> None:
    assert parsed(memory=given).resources.memory == memory_bytes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"memory": "2 GiB", "resources": {"memory": "1Gi"}}, "say the same"),
        ({"num_cores": 1, "resources": {"cpu": 1}}, "say the same"),
        ({"env_vars": {"A": "1"}, "env": {"A": "2"}}, "say the same"),
        ({"additional_files": ["a.py"]}, "the whole project travels"),
        ({"pre_script_hook": "source x"}, "pre_script_hook"),
        ({"num_containers": 2}, "one container"),
        ({"max_attempts": 2}, "infra_retries"),
        ({"max_restarts": 1}, "retries"),
        ({"num_cors": 1}, "unknown setting 'num_cors'"),
        ({"memory": "much"}, "a quantity is needed"),
        ({"env_vars": {"API_TOKEN": "x"}}, "API_TOKEN"),
        ({"keytab": "a.keytab"}, "belong together"),
        ({"resources": {"cpu": 0.5}}, "whole vcores"),
        ({"environment": "local", "environment_cache": {"path": "/x"}}, "what nodes build"),
        ({"secrets": {"A": {"secret": "x"}}}, "not for YARN"),
        ({"secrets": {"A": {"file": "relative"}}}, "begins with '/'"),
        ({"environment_cache": {"path": "relative"}}, "absolute path"),
    ],
)
def test_what_cannot_be_honoured_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(**config)


def test_a_switched_off_cache_is_none() -> None:
    assert parsed(environment_cache=False).environment_cache is None
