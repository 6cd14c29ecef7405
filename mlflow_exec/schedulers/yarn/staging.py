"""The files of applications in HDFS: one folder per job, which only its user can read."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ClusterError, ConfigError, NotFoundError, RejectedError
from mlflow_exec.jobs import JOB_NAME
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.yarn.plan import FIRST_STEP, staged, staging_folder

_OWNER_ONLY = "700"
# com.anaconda.skein.Driver: its own folder in the user's home, with one for each application. What
# tells of the application is written last.
_SKEIN = ".skein"
_SPECIFICATION = ".skein.proto"
_BEFORE_IT = frozenset({".skein.crt", ".skein.pem", "skein.jar"})
# A driver writes these files in seconds; what has stayed incomplete for so long nobody completes.
_ABANDONED_S = 600.0


def path_of(uri: str) -> str:
    """Return the path in a URI such as ``hdfs://namenode:8020/user/me/x``."""
    return "/" + uri.partition("://")[2].partition("/")[2]


def filesystem_of(uri: str) -> str:
    """Return a URI without its path."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def check_root(hdfs: WebHdfs, root: str, user: str) -> None:
    """Refuse a place where nothing can be staged, or others could read it; changes nothing.

    Args:
        hdfs: The file system.
        root: The URI of the folder for all that the user stages.
        user: Whose it is.

    Raises:
        ConfigError: The message says what to do.
        ClusterError: HDFS takes no changes now, such as in its safe mode, or does not answer.
    """
    path = path_of(root)
    found = hdfs.status(path)
    if found is not None:
        _refuse_others(found, root, user)
        _require_changes(hdfs, path)
        return
    parent = path.rpartition("/")[0] or "/"
    above = hdfs.status(parent)
    if above is None:
        raise ConfigError(
            f"staging_dir: {filesystem_of(root)}{parent} does not exist; an administrator makes it "
            f"(hdfs dfs -mkdir {parent}; hdfs dfs -chown {user} {parent} for a home, -chmod 1777 "
            f"for a folder of all), or give another 'staging_dir'"
        )
    mode = int(str(above.get("permission") or "0"), 8)
    mine = above.get("owner") == user
    if above.get("type") != "DIRECTORY" or not (mode & (0o200 if mine else 0o022)):
        raise ConfigError(
            f"staging_dir: {filesystem_of(root)}{parent} belongs to {above.get('owner')!r} with "
            f"the permission {above.get('permission')}, and {user!r} cannot make a folder in it; "
            f"give another 'staging_dir'"
        )
    _require_changes(hdfs, parent)


def _require_changes(hdfs: WebHdfs, folder: str) -> None:
    """Fail where HDFS would let nothing be made in a folder: it refuses a deletion alike."""
    hdfs.delete(f"{folder.rstrip('/')}/.there-is-none-{secrets.token_hex(8)}", recursive=False)


def make_root(hdfs: WebHdfs, root: str, user: str) -> None:
    """Make the folder for all that a user stages, unless it is there.

    Raises:
        ConfigError: It is there and others could read what is put into it.
        ClusterError: It cannot be made.
    """
    path = path_of(root)
    if hdfs.status(path) is None:
        hdfs.make_folder(path, permission=_OWNER_ONLY)
    found = hdfs.status(path)
    if found is None:
        raise NotFoundError(f"{root}: it was made, and is gone")
    _refuse_others(found, root, user)


def _refuse_others(found: Mapping[str, Any], root: str, user: str) -> None:
    mode = int(str(found.get("permission") or "0"), 8)
    if found.get("type") == "DIRECTORY" and found.get("owner") == user and not mode & 0o077:
        return
    raise ConfigError(
        f"staging_dir: {root} must be a folder of {user!r} that nobody else can read; it belongs "
        f"to {found.get('owner')!r} with the permission {found.get('permission')}; remove it, or "
        f"change that by hdfs dfs -chmod 700"
    )


def is_of(folder: str, name: str) -> bool:
    """Whether a folder is that of a job, or of an earlier submission whose files it has taken."""
    mine, other = JOB_NAME.match(name), JOB_NAME.match(folder.rpartition("/")[2])
    if mine is None or other is None or mine.group(1) != other.group(1):
        return False
    return int(other.group(2)) <= int(mine.group(2))


def upload(hdfs: WebHdfs, plan: Plan) -> str:
    """Put what an application needs into its folder; what is there is not sent again.

    Returns:
        The folder's URI.

    Raises:
        ClusterError: Something cannot be written.
    """
    folder = staging_folder(plan.objects[0])
    assert folder is not None, "every plan has the archive of a first step"
    hdfs.make_folder(path_of(folder), permission=_OWNER_ONLY)
    for name, content in staged(plan):
        put(hdfs, f"{path_of(folder)}/{name}", content)
    return folder


def put(hdfs: WebHdfs, path: str, content: bytes | Path | Secret) -> None:
    """Write a file so that it is there whole or not at all.

    One that is there stays as it is: YARN gives no file to a job that was changed meanwhile.
    """
    data = content.reveal().encode() if isinstance(content, Secret) else content
    size_bytes = data.stat().st_size if isinstance(data, Path) else len(data)
    found = hdfs.status(path)
    same_size = found is not None and found.get("length") == size_bytes
    # Its name tells the content of every file but of a secret.
    if same_size and (not isinstance(content, Secret) or b"".join(hdfs.read(path)) == data):
        return
    part = f"{path}.{secrets.token_hex(4)}.part"
    try:
        hdfs.write(part, data, permission="600")
        if not hdfs.rename(part, path):  # another one was faster, or it is of an earlier try
            hdfs.delete(path, recursive=False)
            if not hdfs.rename(part, path) and hdfs.status(path) is None:
                raise RejectedError(f"{hdfs.filesystem}{path}: it cannot be renamed to this")
    finally:
        with suppress(ClusterError):
            hdfs.delete(part, recursive=False)


def missing(hdfs: WebHdfs, application: Mapping[str, Any]) -> list[str]:
    """Return the files of an application's own folder that are not there, by URI."""
    folder = staging_folder(application)
    files = application["master"]["files"].values()
    sources = [str(file["source"]) for file in files]
    own = [uri for uri in sources if uri.rpartition("/")[0] == folder]
    return [uri for uri in own if hdfs.status(path_of(uri)) is None]


def restore(hdfs: WebHdfs, application: Mapping[str, Any], data: Mapping[str, bytes]) -> None:
    """Put back the archive of the first step if it is all that is missing.

    Raises:
        RejectedError: Something else is gone.
    """
    gone = missing(hdfs, application)
    first = str(application["master"]["files"][FIRST_STEP]["source"])
    content = data.get(first.rpartition("/")[2])
    if gone == [first] and content is not None:
        put(hdfs, path_of(first), content)
    elif gone:
        raise RejectedError(f"{gone[0]}: it is not in HDFS any more, and the job needs it")


def remove(hdfs: WebHdfs, application: Mapping[str, Any]) -> None:
    """Remove an application's folder; one that is gone is no error.

    Raises:
        ClusterError: It cannot be removed.
    """
    folder = staging_folder(application)
    if folder is not None and JOB_NAME.match(folder.rpartition("/")[2]):
        hdfs.delete(path_of(folder), recursive=True)


def remove_skeins(hdfs: WebHdfs, uid: str) -> None:
    """Remove what skein's driver has put into the user's home for an application that is over.

    One that ends by itself removes it; one that is killed does not.

    Raises:
        ClusterError: It cannot be removed.
    """
    hdfs.delete(f"{hdfs.home()}/{_SKEIN}/{uid}", recursive=True)


def search_skeins(hdfs: WebHdfs, name: str, is_known: Callable[[str], bool]) -> None:
    """Remove the same of a job that is over and whose application nobody knows.

    A driver may end before it has submitted, or its client before it was told the id. The folder
    tells the job; one that does not tell any yet is removed when it is old.

    Args:
        hdfs: The default file system of the cluster.
        name: The job's.
        is_known: Whether YARN knows an application.

    Raises:
        ClusterError: It cannot be removed.
    """
    skeins = f"{hdfs.home()}/{_SKEIN}"
    with suppress(NotFoundError):  # there is none
        for folder in hdfs.list(skeins):
            path = f"{skeins}/{folder['pathSuffix']}"
            with suppress(NotFoundError):  # it is gone meanwhile
                if _is_of(hdfs, path, name) or (
                    _is_abandoned(hdfs, path, folder) and not is_known(folder["pathSuffix"])
                ):
                    hdfs.delete(path, recursive=True)


def _is_of(hdfs: WebHdfs, folder: str, name: str) -> bool:
    """Whether the application of a folder is this job, as its specification says."""
    try:
        return name.encode() in b"".join(hdfs.read(f"{folder}/{_SPECIFICATION}"))
    except NotFoundError:
        return False


def _is_abandoned(hdfs: WebHdfs, path: str, folder: Mapping[str, Any]) -> bool:
    """Whether a folder was begun by a driver long ago, and never had all that it needs."""
    now = hdfs.clock.now()
    if now is None or now.timestamp() - int(folder["modificationTime"]) / 1000 < _ABANDONED_S:
        return False
    return {str(file["pathSuffix"]) for file in hdfs.list(path)} <= _BEFORE_IT
