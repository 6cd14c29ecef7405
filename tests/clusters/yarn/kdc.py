"""A Kerberos of MIT's own daemon, whose realm is one cluster's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.clusters.yarn.daemons import Daemon
from tests.clusters.yarn.layout import Layout

REALM = "MLFLOW-EXEC.TEST"

# Debian has the daemon where only root's PATH leads.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
# Each program, and the Debian package that has it.
_PROGRAMS = {
    "krb5kdc": "krb5-kdc",
    "kdb5_util": "krb5-kdc",
    "kadmin.local": "krb5-admin-server",
    "kinit": "krb5-user",
    "curl": "curl",
    "javac": "openjdk-17-jdk-headless",
}
_KRB5_CONF = """\
[libdefaults]
    default_realm = {realm}
    dns_lookup_realm = false
    dns_lookup_kdc = false
    dns_canonicalize_hostname = false
    rdns = false
    udp_preference_limit = 1
    ticket_lifetime = 24h
    renew_lifetime = 7d
[realms]
    {realm} = {{
        kdc = 127.0.0.1:{port}
    }}
[domain_realm]
    localhost = {realm}
"""
_KDC_CONF = """\
[kdcdefaults]
    kdc_listen = ""
    kdc_tcp_listen = 127.0.0.1:{port}
[realms]
    {realm} = {{
        database_name = {folder}/principals
        key_stash_file = {folder}/stash
        acl_file = {folder}/acl
        max_life = 24h
        max_renewable_life = 7d
        supported_enctypes = aes256-cts-hmac-sha1-96:normal
    }}
"""


def missing() -> list[str]:
    """Return a sentence for each thing that is missing for a cluster with Kerberos."""
    return [
        f"{program} is missing: apt-get install {package}"
        for program, package in _PROGRAMS.items()
        if shutil.which(program, path=_PATH) is None
    ]


@dataclass(frozen=True)
class Kdc:
    """The Kerberos of a cluster; its port is `kdc`, its daemon too."""

    layout: Layout

    @property
    def folder(self) -> Path:
        """The folder of its database, of all keys and tickets."""
        return self.layout.folder / "kerberos"

    @property
    def krb5_conf(self) -> Path:
        """The clients' configuration: for KRB5_CONFIG, and `java.security.krb5.conf` in Java."""
        return self.folder / "krb5.conf"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which programs find it, those in Java too."""
        return {
            "KRB5_CONFIG": str(self.krb5_conf),
            "JAVA_TOOL_OPTIONS": f"-Djava.security.krb5.conf={self.krb5_conf}",
        }

    def daemon(self) -> Daemon:
        """Return its process, after `make`."""
        command = ["krb5kdc", "-n", "-r", REALM, "-P", str(self.folder / "pid")]
        return Daemon("kdc", command, self._environment(), self.layout, lambda _: self._serves())

    def make(self, principals: Iterable[str]) -> None:
        """Make its files, and principals with a keytab each; see `keytab`."""
        self.folder.mkdir(mode=0o700)
        port = self.layout.ports["kdc"]
        self.krb5_conf.write_text(_KRB5_CONF.format(realm=REALM, port=port))
        settings = _KDC_CONF.format(realm=REALM, port=port, folder=self.folder)
        (self.folder / "kdc.conf").write_text(settings)
        self._run("kdb5_util", "create", "-s", "-r", REALM, "-P", "of the tests")
        for principal in principals:
            self.add(principal)

    def add(self, principal: str) -> Path:
        """Make a principal (`me`, `HTTP/localhost`) with a keytab, and return the keytab's file."""
        keytab = self.keytab(principal)
        self._run("kadmin.local", "-r", REALM, "addprinc", "-randkey", principal)
        self._run("kadmin.local", "-r", REALM, "ktadd", "-k", str(keytab), principal)
        return keytab

    def keytab(self, principal: str) -> Path:
        """Return the file of a principal's keytab, there or not."""
        return self.folder / f"{principal.replace('/', '-')}.keytab"

    def sign_in(self, user: str, *, lifetime_s: int = 86400) -> Path:
        """Get a ticket for a user, made if he is new, and return the file with it.

        Args:
            user: a principal without the realm.
            lifetime_s: how long the ticket is good for.
        """
        keytab = self.keytab(user)
        if not keytab.exists():
            self.add(user)
        tickets = self.folder / f"{user}.tickets"
        self._run(
            "kinit", "-c", f"FILE:{tickets}", "-l", f"{lifetime_s}s", "-k", "-t", str(keytab), user
        )
        return tickets

    def _serves(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.layout.ports["kdc"])) == 0

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "TMPDIR": f"{self.layout.folder}/tmp",
            "KRB5_CONFIG": str(self.krb5_conf),
            "KRB5_KDC_PROFILE": str(self.folder / "kdc.conf"),
        }

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
