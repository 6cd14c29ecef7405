"""The wheel as users install it: templates and entry points are in it, imports cost nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SDKS = ("kubernetes", "ray", "skein")


@dataclass
class Installed:
    """A virtual environment that has the wheel, and everything else from this one."""

    python: Path

    def run(self, code: str, cwd: Path) -> str:
        """Run code away from the checkout; returns what it prints."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MLFLOW"))}
        done = subprocess.run(
            [self.python, "-I", "-c", code], cwd=cwd, env=clean,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as a release is."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir"]
    done = subprocess.run([*command, folder, ROOT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A fresh environment with the wheel; dependencies are those of the running one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    python = folder / "bin" / "python"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    installer = [str(uv), "pip"] if uv else [sys.executable, "-m", "pip"]
    subprocess.run(
        [*installer, "install", "--quiet", "--no-deps", "--python", python, wheel],
        check=True, timeout=120,
    )  # fmt: skip
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # As a line of a .pth file the folder comes last, and its own .pth files, one of which may lead
    # to the checkout, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(python)


def test_the_wheel_is_what_is_imported(installed: Installed, tmp_path: Path) -> None:
    place = installed.run("import mlflow_exec; print(mlflow_exec.__file__)", tmp_path).strip()
    assert Path(place).is_relative_to(installed.python.parents[1])


def test_every_template_is_in_the_wheel_and_renders(installed: Installed, tmp_path: Path) -> None:
    code = (
        "import json\n"
        "from jinja2 import Environment, meta\n"
        "from mlflow_exec.templates import folder, render\n"
        "value = {'a': 'b: \"c\"'}\n"
        "git = {'image': value, 'script': value, 'env': value, 'secret': value}\n"
        "rendered = {}\n"
        "for path in sorted(folder().rglob('*.j2')):\n"
        "    environment = Environment(); environment.globals.clear()\n"
        "    names = meta.find_undeclared_variables(environment.parse(path.read_text()))\n"
        "    name = str(path.relative_to(folder()))\n"
        "    rendered[name] = render(name, {**dict.fromkeys(names, value), 'git': git})\n"
        "print(json.dumps(rendered))\n"
    )
    rendered = json.loads(installed.run(code, tmp_path))
    in_checkout = (ROOT / "deploy_templates").rglob("*.j2")
    assert sorted(rendered) == sorted(
        str(path.relative_to(ROOT / "deploy_templates")) for path in in_checkout
    )
    for name, objects in rendered.items():
        assert objects, name
        for item in objects:
            own = item.get("submission_id") or item.get("name")
            given = own or item["metadata"]["name"]
            assert given == {"a": 'b: "c"'}, name


def test_mlflow_finds_the_backends_and_the_command_is_there(
    installed: Installed, tmp_path: Path
) -> None:
    code = (
        "from mlflow.projects.backend.loader import load_backend\n"
        "from importlib.metadata import distribution\n"
        "for name in ('k8s', 'ray', 'yarn'): print(type(load_backend(name)).__module__)\n"
        "points = distribution('mlflow-exec').entry_points\n"
        "[script] = points.select(group='console_scripts'); print(script.load().__name__)\n"
    )
    assert installed.run(code, tmp_path).split() == [
        "mlflow_exec.plugins.project_k8s",
        "mlflow_exec.plugins.project_ray",
        "mlflow_exec.plugins.project_yarn",
        "main",
    ]


def test_importing_mlflow_loads_no_sdk(installed: Installed, tmp_path: Path) -> None:
    code = "import mlflow, sys; print([m for m in sys.modules if m.split('.')[0] in {0!r}])"
    assert installed.run(code.format(SDKS), tmp_path).strip() == "[]"


def test_importing_the_package_loads_nothing_heavy(installed: Installed, tmp_path: Path) -> None:
    heavy = (*SDKS, "mlflow", "pydantic", "jinja2", "yaml", "rich", "click", "requests")
    code = "import mlflow_exec, sys; print([m for m in sys.modules if m.split('.')[0] in {0!r}])"
    assert installed.run(code.format(heavy), tmp_path).strip() == "[]"
