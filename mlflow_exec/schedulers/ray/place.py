"""Which Ray a job handle names: the address of its dashboard, and what that means elsewhere.

A loopback address leads each machine to a Ray of its own, or through a tunnel to whatever that
leads to now. So a handle of such an address names the machine that it is valid on, in a host name
that still means loopback: ``ray-job+http://127.0.0.1.<machine>.localhost:8265/<submission id>``,
and ``<machine>-forwarded`` where the Ray itself does not run there. Any other address is taken to
mean the same Ray everywhere.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mlflow_exec.clients import ray_embedded
from mlflow_exec.clients.ray import RayClient, check_address
from mlflow_exec.errors import ClusterError, HandleError, UnreachableError
from mlflow_exec.jobs import JobHandle

_SCHEME = "ray-job+"
_MARKED = re.compile(r"^(.+)\.([0-9a-f]{16})(-forwarded)?\.localhost$")


class _Loopback(NamedTuple):
    """The host part of a handle whose address is loopback."""

    host: str
    machine: str = ""
    forwarded: bool = True


def handle_of(address: str, submission_id: str, session: str, mark: str = "") -> JobHandle:
    """Return the handle of a job on the dashboard at an address.

    Args:
        address: The address.
        submission_id: The job.
        session: The start of Ray that it belongs to.
        mark: Of a loopback address, as `mark_of` returns it.
    """
    parts = urlsplit(address)
    prefix = tuple(part for part in parts.path.split("/") if part)
    cluster = parts.netloc
    if mark:
        host = parts.hostname or ""
        port = "" if parts.port is None else f":{parts.port}"
        cluster = f"{'localhost' if ':' in host else host}.{mark}.localhost{port}"
    return JobHandle(f"{_SCHEME}{parts.scheme}", cluster, (*prefix, submission_id), session)


def address_of(handle: JobHandle) -> str:
    """Return the address of the dashboard that a handle names."""
    scheme = handle.scheme.removeprefix(_SCHEME)
    cluster = handle.cluster
    loopback = _loopback(handle)
    if loopback is not None and loopback.machine:
        port = urlsplit(f"//{cluster}").port
        cluster = loopback.host + ("" if port is None else f":{port}")
    address = "/".join((f"{scheme}://{cluster}", *handle.path[:-1]))
    return check_address(address, f"job handle {handle}")


def mark_of(client: RayClient, session: str) -> str:
    """Return what tells the client's address from the same one elsewhere; empty if it need not.

    Raises:
        UnreachableError: Ray does not tell yet where its head runs.
    """
    if not _is_loopback(urlsplit(client.address).hostname or ""):
        return ""
    return machine() if _runs_here(client, session) else f"{machine()}-forwarded"


@cache
def machine() -> str:
    """Return 16 hex digits that tell this machine from others, whenever it was started."""
    own = f"{uuid.getnode():x}"
    with suppress(OSError, UnicodeDecodeError):
        own = Path("/etc/machine-id").read_text(encoding="utf-8").strip() or own
    return hashlib.sha256(f"mlflow-exec {own} {socket.gethostname()}".encode()).hexdigest()[:16]


def is_of_elsewhere(handle: JobHandle) -> bool:
    """Whether a handle's address is surely another machine's loopback."""
    loopback = _loopback(handle)
    return loopback is not None and loopback.machine not in ("", machine())


def elsewhere(handle: JobHandle) -> HandleError:
    """Return the error for a job whose Ray cannot be told from the one that answers, if any."""
    return HandleError(
        f"job handle {handle}: its address leads to another Ray here, or to one that cannot be "
        f"told from it; ask on the machine that submitted the job, through the tunnel of then, or "
        f"set 'address' to where its own Ray is reached"
    )


def is_over(handle: JobHandle, client: RayClient, session: str) -> bool:
    """Whether the Ray that answers is a later start of the handle's own, which took its jobs away.

    With Ray's own fault tolerance a restarted head keeps its session, and its jobs.

    Raises:
        HandleError: It may be another Ray altogether, of which nothing follows for the job.
        UnreachableError: It does not tell yet where it runs.
    """
    if handle.uid == session:
        return False
    loopback = _loopback(handle)
    if loopback is not None:
        same = loopback.machine == machine() and not loopback.forwarded
        if not (same and _runs_here(client, session)):
            raise elsewhere(handle)
    return bool(handle.uid)


def was_stopped_here(handle: JobHandle) -> bool:
    """Whether the job ran on a Ray of this machine that was stopped; it never comes back."""
    if not handle.uid or not ray_embedded.was_here(handle.uid):
        return False
    alive = ray_embedded.recorded()
    return alive is None or alive.session_name != handle.uid


def _loopback(handle: JobHandle) -> _Loopback | None:
    host = urlsplit(f"//{handle.cluster}").hostname or ""
    match = _MARKED.match(host)
    if match is not None:
        return _Loopback(match.group(1), match.group(2), bool(match.group(3)))
    return _Loopback(host) if _is_loopback(host) else None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _runs_here(client: RayClient, session: str) -> bool:
    """Whether the Ray that answers at a loopback address runs on this machine itself."""
    embedded = ray_embedded.recorded()
    if embedded is not None and embedded.session_name == session:
        return True
    try:
        head = client.head_ip()
    except UnreachableError:
        raise
    except (ClusterError, KeyError, TypeError):
        return False  # another version of Ray, which does not tell it
    if head is None:  # as long as it starts
        raise UnreachableError(f"Ray {client.address}: it does not tell yet where its head runs")
    if _is_loopback(head):  # every machine has that one
        return False
    family = socket.AF_INET6 if ":" in head else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((head, 0))  # refused for the address of another machine
        return True
    except OSError:
        return False
