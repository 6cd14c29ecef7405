"""Which Hadoop is meant, and what its configuration says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_exec.clients.hadoop_config import HadoopConfig, read_config
from mlflow_exec.errors import ConfigError

VARIABLES = ("HADOOP_CONF_DIR", "YARN_CONF_DIR", "HADOOP_HOME")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def written(folder: Path, **files: str) -> Path:
    """A folder with `core_site="<property>…"` and the like as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        text = f'<configuration xmlns:xi="http://www.w3.org/2001/XInclude">{body}</configuration>'
        (folder / f"{name.replace('_', '-')}.xml").write_text(text)
    return folder


def of(**properties: str) -> HadoopConfig:
    """A configuration of these properties; `__` is a dot, `_` a hyphen."""
    values = {k.replace("__", ".").replace("_", "-"): v for k, v in properties.items()}
    return HadoopConfig(Path("/conf"), "a test", values)


def property_(name: str, value: str, further: str = "") -> str:
    return f"<property><name>{name}</name><value>{value}</value>{further}</property>"


# -- where it is ----------------------------------------------------------------------------


def test_the_setting_wins_then_the_variables_then_hadoop_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {
        name: written(tmp_path / name, core_site=property_("x", name))
        for name in ("given", "hadoop", "yarn", "home/etc/hadoop")
    }
    monkeypatch.setenv("HADOOP_HOME", str(tmp_path / "home"))
    assert read_config(None).get("x") == "home/etc/hadoop"
    monkeypatch.setenv("YARN_CONF_DIR", str(folders["yarn"]))
    assert read_config(None).get("x") == "yarn"
    monkeypatch.setenv("HADOOP_CONF_DIR", str(folders["hadoop"]))
    found = read_config(None)
    assert (found.get("x"), found.where_from) == ("hadoop", "HADOOP_CONF_DIR")
    found = read_config(str(folders["given"]))
    assert (found.get("x"), found.folder) == ("given", folders["given"])
    assert found.where_from == "setting 'hadoop_conf_dir'"


def test_a_named_folder_without_a_configuration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"hadoop_conf_dir.*nosuch.*core-site.xml"):
        read_config(str(tmp_path / "nosuch"))
    monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="HADOOP_CONF_DIR"):
        read_config(None)


@pytest.mark.skipif(Path("/etc/hadoop/conf").exists(), reason="this machine has a Hadoop")
def test_without_any_the_error_names_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HADOOP_HOME", str(tmp_path))
    with pytest.raises(ConfigError) as failure:
        read_config(None)
    for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR", f"{tmp_path}/etc/hadoop", "/etc/hadoop/conf"):
        assert name in str(failure.value)


def test_a_file_that_is_no_xml_is_named(tmp_path: Path) -> None:
    (tmp_path / "yarn-site.xml").write_text("<configuration><property>")
    with pytest.raises(ConfigError, match=r"yarn-site\.xml is no XML"):
        read_config(str(tmp_path))


# -- what its files say ---------------------------------------------------------------------


def test_a_later_file_overrules_but_not_what_is_final(tmp_path: Path) -> None:
    final = "<final>true</final>"
    written(
        tmp_path,
        core_site=property_("a", "core") + property_("b", "core", final),
        yarn_site=property_("a", " yarn\n") + property_("b", "yarn"),
    )
    config = read_config(str(tmp_path))
    assert (config.get("a"), config.get("b"), config.get("c", "none")) == ("yarn", "core", "none")


def test_properties_may_be_attributes_and_have_old_names(tmp_path: Path) -> None:
    written(tmp_path, core_site='<property name="fs.default.name" value="hdfs://old:1"/>')
    assert read_config(str(tmp_path)).default_filesystem == "hdfs://old:1"


def test_other_files_are_included(tmp_path: Path) -> None:
    written(tmp_path / "more", part=property_("a", "of the part"))
    written(
        tmp_path,
        core_site='<xi:include href="more/part.xml"/>'
        f'<xi:include href="nosuch"><xi:fallback>{property_("b", "fallen back")}</xi:fallback>'
        "</xi:include>",
    )
    config = read_config(str(tmp_path))
    assert (config.get("a"), config.get("b")) == ("of the part", "fallen back")


@pytest.mark.parametrize("href", ["nosuch.xml", "http://elsewhere/x.xml", "core-site.xml"])
def test_a_file_that_cannot_be_included_is_named(tmp_path: Path, href: str) -> None:
    written(tmp_path, core_site=f'<xi:include href="{href}"/>')
    with pytest.raises(ConfigError, match=rf"core-site\.xml includes .*{href}"):
        read_config(str(tmp_path))


def test_variables_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_TEST", "environment")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("MISSING", raising=False)
    config = of(
        a="${b}/${b}",
        b="<${c}>",
        c="x",
        d="${env.OF_TEST}",
        e="${env.MISSING:-given}",
        f="${env.EMPTY:-given} ${env.EMPTY-given}",
        g="${nosuch} ${env.MISSING}",
        h="${h}",
        i="${user.home}",
    )
    assert config.get("a") == "<x>/<x>"
    assert config.get("d") == "environment"
    assert config.get("e") == "given"
    assert config.get("f") == "given"
    assert config.get("g") == "${nosuch} ${env.MISSING}"
    assert config.get("h") == "${h}"
    assert config.get("i") == str(Path.home())


# -- the ResourceManagers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, "http://localhost:8088"),
        ({"yarn.resourcemanager.hostname": "rm"}, "http://rm:8088"),
        ({"yarn.resourcemanager.webapp.address": "rm:1"}, "http://rm:1"),
        (
            {
                "yarn.resourcemanager.webapp.address": "0.0.0.0:1",
                "yarn.resourcemanager.hostname": "rm",
            },
            "http://rm:1",
        ),
        (
            {
                "yarn.resourcemanager.webapp.address": "${yarn.resourcemanager.hostname}:1",
                "yarn.resourcemanager.hostname": "rm",
            },
            "http://rm:1",
        ),
        (
            {"yarn.http.policy": "HTTPS_ONLY", "yarn.resourcemanager.hostname": "rm"},
            "https://rm:8090",
        ),
        (
            {
                "yarn.http.policy": "HTTPS_ONLY",
                "yarn.resourcemanager.webapp.https.address": "rm:2",
                "yarn.resourcemanager.webapp.address": "rm:1",
            },
            "https://rm:2",
        ),
    ],
)
def test_the_resource_manager(properties: dict[str, str], expected: str) -> None:
    assert HadoopConfig(Path("/conf"), "", properties).resource_managers() == (expected,)


HA = {
    "yarn.resourcemanager.ha.enabled": "true",
    "yarn.resourcemanager.ha.rm-ids": "rm1, rm2",
    "yarn.resourcemanager.hostname.rm1": "a",
    "yarn.resourcemanager.webapp.address.rm2": "b:1",
}


def test_all_resource_managers_of_a_pair() -> None:
    config = HadoopConfig(Path("/conf"), "", HA)
    assert config.resource_managers() == ("http://a:8088", "http://b:1")


@pytest.mark.parametrize(
    ("missing", "named"), [("yarn.resourcemanager.hostname.rm1", "rm1"), (list(HA)[1], "rm-ids")]
)
def test_a_pair_without_an_address_is_refused(missing: str, named: str) -> None:
    values = {name: value for name, value in HA.items() if name != missing}
    with pytest.raises(ConfigError, match=named):
        HadoopConfig(Path("/conf"), "", values).resource_managers()


# -- the NameNodes --------------------------------------------------------------------------

NAMESERVICE = {
    "fs.defaultFS": "hdfs://ns",
    "dfs.nameservices": "ns,other",
    "dfs.ha.namenodes.ns": "nn1,nn2",
    "dfs.namenode.http-address.ns.nn1": "a:1",
    "dfs.namenode.rpc-address.ns.nn2": "b:8020",
    "dfs.namenode.https-address.ns.nn1": "a:2",
    "dfs.namenode.http-address.other": "c:3",
}


@pytest.mark.parametrize(
    ("properties", "filesystem", "expected"),
    [
        ({"fs.defaultFS": "hdfs://nn:8020"}, "", ["http://nn:9870"]),
        ({"fs.defaultFS": "hdfs://nn/"}, "", ["http://nn:9870"]),
        (
            {"fs.defaultFS": "hdfs://nn:8020", "dfs.namenode.http-address": "0.0.0.0:1"},
            "",
            ["http://nn:1"],
        ),
        (
            {"fs.defaultFS": "hdfs://nn:8020", "dfs.namenode.http-address": "web:1"},
            "",
            ["http://web:1"],
        ),
        (
            {"fs.defaultFS": "hdfs://nn:8020", "dfs.namenode.http-address": "web:1"},
            "hdfs://another:8020",
            ["http://another:9870"],
        ),
        (
            {"fs.defaultFS": "hdfs://nn:8020", "dfs.http.policy": "HTTPS_ONLY"},
            "",
            ["https://nn:9871"],
        ),
        ({}, "webhdfs://nn:1", ["http://nn:1"]),
        ({}, "swebhdfs://nn:1", ["https://nn:1"]),
        (NAMESERVICE, "", ["http://a:1", "http://b:9870"]),
        (NAMESERVICE, "hdfs://other", ["http://c:3"]),
        ({**NAMESERVICE, "dfs.http.policy": "HTTPS_ONLY"}, "", ["https://a:2", "https://b:9871"]),
    ],
)
def test_the_namenodes(properties: dict[str, str], filesystem: str, expected: list[str]) -> None:
    config = HadoopConfig(Path("/conf"), "", properties)
    assert list(config.namenodes(filesystem)) == expected


@pytest.mark.parametrize(
    "filesystem", ["s3a://bucket", "file:///", "viewfs://x", "hdfs://", "hdfs://nn:port"]
)
def test_what_is_no_hdfs_is_refused(filesystem: str) -> None:
    with pytest.raises(ConfigError, match="/conf: the file system"):
        of(fs__defaultFS=filesystem).namenodes()


def test_a_nameservice_without_an_address_is_refused() -> None:
    values = {n: v for n, v in NAMESERVICE.items() if n != "dfs.namenode.rpc-address.ns.nn2"}
    with pytest.raises(ConfigError, match=r"dfs\.namenode\.http-address\.ns\.nn2"):
        HadoopConfig(Path("/conf"), "", values).namenodes()


# -- the rest -------------------------------------------------------------------------------


def test_whether_it_is_secure_and_what_it_is_called() -> None:
    assert not of().is_secure
    assert of(hadoop__security__authentication="Kerberos").is_secure
    assert of().cluster_id == ""
    assert of(yarn__resourcemanager__cluster_id="mine").cluster_id == "mine"
    assert of().default_filesystem == "file:///"
