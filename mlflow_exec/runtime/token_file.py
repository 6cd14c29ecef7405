"""A tracking token in a file that somebody keeps fresh: the first step and MLflow read it anew.

The kubelet renews projected tokens and mounted Secrets, an agent those of a vault. A value that is
read once at the start would end a long job's reports when it expires.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Callable, Dict, Iterable, Mapping, Optional

from .environment import python_of
from .job_order import SecretSource, invalid
from .token_provider import FILE_VARIABLE, NAME
from .tracking_server import is_http

TOKEN_VARIABLE = "MLFLOW_TRACKING_TOKEN"
_AUTH_VARIABLE = "MLFLOW_TRACKING_AUTH"
_WINS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_PROVIDER = "token_provider.py"
_LIMIT_BYTES = 1024 * 1024
_PLUGIN = "mlflow-exec"
_LACKS = 3
# By an environment's Python, without the seconds that it takes to import MLflow.
_LOOK = f"""\
import importlib.metadata, importlib.util, sys
if importlib.util.find_spec("mlflow"):
    try:
        importlib.metadata.version("{_PLUGIN}")
    except importlib.metadata.PackageNotFoundError:
        sys.exit({_LACKS})
"""
# What makes an installed package of a file: https://packaging.python.org/specifications/
_METADATA = "Metadata-Version: 2.1\nName: mlflow-exec-token-file\nVersion: 1\n"
_ENTRY_POINTS = "[mlflow.request_auth_provider]\n{name} = {module}:TokenFileProvider\n"


class TokenFile:
    """The token that is in a file now.

    Args:
        path: The file.
        hide: Masks values in the job's log; called with each new token.
    """

    def __init__(self, path: str, hide: Callable[[Iterable[str]], None]) -> None:
        self.path = path
        self._hide = hide
        self._last = ""

    def read(self) -> str:
        """Return the token.

        Raises:
            OSError: The file cannot be read.
        """
        with open(self.path, "rb") as file:
            token = file.read(_LIMIT_BYTES).decode("utf-8", "replace").strip()
        if token != self._last:
            self._hide([token])
            self._last = token
        return token

    def for_mlflow(self, env: Mapping[str, str], scratch_dir: str) -> Dict[str, str]:
        """Return the variables with which MLflow's client reads the file for each request, too.

        Args:
            env: Those of the entry point.
            scratch_dir: An existing private folder.
        """
        folder = os.path.join(scratch_dir, "sign-in")
        info = os.path.join(folder, "mlflow_exec_token_file-1.dist-info")
        os.makedirs(info, exist_ok=True)
        module = "mlflow_exec_token_file"
        here = os.path.dirname(os.path.abspath(__file__))
        shutil.copyfile(os.path.join(here, _PROVIDER), os.path.join(folder, f"{module}.py"))
        texts = {
            "METADATA": _METADATA,
            "entry_points.txt": _ENTRY_POINTS.format(name=NAME, module=module),
        }
        for name, text in texts.items():
            with open(os.path.join(info, name), "w", encoding="utf-8") as file:
                file.write(text)
        path = os.pathsep.join(filter(None, [folder, env.get("PYTHONPATH")]))
        return {**env, _AUTH_VARIABLE: NAME, FILE_VARIABLE: self.path, "PYTHONPATH": path}


def with_sign_in(
    env: Mapping[str, str], token: Optional[TokenFile], scratch_dir: str, directory: str
) -> Dict[str, str]:
    """Return the variables with which MLflow signs in in the entry point.

    A provider that they choose stays, but for mlflow-exec where that is not installed: MLflow would
    go on without a credential, as it does with whatever is not registered.

    Args:
        env: Those of the entry point.
        token: The file of the tracking token, if it has one.
        scratch_dir: An existing private folder.
        directory: Where the entry point runs.

    Raises:
        SetupError: invalid_config; there is no credential in place of that provider.
    """
    choice = env.get(_AUTH_VARIABLE)
    if choice and (choice != _PLUGIN or not _lacks_plugin(env, directory)):
        return dict(env)
    if token is not None:
        return token.for_mlflow(env, scratch_dir)
    by_variable = env.get(TOKEN_VARIABLE) or all(env.get(name) for name in _WINS)
    if choice and is_http(env.get("MLFLOW_TRACKING_URI")) and not by_variable:
        raise invalid(
            f"{_AUTH_VARIABLE}={choice}: the job's environment has mlflow without mlflow-exec, and "
            f"would ask the tracking server without a credential",
            f"Add mlflow-exec to its requirements, or name a file with a token by 'secrets': "
            f"{{{TOKEN_VARIABLE}: {{file: PATH}}}}.",
        )
    return dict(env)


def _lacks_plugin(env: Mapping[str, str], directory: str) -> bool:
    try:
        done = subprocess.run(
            [python_of(env), "-c", _LOOK], env=dict(env), cwd=directory,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:  # so there is no MLflow either
        return False
    return done.returncode == _LACKS


def token_file(
    secrets: Mapping[str, SecretSource],
    environ: Mapping[str, str],
    hide: Callable[[Iterable[str]], None],
) -> Optional[TokenFile]:
    """Return the file of the tracking token; None where it is not in one that others renew.

    Args:
        secrets: Where the order says that secrets are.
        environ: The first step's, with the secrets; a user and a password win, as in MLflow.
        hide: Masks values in the job's log.
    """
    source = secrets.get(TOKEN_VARIABLE)
    if source is None or source.file is None or all(environ.get(name) for name in _WINS):
        return None
    path = os.path.expanduser(source.file)
    # What is staged for one job stands beside it, and nobody renews it.
    return TokenFile(path, hide) if os.path.isabs(path) else None
