"""What fsspec's FTP does not ask or tell: the facts of one name, and what a server refuses.

fsspec lists the whole folder above to tell of one name, and takes a folder that may not be read
for an empty one. Servers that know MLST (RFC 3659) are asked here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ftplib import FTP, Error, error_perm, error_temp
from typing import Any

_FOLDERS = ("dir", "cdir", "pdir")


def prepared(files: Any) -> bool:
    """Have a file system of fsspec tell all that goes wrong; return whether MLST can be asked.

    Args:
        files: A new one; of anything but FTP nothing is changed.
    """
    ftp = getattr(files, "ftp", None)
    if not isinstance(ftp, FTP):
        return False
    knows = False
    with suppress(Error):  # without 'unique' two files of one second and size are the same
        ftp.sendcmd("OPTS MLST type;size;modify;unique;")
        knows = True
    _tell_what_passes(ftp)
    return knows


def facts_of(ftp: FTP, path: str) -> Mapping[str, Any]:
    """Return what `fsspec` would tell of a name, by one question.

    Raises:
        FileNotFoundError: There is nothing, or it may not be seen: FTP has one code for both.
    """
    try:
        answer = ftp.sendcmd(f"MLST {path}")
    except error_perm as error:
        if str(error).startswith("550"):
            raise FileNotFoundError(path) from error
        raise
    told = answer.splitlines()[1].strip().partition(" ")[0]
    facts = (fact.partition("=") for fact in told.split(";") if fact)
    return _as_fsspec({name.lower(): value for name, _, value in facts})


def listed(ftp: FTP, path: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the same of all that stands in a folder, by its names.

    Raises:
        ftplib.error_perm: It is none, or may not be read.
    """
    return {
        name: _as_fsspec(facts)
        for name, facts in ftp.mlsd(path)
        if facts.get("type", "").lower() not in ("cdir", "pdir")
    }


def check_that_it_is_empty(files: Any, path: str) -> None:
    """Ask again for a list in which fsspec has found nothing, where its server knows no MLST.

    Raises:
        ftplib.error_perm: It may not be read.
    """
    ftp = getattr(files, "ftp", None)
    if isinstance(ftp, FTP):
        ftp.dir(path, lambda _: None)


def _as_fsspec(facts: Mapping[str, str]) -> Mapping[str, Any]:
    is_folder = facts.get("type", "").lower() in _FOLDERS
    return {**facts, "type": "directory" if is_folder else "file"}


def _tell_what_passes(ftp: FTP) -> None:
    """Have answers of 4xx raised as what fsspec lets pass.

    Of ftplib's own error it makes a file that is not there, and a folder with nothing in it.
    """
    getresp = ftp.getresp

    def answer() -> str:
        try:
            return getresp()
        except error_temp as error:
            raise ConnectionError(str(error)) from error

    ftp.getresp = answer  # type: ignore[method-assign]
