"""Container images made without a registry: Debian's own packages, and pip's, as tar layers.

A layer is a tar in the cache, keyed by its recipe. An image is a list of layers; its docker-archive
is written when it is imported, so layers that two images share are kept once.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from tests.clusters.cache import build_once, cache_folder, discard
from tests.clusters.kubernetes.build import go_build
from tests.clusters.kubernetes.pods import host_paths, pip_environment

PAUSE = "mlflow-exec-test/pause:1"
PYTHON = "mlflow-exec-test/python:3.11"
PYTHON_MLFLOW = "mlflow-exec-test/python-mlflow:3.11"

_ROOT = Path(__file__).resolve().parents[3]
_SUITE = "bookworm"
_PACKAGES = (
    "python3", "python3-pip", "python3-venv", "ca-certificates", "git", "openssh-client",
)  # fmt: skip
# Left out of the layer: what a container mounts or makes anew, and what only a person reads.
_LEFT_OUT = ("dev", "proc", "sys", "var/cache/apt", "var/lib/apt/lists", "usr/share/doc",
             "usr/share/man", "usr/share/locale", "etc/resolv.conf", "etc/hostname")  # fmt: skip
_RECIPE = 1  # raise it when layers are made otherwise and no other part of their key shows it
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_archive(out: IO[bytes], image: str) -> None:
    """Write one of this module's images as a docker-archive tar, building what is missing.

    The first Python image takes one to two minutes; later calls only read the cache.
    """
    paths, command = _IMAGES[image]()
    _write(out, image, paths, command)


def _write(out: IO[bytes], image: str, paths: list[Path], command: list[str]) -> None:
    config = image_config(paths, command)
    manifest = [{"Config": "config.json", "RepoTags": [image], "Layers": [p.name for p in paths]}]
    with tarfile.open(fileobj=out, mode="w|") as archive:
        for path in paths:
            archive.add(path, path.name)
        for name, value in (("config.json", config), ("manifest.json", manifest)):
            data = json.dumps(value).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def layers(image: str) -> list[Path]:
    """Return the tars of an image's layers, lowest first, building what is missing."""
    return _IMAGES[image]()[0]


def image_config(paths: Iterable[Path], command: list[str]) -> dict[str, object]:
    """Return the configuration of an image of these layers, lowest first."""
    machine = platform.machine()
    return {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Env": [f"PATH={_PATH}", "LANG=C.UTF-8"], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": [digest(path) for path in paths]},
    }


def digest(content: Path | bytes) -> str:
    """Return the digest of a file or of bytes, as images name their parts."""
    found = hashlib.sha256()
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        while block := file.read(1 << 20):
            found.update(block)
    return "sha256:" + found.hexdigest()


def _layer(name: str, recipe: object, fill: Callable[[Path], Iterable[str]]) -> Path:
    """Return a layer's tar; `fill(folder)` makes its tree and returns the top paths to keep."""
    key = hashlib.sha256(json.dumps([_RECIPE, recipe], sort_keys=True).encode()).hexdigest()[:16]

    def build(part: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="layer-", dir=part.parent) as folder:
            tree = Path(folder) / "tree"
            tree.mkdir(mode=0o755)
            kept = fill(tree)
            with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as tar:
                for path in kept:
                    tar.add(tree / path, path, filter=_numeric)

    return build_once(cache_folder() / "images" / f"{name}-{key}.tar", build)


def _numeric(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if any(member.name.startswith(path + "/") for path in _LEFT_OUT):
        return None
    member.uname = member.gname = ""
    return member


def _pause() -> tuple[list[Path], list[str]]:
    def fill(tree: Path) -> list[str]:
        go_build("./pause", tree / "pause")
        return ["pause"]

    source = (Path(__file__).parent / "pause" / "main.go").read_text()
    return [_layer("pause", source, fill)], ["/pause"]


def _python() -> tuple[list[Path], list[str]]:
    def fill(tree: Path) -> list[str]:
        _run(["debootstrap", "--variant=minbase", "--include=" + ",".join(_PACKAGES),
              _SUITE, str(tree)])  # fmt: skip
        (tree / "usr/bin/python").symlink_to("python3")
        for name in ("etc/resolv.conf", "etc/hostname"):
            (tree / name).unlink(missing_ok=True)
        return sorted(path.name for path in tree.iterdir())

    return [_layer("python", [_SUITE, _PACKAGES, _LEFT_OUT], fill)], ["python3"]


def _python_mlflow() -> tuple[list[Path], list[str]]:
    return _with_packages(
        "python-mlflow",
        [_pinned("mlflow-skinny"), "scikit-learn", "matplotlib", "pandas", "skops"],
    )


def _with_packages(name: str, wanted: list[str]) -> tuple[list[Path], list[str]]:
    base, command = _python()

    def fill(tree: Path) -> list[str]:
        with tarfile.open(base[0]) as tar:
            tar.extractall(tree, filter="fully_trusted")  # our own layer: devices, absolute links
        _copy_trust(tree)
        shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
        pip = ["pip", "install", "--break-system-packages", "--no-cache-dir", "--quiet"]
        environment = {**pip_environment(), "PATH": _PATH, "PIP_ROOT_USER_ACTION": "ignore"}
        _run(["chroot", str(tree), *pip, *wanted], environment)
        return ["usr/local/bin", "usr/local/lib"]

    return [*base, _layer(name, [base[0].name, wanted], fill)], command


def write_mlflow_exec(out: Path) -> str:
    """Write an archive with an image in which this checkout is installed; return its name.

    It has the wheel and what that needs to reach Kubernetes and a tracking server, which is
    mlflow-skinny in place of mlflow. The name tells its content.
    """
    required = importlib.metadata.requires("mlflow-exec") or []
    needs = [item for item in required if "extra" not in item or "'k8s'" in item]
    names = sorted({found[0] for item in needs if (found := re.match(r"[\w-]+", item))})
    pinned = [_pinned(name.replace("mlflow", "mlflow-skinny")) for name in names]
    paths, _ = _with_packages("python-mlflow-exec-needs", pinned)
    layer = _mlflow_exec_layer()
    image = f"mlflow-exec-test/mlflow-exec:{layer.stem.rpartition('-')[2]}"
    with out.open("wb") as file:
        _write(file, image, [*paths, layer], ["mlflow-exec", "--help"])
    return image


def _mlflow_exec_layer() -> Path:
    """Return the layer of the wheel, unpacked as installers do, with its command."""
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder,
              str(_ROOT)])  # fmt: skip
        [wheel] = Path(folder).glob("*.whl")

        def fill(tree: Path) -> list[str]:
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(tree / "usr/local/lib/python3.11/dist-packages")
            command = tree / "usr/local/bin/mlflow-exec"
            command.parent.mkdir(parents=True)
            command.write_text(_COMMAND, encoding="utf-8")
            command.chmod(0o755)
            return ["usr/local/bin", "usr/local/lib"]

        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        return _layer("mlflow-exec", digest, fill)


_COMMAND = """#!/usr/bin/python3
from mlflow_exec.cli import main

main()
"""

_IMAGES: Mapping[str, Callable[[], tuple[list[Path], list[str]]]] = {
    PAUSE: _pause,
    PYTHON: _python,
    PYTHON_MLFLOW: _python_mlflow,
}
NAMES = tuple(_IMAGES)


def _pinned(package: str) -> str:
    """Return a requirement for the version of a package that the tests themselves run."""
    try:
        return f"{package}=={importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package


def _copy_trust(tree: Path) -> None:
    """Give a tree the certificates and settings with which the host's pip finds packages."""
    for path in host_paths():
        target = tree / path.relative_to("/")
        # Away with it first: links in the tree lead out of it, to the files of the host.
        discard(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True)
        else:
            shutil.copy(path, target)


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env=environment or os.environ, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise RuntimeError(f"{command[0]}: ended with exit code {done.returncode}:\n{tail}")
