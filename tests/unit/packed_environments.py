"""Projects whose environments are packed on this machine, and nodes that unpack them."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow_exec.jobs import JobSpec
from mlflow_exec.schedulers.yarn.packing import Packing, describe
from mlflow_exec.schedulers.yarn.packing_build import pack
from mlflow_exec.settings import BackendSettings
from mlflow_exec.source import bundle
from tests.unit.source_trees import LIMIT_BYTES, write

# A package with a build backend of its own, so that nothing has to be downloaded to build it.
_BACKEND = '''\
import zipfile

FILES = {
    "own.py": """
import os, sys

VERSION = "1.0"

def main():
    print("own", VERSION, "in", sys.prefix, "by", os.path.realpath(sys.argv[0]))
""",
    "own-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: own\\nVersion: 1.0\\n",
    "own-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "own-1.0.dist-info/entry_points.txt": "[console_scripts]\\nown = own:main\\n",
}

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "own-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel_directory + "/" + name, "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
        record = "".join(path + ",,\\n" for path in FILES)
        wheel.writestr("own-1.0.dist-info/RECORD", record)
    return name
'''
OWN_PACKAGE = {
    "own/pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
    'backend-path = ["."]\n',
    "own/backend.py": _BACKEND,
}
"""A package ``./own`` of a project; its script ``own`` says where it runs."""


@contextmanager
def job(
    folder: Path,
    files: Mapping[str, str | bytes],
    *dependencies: str,
    subdirectory: str = "",
    **environment: Any,
) -> Iterator[JobSpec]:
    """Make a job of a project in a new folder."""
    project = write(folder / uuid.uuid4().hex, {f"{subdirectory}/main.py".strip("/"): "", **files})
    wanted = {"manager": "virtualenv", "dependencies": list(dependencies), **environment}
    order = {"environment": wanted, "source": {"kind": "archive", "subdirectory": subdirectory}}
    with bundle(project, limit_bytes=LIMIT_BYTES) as made:
        yield JobSpec(uuid.uuid4().hex, "0", 1, order, BackendSettings(), made)


def described(kind: str, spec: JobSpec) -> Packing:
    packing = describe(kind, spec)
    assert packing is not None
    return packing


def packed(kind: str, spec: JobSpec, folder: Path) -> Path:
    """Return the archive of a job's environment, built in a folder."""
    return pack(described(kind, spec), spec, folder, lambda _: None)


def localized(archive: Path, node: Path) -> Path:
    """Unpack an archive as a NodeManager does: under its own name, for the owner, read-only."""
    folder = node / "filecache" / "10" / archive.name
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True, timeout=120)
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o500)
    return folder


def everything_in(folder: Path) -> list[tuple[str, int, float]]:
    """Return what a change of any file would change."""
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return sorted((str(path), info.st_size, info.st_mtime) for path, info in found)


def names_in(archive: Path) -> list[str]:
    with tarfile.open(archive) as file:
        return file.getnames()


_FAKE_CONDA = """\
#!{python}
import json, os, shutil, subprocess, sys

prefix, file = sys.argv[sys.argv.index("-p") + 1], sys.argv[sys.argv.index("-f") + 1]
assert sys.argv[1:3] == ["env", "create"] and os.path.isfile(file), sys.argv
shutil.copytree({base!r}, prefix, symlinks=True)
python = prefix + "/bin/python"

def text(name, content, mode=0o644):
    path = os.path.join(prefix, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as out:
        out.write(content)
    os.chmod(path, mode)

script = "import os, sys\\nprint('tool in', sys.prefix, os.environ['CONDA_PREFIX'])\\n"
text("bin/tool", "#!" + python + "\\n" + script, 0o755)
text("ssl/cert.pem", "no certificates")
text("etc/conda/activate.d/tool.sh", 'echo activating\\nexport TOOL_DATA="$CONDA_PREFIX/share"\\n')
text("share/place.txt", prefix)
files = [os.path.relpath(os.path.join(d, f), prefix) for d, _, fs in os.walk(prefix) for f in fs]
text("conda-meta/history", "")
version = {version!r}
text("conda-meta/python-" + version + "-0.json", json.dumps({{
    "name": "python", "version": version, "url": "", "build": "0", "channel": "",
    "files": files, "link": {{"source": "/nowhere"}}, "package_tarball_full_path": "",
    "extracted_package_dir": "", "depends": [],
}}))
"""
_NOT_NEEDED = ("test", "idlelib", "lib2to3", "tkinter", "turtledemo", "site-packages", "config-*",
               "dist-packages", "__pycache__", "ensurepip")  # fmt: skip


def conda_from_here(folder: Path) -> Path:
    """Return a folder with a ``conda``, which makes environments in conda's form of this Python.

    There is no conda without a channel of packages; what is packed, and how, is conda-pack's own.
    """
    base = folder / "base"
    version = "{}.{}.{}".format(*sys.version_info[:3])
    minor = "python{}.{}".format(*sys.version_info[:2])
    shutil.copytree(
        sysconfig.get_path("stdlib"), base / "lib" / minor,
        ignore=shutil.ignore_patterns(*_NOT_NEEDED), symlinks=False,
    )  # fmt: skip
    compileall.compile_dir(base / "lib", quiet=1)  # as conda's packages are
    (base / "lib" / minor / "site-packages").mkdir()
    (base / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), base / "bin" / minor)
    for name in ("python", "python3"):
        (base / "bin" / name).symlink_to(minor)
    tools = folder / "tools"
    tools.mkdir()
    text = _FAKE_CONDA.format(python=sys.executable, base=str(base), version=version)
    (tools / "conda").write_text(textwrap.dedent(text))
    (tools / "conda").chmod(0o755)
    return tools


def conda_yaml(*dependencies: Any) -> str:
    return json.dumps({"channels": ["conda-forge"], "dependencies": list(dependencies)})
