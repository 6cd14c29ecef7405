"""Real servers of files for tests: OpenSSH's SFTP, Apache's WebDAV, WsgiDAV, Samba, FTP."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow_exec.clients.ports import free_port
from tests.clusters.pytest_kubernetes import unavailable
from tests.databases import PASSWORD, USER, folder_for_others, hand_over, running

SSHD = Path("/usr/sbin/sshd")
SAMBA_USER = "nobody"  # an account of the machine, as Samba wants it


@dataclass(frozen=True)
class SshServer:
    """OpenSSH's server; who tests is its user.

    Attributes:
        port: On the loopback.
        user: Who may sign in.
        private_key: With what.
        other_key: A key that is not allowed.
        host_key: The server's public key.
        other_host_key: That of another server.
        folder: An empty folder of its file system.
    """

    port: int
    user: str
    private_key: str
    other_key: str
    host_key: str
    other_host_key: str
    folder: Path


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """An OpenSSH server with keys of its own, for SFTP only."""
    if not SSHD.exists():
        unavailable("openssh-server of Debian is not installed")
    for name, kind in (("host", "ed25519"), ("user", "rsa"), ("other", "ed25519")):
        make = ["ssh-keygen", "-q", "-t", kind, "-m", "PEM", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True)
    (folder / "data").mkdir()
    port = free_port()
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        f"Subsystem sftp internal-sftp\nForceCommand internal-sftp\nMaxStartups 100\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where it gives up its rights
    command = [str(SSHD), "-D", "-e", "-f", str(folder / "config")]
    with running(command, folder / "log", port):
        yield SshServer(
            port, getpass.getuser(), (folder / "user").read_text(),
            (folder / "other").read_text(), (folder / "host.pub").read_text(),
            (folder / "other.pub").read_text(), folder / "data",
        )  # fmt: skip


@dataclass(frozen=True)
class FileServer:
    """A server of files with one user.

    Attributes:
        port: On the loopback.
        folder: What it serves.
    """

    port: int
    folder: Path


_APACHE = """
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/pid
ErrorLog {folder}/error.log
Mutex file:{folder}/run
User nobody
Group nogroup
{modules}
ThreadsPerChild 32
StartServers 1
MaxRequestWorkers 32
DocumentRoot {folder}/data
DavLockDB {folder}/run/locks
TypesConfig /dev/null
AddType text/plain .txt
AddOutputFilterByType DEFLATE text/plain
LimitRequestBody 0
<Directory {folder}/data>
    Dav On
    AuthType Basic
    AuthName artifacts
    AuthUserFile {folder}/users
    Require valid-user
</Directory>
<Directory {folder}/data/artifacts/limited>
    LimitRequestBody 1000000
</Directory>
"""
_MODULES = (
    "mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "dav",
    "dav_fs", "dav_lock", "dir", "mime", "filter", "deflate",
)  # fmt: skip


@contextlib.contextmanager
def apache() -> Iterator[FileServer]:
    """An Apache with mod_dav, for `USER` of `tests.databases` with his password."""
    if shutil.which("apache2") is None:
        unavailable("apache2-bin of Debian is not installed")
    with folder_for_others() as folder, _apache(folder) as server:
        yield server


def change_password(users: Path, password: str) -> None:
    """Give `USER` another password at an Apache whose users are in a file; it reads that anew."""
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", password], check=True, capture_output=True, text=True
    )
    users.write_text(f"{USER}:{hashed.stdout}")


@contextlib.contextmanager
def _apache(folder: Path) -> Iterator[FileServer]:
    port = free_port()
    for name in ("data", "run"):
        (folder / name).mkdir()
    change_password(folder / "users", PASSWORD)
    modules = "".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in _MODULES
    )
    config = folder / "apache.conf"
    config.write_text(_APACHE.format(port=port, folder=folder, modules=modules))
    hand_over(folder, "nobody")
    with running(["apache2", "-X", "-f", str(config)], folder / "log", port):
        yield FileServer(port, folder / "data")


_WSGIDAV = """
import sys
from cheroot.wsgi import Server
from wsgidav.wsgidav_app import WsgiDAVApp
folder, port, user, password = sys.argv[1:]
app = WsgiDAVApp({
    "provider_mapping": {"/": folder},
    "simple_dc": {"user_mapping": {"*": {user: {"password": password}}}},
    "http_authenticator": {"accept_digest": False, "default_to_digest": False},
    "lock_storage": None, "property_manager": None, "verbose": 1,
})
Server(("127.0.0.1", int(port)), app, numthreads=16, request_queue_size=64).start()
"""


@contextlib.contextmanager
def wsgidav(folder: Path) -> Iterator[FileServer]:
    """A WsgiDAV for `USER` of `tests.databases` with his password."""
    port = free_port()
    (folder / "data").mkdir()
    (folder / "serve.py").write_text(_WSGIDAV)
    data = str(folder / "data")
    command = [sys.executable, str(folder / "serve.py"), data, str(port), USER, PASSWORD]
    with running(command, folder / "log", port):
        yield FileServer(port, folder / "data")


_FTP = """
import os, sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
folder, port, user, password, knows_facts = sys.argv[1:]
FTPHandler.authorizer = DummyAuthorizer()
FTPHandler.authorizer.add_user(user, password, folder, perm="elradfmwMT")
FTPHandler.auth_failed_timeout = 0
class Guarded(AbstractedFS):
    def listdir(self, path):
        if not os.stat(path).st_mode & 0o444:  # root may read it all the same
            raise PermissionError(13, "Permission denied", path)
        return super().listdir(path)
class Busy(FTPHandler):
    abstracted_fs = Guarded
    proto_cmds = {
        name: told for name, told in FTPHandler.proto_cmds.items()
        if knows_facts == "yes" or not name.startswith("ML")
    }
    def ftp_MLSD(self, path):
        busy = os.path.join(os.path.dirname(folder), "busy")
        if not os.path.exists(busy):
            return super().ftp_MLSD(path)
        with open(busy) as file:
            left = int(file.read()) - 1
        if left:
            with open(busy, "w") as file:
                file.write(str(left))
        else:
            os.unlink(busy)
        self.respond("425 Can't open data connection.")
FTPServer(("127.0.0.1", int(port)), Busy).serve_forever()
"""


@contextlib.contextmanager
def ftp(folder: Path, *, knows_facts: bool = True) -> Iterator[FileServer]:
    """A pyftpdlib for `USER` of `tests.databases` with his password.

    It answers so often that it cannot list now as a file ``busy`` beside its folder says.

    Args:
        folder: For its files.
        knows_facts: Whether it knows MLST and MLSD, as older servers do not.
    """
    (folder / "data").mkdir()
    port = free_port()
    data = str(folder / "data")
    knows = "yes" if knows_facts else "no"
    command = [sys.executable, "-c", _FTP, data, str(port), USER, PASSWORD, knows]
    with running(command, folder / "log", port):
        yield FileServer(port, folder / "data")


_SAMBA = """
[global]
server role = standalone server
interfaces = lo
bind interfaces only = yes
smb ports = {port}
disable netbios = yes
load printers = no
printing = bsd
printcap name = /dev/null
pid directory = {folder}/run
lock directory = {folder}/run
state directory = {folder}/run
cache directory = {folder}/run
private dir = {folder}/run
ncalrpc dir = {folder}/run/ncalrpc
log file = {folder}/log.smbd
passdb backend = tdbsam:{folder}/run/passdb.tdb
[share]
path = {folder}/data
read only = no
force user = {owner}
case sensitive = yes
"""


@contextlib.contextmanager
def samba(folder: Path) -> Iterator[FileServer]:
    """A Samba with one share, ``share``; its user is `SAMBA_USER`, with the usual password."""
    if shutil.which("smbd") is None:
        unavailable("samba of Debian is not installed")
    port = free_port()
    for name in ("data", "run"):
        (folder / name).mkdir()
    config = folder / "smb.conf"
    config.write_text(_SAMBA.format(port=port, folder=folder, owner=getpass.getuser()))
    add = ["pdbedit", "-s", str(config), "-a", "-t", "-u", SAMBA_USER]
    subprocess.run(
        add, check=True, capture_output=True, text=True, input=f"{PASSWORD}\n{PASSWORD}\n"
    )
    command = ["smbd", "-F", "--no-process-group", "--debug-stdout", "-s", str(config)]
    with running(command, folder / "log", port):
        yield FileServer(port, folder / "data")
