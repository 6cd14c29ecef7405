"""A git server over SSH: OpenSSH's own daemon, which lets one key in, and only to git."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow_exec.clients.ports import free_port
from mlflow_exec.testing.collecting import until
from tests.clusters.pytest_kubernetes import unavailable
from tests.mlflow.git_server import Repositories

_CONFIG = """
Port {port}
ListenAddress 0.0.0.0
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
# The folder of a test lies in one where everybody may write.
StrictModes no
ForceCommand git-shell -c "$SSH_ORIGINAL_COMMAND"
"""


def make_key(path: Path) -> str:
    """Make a key without a passphrase and return it; its public half is in ``<path>.pub``."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path.read_text()


@dataclass
class SshServer(Repositories):
    """Serves repositories over SSH.

    Attributes:
        host: Its name in a file of known hosts.
        key: The private key that it lets in.
        known_hosts: The line that tells it from others.
    """

    host: str
    key: str
    known_hosts: str

    @property
    def client_command(self) -> str:
        """The ``GIT_SSH_COMMAND`` of a user whom it lets in."""
        return (
            f"ssh -F none -i {self.folder}/user -o UserKnownHostsFile={self.folder}/known_hosts "
            f"-o BatchMode=yes"
        )


@contextlib.contextmanager
def ssh_server(folder: Path, visible_as: str) -> Iterator[SshServer]:
    """Serve the repositories of an empty folder, where its keys are too, on all addresses."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None:
        unavailable("a git server over SSH needs: apt-get install openssh-server")
    port = free_port("0.0.0.0")
    host = f"[{visible_as}]:{port}"
    make_key(folder / "host")
    key = make_key(folder / "user")
    known_hosts = f"{host} {(folder / 'host.pub').read_text()}"
    (folder / "known_hosts").write_text(known_hosts)
    (folder / "sshd_config").write_text(_CONFIG.format(port=port, folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # an empty folder that it confines to
    argv = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def answers() -> bool:
        assert server.poll() is None, (folder / "sshd.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection((visible_as, port), 5) as link:
            return link.recv(4) == b"SSH-"
        return False

    try:
        until(answers, "the SSH server answers")
        user = pwd.getpwuid(os.geteuid()).pw_name
        url = f"ssh://{user}@{visible_as}:{port}{folder}"
        yield SshServer(url, folder, host, key, known_hosts)
    finally:
        server.kill()
        server.wait()
