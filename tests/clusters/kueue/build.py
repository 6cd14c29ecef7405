"""Builds Kueue from its Go module, once per version, into the tests' cache."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.clusters.cache import build_once, cache_folder
from tests.clusters.kubernetes.build import go, go_build

_MODULE = Path(__file__).parent
_NAME = "sigs.k8s.io/kueue"


def version() -> str:
    """Return the version of Kueue that go.mod asks for, such as `v0.15.2`."""
    found = re.search(rf"^\s+{_NAME} (v\S+)", (_MODULE / "go.mod").read_text(), re.M)
    if found is None:
        raise RuntimeError(f"{_MODULE / 'go.mod'}: names no version of {_NAME}")
    return found[1]


def folder() -> Path:
    """Return a folder with the program `kueue`, its `crds/` and its `webhooks.yaml`.

    Built when it is missing: about four minutes on two cores.
    """
    return build_once(_target(), _build)


def cached() -> bool:
    """Tell whether `folder` has nothing to build."""
    return _target().exists()


def _target() -> Path:
    return cache_folder() / f"kueue-{version()}"


def _build(part: Path) -> None:
    part.mkdir(parents=True)
    go_build(f"{_NAME}/cmd/kueue", part / "kueue", module=_MODULE)
    # After the build the module's own files are in Go's cache, where they are read-only.
    module = Path(go("list", "-m", "-f", "{{.Dir}}", _NAME, module=_MODULE).strip())
    components = module / "config" / "components"
    (part / "crds").mkdir()
    for file in (components / "crd" / "bases").glob("*.yaml"):
        shutil.copyfile(file, part / "crds" / file.name)
    shutil.copyfile(components / "webhook" / "manifests.yaml", part / "webhooks.yaml")
