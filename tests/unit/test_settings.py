"""Settings: what is refused, in which words, and what values become."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_exec.errors import ConfigError
from mlflow_exec.settings import (
    KubernetesSettings,
    RaySettings,
    Settings,
    json_schema,
    known_keys,
    load_config,
    parse_quantity,
    parse_settings,
)

WHERE = "--backend-config"


def k8s(**config: Any) -> KubernetesSettings:
    return parse_settings(KubernetesSettings, config, WHERE)


def refusal(cls: type[Settings] = KubernetesSettings, /, **config: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_settings(cls, config, WHERE)
    return str(caught.value)


# -- quantities -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("500m", Decimal("0.5")), (2, 2), (0.5, Decimal("0.5")), ("2", 2), ("1e3", 1000),
        ("1k", 1000), ("1Ki", 1024), ("4Gi", 4 * 1024**3), ("4G", 4 * 10**9), ("1.5Mi", 1572864),
        (" 1Ti ", 1024**4), ("2P", 2 * 10**15), ("0", 0),
    ],
)  # fmt: skip
def test_quantities_are_those_of_kubernetes(text: object, amount: object) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize("text", ["", "much", "4 GB", "4GiB", "Gi", "-1", "nan", "inf", "1mm",
                                  True, None, [1]])  # fmt: skip
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="a quantity"):
        parse_quantity(text)


@given(st.integers(0, 10**6), st.sampled_from(["Ki", "Mi", "Gi"]))
def test_memory_is_bytes(number: int, suffix: str) -> None:
    factor = {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}[suffix]
    assert k8s(resources={"memory": f"{number}{suffix}"}).resources.memory == number * factor


def test_cpus_are_numbers() -> None:
    assert k8s(resources={"cpu": "500m"}).resources.cpu == 0.5


# -- what is refused, and how it is said ------------------------------------------------------


def test_an_unknown_key_names_the_closest_and_all() -> None:
    text = refusal(namspace="team-a")
    assert text.startswith("--backend-config: unknown setting 'namspace' (did you mean 'namespace'")
    assert "Known: affinity, annotations, cancel_timeout_s" in text


def test_an_unknown_key_without_a_close_one_names_all() -> None:
    text = refusal(xyzzy=1)
    assert text.startswith("--backend-config: unknown setting 'xyzzy'. Known: affinity")


@pytest.mark.parametrize(
    ("config", "start"),
    [
        ({"resources": {"memroy": 1}}, "unknown setting 'resources.memroy' (did you mean 'memory'"),
        ({"secrets": {"X": {"sekret": "a"}}}, "unknown setting 'secrets.X.sekret'"),
        ({"resources": {"custom": {"tpu": 1}}}, "unknown setting 'resources.custom'"),
    ],
)
def test_an_unknown_key_is_named_with_its_place(config: Any, start: str) -> None:
    assert f"--backend-config: {start}" in refusal(**config)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"retries": "many"}, "retries: "),
        ({"retries": -1}, "retries: "),
        ({"retries": "many"}, 'given "many"'),
        ({"deadline_s": 0}, "deadline_s: "),
        ({"resources": {"memory": "much"}}, "resources.memory: a quantity is needed"),
        ({"resources": "4Gi"}, "resources: "),
        ({"image_pull_policy": "Sometimes"}, "image_pull_policy: "),
        ({"on_interrupt": "ignore"}, "on_interrupt: "),
        ({"source": "package"}, "source: "),
        ({"env": {"N": 1}}, "env.N: "),
        ({"context": "a", "kube-context": "b"}, "two different contexts"),
        ({"secrets": {"X": {"secret": "s", "env": "E"}}}, "exactly one of"),
        ({"secrets": {"X": {}}}, "exactly one of"),
        ({"secrets": {"X": {"env": "E", "key": "k"}}}, "'key' belongs to 'secret'"),
        ({"secrets": {"X": {"file": "token"}}}, "file: it begins with '/' or '~/'"),
        ({"secrets": {"X": {"node_env": "X"}}}, "'node_env' is for Ray; here 'secret'"),
        ({"environment_cache": {}}, "environment_cache: exactly one of 'claim' and 'host_path'"),
        ({"environment_cache": {"claim": "c", "host_path": "/x"}}, "exactly one of"),
        ({"environment_cache": {"host_path": "x"}}, "host_path: an absolute path is needed"),
        ({"environment_cache": {"host_path": "/x", "sub_path": "y"}}, "'sub_path' is a folder in"),
        ({"environment_cache": {"clam": "c"}}, "'environment_cache.clam' (did you mean 'claim'"),
        ({"environment_cache": True}, "environment_cache: "),
        ({"environment_cache_limit": "much"}, "environment_cache_limit: a quantity is needed"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_given(config: Any, text: str) -> None:
    said = refusal(**config)
    assert said.startswith("--backend-config: ")
    assert text in said


def test_every_mistake_is_said_at_once() -> None:
    assert len(refusal(namspace="x", retries="many").splitlines()) == 2


@pytest.mark.parametrize("name", ["HF_TOKEN", "db_password", "AWS_SECRET_ACCESS_KEY", "API_KEY",
                                  "MY_CREDENTIALS", "PRIVATE_PEM"])  # fmt: skip
def test_a_secret_in_the_open_is_refused_and_not_shown(name: str) -> None:
    said = refusal(env={name: "hunter2"})
    assert f"env.{name}: " in said
    assert "'secrets'" in said
    assert "hunter2" not in said


def test_a_url_with_credentials_in_the_open_is_refused_and_not_shown() -> None:
    for url in ("https://u:hunter2@index/simple", "https://hunter2@index/simple"):
        said = refusal(env={"PIP_INDEX_URL": url})
        assert "env.PIP_INDEX_URL: its value holds a URL with credentials" in said
        assert "hunter2" not in said
    env = {"PIP_INDEX_URL": "https://$U:$P@index/simple", "PROXY": "http://proxy:80"}
    parse_settings(KubernetesSettings, {"env": env}, WHERE)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEYS", "MONKEY_SEED"])
def test_what_only_sounds_like_a_secret_is_none(name: str) -> None:
    parse_settings(KubernetesSettings, {"env": {name: "1"}}, WHERE)


def test_a_name_that_looks_like_a_secret_can_be_declared_to_be_none() -> None:
    given = {"env": {"PAD_TOKEN": "<pad>"}, "not_secret": ["PAD_TOKEN"]}
    assert parse_settings(KubernetesSettings, given, WHERE).env == given["env"]
    assert "'not_secret'" in refusal(env={"PAD_TOKEN": "<pad>"})


def test_the_forms_of_kubernetes_are_refused_on_ray_with_the_way_on() -> None:
    for form in ({"env": "X"}, {"secret": "x", "key": "y"}):
        said = refusal(RaySettings, secrets={"X": form})
        assert "is for Kubernetes" in said
        assert "'node_env' names a variable" in said
        assert "'file' a file on them" in said
    for form in ({}, {"node_env": "X", "file": "/x"}):
        assert "exactly one of 'node_env' and 'file'" in refusal(RaySettings, secrets={"X": form})


def test_a_value_at_a_secret_place_is_not_shown() -> None:
    assert "hunter2" not in refusal(env=["HF_TOKEN=hunter2"])
    assert "hunter2" not in refusal(secrets={"TOKEN": "hunter2"})
    assert "hunter2" not in refusal(env={"PASSWORD": ["hunter2"]})


def test_a_long_value_is_shown_in_part() -> None:
    assert len(refusal(retries="x" * 1000).splitlines()[0]) < 300


# -- files and names --------------------------------------------------------------------------


def test_a_file_is_read_first_and_other_keys_win(tmp_path: Path) -> None:
    (tmp_path / "cfg.yaml").write_text("{image: from-file, namespace: from-file}")
    settings = k8s(file=str(tmp_path / "cfg.yaml"), namespace="given")
    assert (settings.image, settings.namespace) == ("from-file", "given")


@pytest.mark.parametrize("text", ["- a list", "a: [", "\xff"])
def test_a_file_that_holds_no_settings(tmp_path: Path, text: str) -> None:
    (tmp_path / "cfg.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config file .*cfg\.yaml"):
        load_config(tmp_path / "cfg.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "missing.yaml")
    assert "file: a path is needed" in refusal(file=3)


def test_mlflows_own_names_are_known() -> None:
    settings = k8s(**{"kube-context": "c", "kube-job-template-path": "t", "repository-uri": "r"})
    assert settings.kube_context == "c"
    assert settings.kube_job_template_path == "t"
    assert "kube-context" in known_keys(KubernetesSettings)


@pytest.mark.parametrize("cls", [KubernetesSettings, RaySettings])
def test_the_schema_names_every_setting_with_a_description(cls: type[Settings]) -> None:
    schema = json_schema(cls)
    assert sorted(schema["properties"]) == known_keys(cls)
    assert all(value.get("description") for value in schema["properties"].values())
    assert schema["additionalProperties"] is False
    json.dumps(schema)


def test_the_same_names_mean_the_same_on_every_backend() -> None:
    shared = set(known_keys(KubernetesSettings)) & set(known_keys(RaySettings)) - {
        "resources", "source", "environment_cache",
        "start_timeout_s",  # refused on Ray
        "secrets",  # where a cluster has them; a form that only one has is refused by the other
    }  # fmt: skip
    one, other = (json_schema(c)["properties"] for c in (KubernetesSettings, RaySettings))
    assert {"env", "retries", "infra_retries", "deadline_s", "tracking_uri"} <= shared
    assert all(one[key] == other[key] for key in shared)


def test_ray_refuses_a_clock_that_it_cannot_keep() -> None:
    parse_settings(RaySettings, {"start_timeout_s": None}, "--backend-config")
    with pytest.raises(ConfigError, match=r"start_timeout_s: .*queue_timeout_s"):
        parse_settings(RaySettings, {"start_timeout_s": 60}, "--backend-config")


def test_the_cache_of_environments_can_be_switched_off_and_on_at_a_folder() -> None:
    def cache(**config: Any) -> str | None:
        found = parse_settings(RaySettings, config, WHERE).environment_cache
        return found.path if found else None

    assert cache() == cache(environment_cache={}) == "~/.cache/mlflow-exec/environments"
    assert cache(environment_cache=False) is cache(environment_cache=None) is None
    assert cache(environment_cache={"path": "/mnt/cache"}) == "/mnt/cache"
    assert "environment_cache: path: it begins with '/' or '~/'" in refusal(
        RaySettings, environment_cache={"path": "cache"}
    )
    assert "environment_cache.clam" in refusal(RaySettings, environment_cache={"clam": "c"})
    assert "environment_cache: " in refusal(RaySettings, environment_cache=True)


def test_the_way_on_for_a_secret_is_one_that_the_backend_has() -> None:
    for cls, way in ((KubernetesSettings, "give it by 'secrets'"), (RaySettings, "nodes")):
        with pytest.raises(ConfigError, match=rf"env\.HF_TOKEN: .*{way}"):
            parse_settings(cls, {"env": {"HF_TOKEN": "hf_1"}}, "--backend-config")
