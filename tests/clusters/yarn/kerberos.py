"""A YARN and HDFS that ask everybody for a Kerberos ticket."""

from __future__ import annotations

import email.message
import io
import json
import os
import shutil
import subprocess
import urllib.error
from pathlib import Path
from typing import Any

from tests.clusters.cache import build_once, cache_folder
from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.configuration import Properties
from tests.clusters.yarn.daemons import Daemon
from tests.clusters.yarn.jars import jars, java_home, version
from tests.clusters.yarn.kdc import REALM, Kdc

_HTTP = "HTTP/localhost"
_HDFS = "hdfs/localhost"
_YARN = "yarn/localhost"
_JAVA = Path(__file__).parent / "java"


class KerberosYarnCluster(YarnCluster):
    """A YARN and HDFS with Kerberos, for RPC and, by SPNEGO, for REST.

    The daemon `kdc` is its Kerberos. Everything is at `localhost`, as the principals say. Nothing
    is encrypted, and all containers are processes of the user who runs the tests.
    """

    _host = "localhost"

    @property
    def kdc(self) -> Kdc:
        """Its Kerberos: users and their keytabs."""
        return Kdc(self._layout)

    @property
    def superuser(self) -> str:
        return "hdfs"

    def environment(self, user: str | None = None) -> dict[str, str]:
        """Return the variables of a client who has just signed in; a new user is made.

        Without a ticket he is where KRB5CCNAME names a file that is not there.
        """
        variables = super().environment()
        del variables["HADOOP_USER_NAME"]  # nobody is believed here
        tickets = self.kdc.sign_in(user or self.superuser)
        return {**variables, **self.kdc.environment, "KRB5CCNAME": f"FILE:{tickets}"}

    def call(
        self, url: str, *, user: str | None = None, method: str = "GET", body: Any = None
    ) -> Any:
        tickets = self.kdc.folder / f"{user or self.superuser}.tickets"
        if not tickets.exists():
            self.kdc.sign_in(user or self.superuser)
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "10"]
        command += ["--negotiate", "--user", ":", "--request", method]
        command += ["--header", "Content-Type: application/json"]
        if body is not None:
            command += ["--data-binary", json.dumps(body)]
        done = subprocess.run(
            [*command, "--write-out", "\n%{http_code}", url],
            env={**os.environ, **self.kdc.environment, "KRB5CCNAME": f"FILE:{tickets}"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise OSError(f"{url}: {done.stderr.strip()}")
        text, _, status = done.stdout.rpartition("\n")
        if int(status) >= 400:
            content = io.BytesIO(text.encode())
            headers = email.message.Message()
            raise urllib.error.HTTPError(url, int(status), text[:200], headers, content)
        return json.loads(text) if text else None

    def _ports(self) -> tuple[str, ...]:
        return (*super()._ports(), "kdc")

    def _write_files(self) -> None:
        super()._write_files()
        (self.folder / "http-secret").write_text(self._layout.cluster_id)
        self.kdc.make((_HTTP, _HDFS, _YARN, self.superuser))
        daemon = self.kdc.daemon()
        self._daemons[daemon.name] = daemon
        daemon.spawn()
        daemon.await_ready()
        self.kdc.sign_in(self.superuser)

    def _add_node(self, name: str, properties: Properties) -> Daemon:
        daemon = super()._add_node(name, properties)
        # The folder is the first of its class path.
        shutil.copytree(_classes(), self._nodes[name].conf_dir, dirs_exist_ok=True)
        return daemon

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), **self.kdc.environment}

    def _own_files(self) -> dict[str, dict[str, str]]:
        return {
            "core-site": self._core(),
            "hdfs-site": self._hdfs_site(),
            "yarn-site": self._site(),
        }

    def _core(self) -> dict[str, str]:
        return {
            "hadoop.security.authentication": "kerberos",
            "hadoop.security.authorization": "true",
            "hadoop.http.filter.initializers": (
                "org.apache.hadoop.security.AuthenticationFilterInitializer"
            ),
            "hadoop.http.authentication.type": "kerberos",
            "hadoop.http.authentication.simple.anonymous.allowed": "false",
            "hadoop.http.authentication.signature.secret.file": f"{self.folder}/http-secret",
            **self._login("hadoop.http.authentication.kerberos", _HTTP),
        }

    def _hdfs_site(self) -> dict[str, str]:
        return {
            "dfs.block.access.token.enable": "true",
            "dfs.data.transfer.protection": "authentication",
            # Else it wants ports that only root may open, or TLS.
            "ignore.secure.ports.for.testing": "true",
            "dfs.namenode.kerberos.principal": _full(_HDFS),
            "dfs.namenode.keytab.file": str(self.kdc.keytab(_HDFS)),
            "dfs.namenode.kerberos.internal.spnego.principal": _full(_HTTP),
            "dfs.datanode.kerberos.principal": _full(_HDFS),
            "dfs.datanode.keytab.file": str(self.kdc.keytab(_HDFS)),
            **self._login("dfs.web.authentication.kerberos", _HTTP),
        }

    def _site(self) -> dict[str, str]:
        site = {
            # A container's Java finds the realm by its variables.
            "yarn.nodemanager.env-whitelist": "JAVA_HOME,PATH,KRB5_CONFIG,JAVA_TOOL_OPTIONS",
        }
        for daemon in ("resourcemanager", "nodemanager"):
            prefix = f"yarn.{daemon}"
            site[f"{prefix}.principal"] = _full(_YARN)
            site[f"{prefix}.keytab"] = str(self.kdc.keytab(_YARN))
            site[f"{prefix}.webapp.spnego-principal"] = _full(_HTTP)
            site[f"{prefix}.webapp.spnego-keytab-file"] = str(self.kdc.keytab(_HTTP))
        return {**super()._site(), **site}

    def _login(self, prefix: str, principal: str) -> dict[str, str]:
        keytab = str(self.kdc.keytab(principal))
        return {f"{prefix}.principal": _full(principal), f"{prefix}.keytab": keytab}


def _full(principal: str) -> str:
    return f"{principal}@{REALM}"


def _classes() -> Path:
    """Return the folder of our own Java classes, compiled once per version of Hadoop."""
    source = next(_JAVA.rglob("*.java"))
    return build_once(cache_folder() / f"hadoop-{version()}-{source.stem}", _compile)


def _compile(part: Path) -> None:
    part.mkdir(parents=True)
    sources = [str(path) for path in _JAVA.rglob("*.java")]
    done = subprocess.run(
        [f"{java_home()}/bin/javac", "-nowarn", "-cp", f"{jars()}/*", "-d", str(part), *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"javac: {done.stderr}")
