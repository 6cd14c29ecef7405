"""Planted secrets, and the search for them through everything that a job leaves."""

from __future__ import annotations

import base64
import io
import json
import secrets
import subprocess
import sys
import urllib.parse
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tests.servers import MlflowServer

_LARGEST_ZIP_BYTES = 4 * 1024**2
# Prints all that a job has in its environment, in pieces and in several forms.
TELLS = """
import base64, json, os, sys, time, urllib.parse
for name, value in sorted(os.environ.items()):
    print(name, value)
    print(json.dumps({name: value}), repr(value), urllib.parse.quote(value), file=sys.stderr)
    print(base64.b64encode(f"{name}:{value}".encode()).decode())
    half = len(value) // 2
    sys.stdout.write(value[:half]); sys.stdout.flush()
    sys.stdout.write(value[half:] + chr(10)); sys.stdout.flush()
"""
# Submits calls, follows them, and says everything that a user would be shown.
_CLIENT = """
import json, sys, traceback
import mlflow
from click.testing import CliRunner
from mlflow_exec.cli import cli
from mlflow_exec.testing.collecting import until
submitted = {}
for name, call in json.load(open(sys.argv[1])).items():
    try:
        config = json.dumps(call["backend_config"])
        options = ["-b", call["backend"], "-c", config]
        print(CliRunner().invoke(cli, ["render", call["uri"], *options]).output)
        submitted[name] = mlflow.projects.run(**call, synchronous=False)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
for name, job in submitted.items():
    print(f"RUN|{name}|{job.run_id}", flush=True)
    try:
        if name == "cancelled":
            until(lambda: "PATIENT" in "".join(job.logs()), "it waits", 240)
            job.cancel()
        else:
            job.follow(on_log=sys.stdout.write)
        if name == "failed":
            job.wait()
            print(repr(job), job.failure, vars(job))
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    print(CliRunner().invoke(cli, ["status", job.run_id, "--output", "json"]).output, flush=True)
print(CliRunner().invoke(cli, ["doctor"]).output, flush=True)
"""


@dataclass
class Planted:
    """Values that nobody may see, and one that is in the open: the control of the search.

    Attributes:
        values: By what they are.
        seen: Where each was found.
        opens_zips: Whether to look into zips, of which some hold the project's own files.
    """

    values: dict[str, str] = field(default_factory=dict)
    seen: dict[str, list[str]] = field(default_factory=dict)
    opens_zips: bool = False

    def plant(self, name: str, alphabet: str = "+/") -> str:
        """Return a new random value.

        Args:
            name: What it is.
            alphabet: Further characters that it has.
        """
        self.values[name] = f"{secrets.token_hex(6)}{alphabet}{secrets.token_hex(7)}"
        return self.values[name]

    def search(self, place: str, data: bytes) -> None:
        """Look for every value in some bytes: as it is, in base64, URL-quoted."""
        texts = [data, *(_unpacked(data) if self.opens_zips else [])]
        for name, value in self.values.items():
            if any(form in text for form in _forms(value) for text in texts):
                self.seen.setdefault(name, []).append(place)

    def search_files(self, place: str, folders: Iterable[Path]) -> int:
        """Look through every file below the folders; return how many there were."""
        count = 0
        for folder in folders:
            for path in folder.rglob("*"):
                with suppress(FileNotFoundError):  # a living system removes some meanwhile
                    if path.is_file() and not path.is_symlink():
                        self.search(f"{place}: {path.relative_to(folder)}", path.read_bytes())
                        count += 1
        return count

    def search_run(self, server: MlflowServer, run_id: str, folder: Path) -> None:
        """Look through a run: tags, params, metrics, every artifact."""
        run = server.api("GET", f"runs/get?run_id={run_id}")
        self.search("the run", json.dumps(run, ensure_ascii=False).encode())
        target = folder / run_id
        target.mkdir()
        client = MlflowClient(server.url)
        for item in client.list_artifacts(run_id):
            client.download_artifacts(run_id, item.path, str(target))
        assert self.search_files("an artifact", [target]) > 2

    def places(self, name: str) -> str:
        """Return where a value was seen, in one text."""
        return "\n".join(self.seen.get(name, []))

    def assert_unseen(self, control: str) -> None:
        """Fail if a value but the control was seen anywhere."""
        leaks = {name: places for name, places in self.seen.items() if name != control}
        assert not leaks


def _forms(value: str) -> set[bytes]:
    raw = value.encode()
    inner = {base64.b64encode(b"x" * n + raw + b"xxx")[4:24] for n in range(3)}
    safe = {form.replace(b"+", b"-").replace(b"/", b"_") for form in inner}
    return {raw, urllib.parse.quote(value, safe="").encode(), *inner, *safe}


def _unpacked(data: bytes) -> list[bytes]:
    """Return the files in a zip; none of what is no zip, or too large to be one of ours."""
    if not data.startswith(b"PK") or len(data) > _LARGEST_ZIP_BYTES:
        return []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [archive.read(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, NotImplementedError):
        return []


def submitted_by_a_client(
    folder: Path, calls: Mapping[str, Mapping[str, Any]], env: Mapping[str, str], planted: Planted
) -> dict[str, str]:
    """Run calls of ``mlflow.projects.run`` in a process of their own, and search what it says.

    Returns:
        The run of each, by name.
    """
    (folder / "calls.json").write_text(json.dumps(calls))
    temporary = folder / "client-tmp"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT, str(folder / "calls.json")],
        env={**env, "TMPDIR": str(temporary), "MLFLOW_LOGGING_LEVEL": "DEBUG"},
        cwd=folder,
        capture_output=True,
        timeout=900,
    )
    planted.search("the client's stdout", done.stdout)
    planted.search("the client's stderr", done.stderr)
    planted.search_files("the client's temporary files", [temporary])
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    lines = (line.split("|") for line in done.stdout.decode().splitlines())
    runs = {words[1]: words[2] for words in lines if words[0] == "RUN" and len(words) == 3}
    assert set(runs) == set(calls), done.stdout.decode()[-6000:]
    return runs
