"""Logs a run whose artifacts are in a place of your choice, and reads them again from there."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("location", help="such as sqlite:////home/me/artifacts.db")
    parser.add_argument("--experiment", default="stores", help="its location never changes")
    return parser.parse_args()


def experiment_at(location: str, name: str) -> str:
    """Return the id of an experiment, which is made with its artifacts there."""
    found = mlflow.get_experiment_by_name(name)
    if found is None:
        return str(mlflow.create_experiment(name, artifact_location=location))
    if found.artifact_location != location:
        raise SystemExit(f"{name!r} keeps its artifacts at {found.artifact_location}")
    return str(found.experiment_id)


def log(folder: Path) -> None:
    (folder / "years").mkdir()
    (folder / "years" / "2025.txt").write_text("good")
    (folder / "wine.json").write_text('{"grape": "Blauburger"}\n')
    mlflow.log_artifacts(str(folder), "data")
    mlflow.log_text("three good years", "report.txt")


def files_of(run_id: str, folder: str | None = None) -> Iterator[str]:
    for found in mlflow.MlflowClient().list_artifacts(run_id, folder):
        if found.is_dir:
            yield from files_of(run_id, found.path)
        else:
            yield f"{found.path}  {found.file_size} bytes"


def main() -> None:
    options = parse_options()
    experiment_id = experiment_at(options.location, options.experiment)
    print(f"experiment {options.experiment!r} keeps its artifacts at {options.location}")
    start = mlflow.start_run(experiment_id=experiment_id)
    with start as run, tempfile.TemporaryDirectory() as folder:
        log(Path(folder))
    print("logged report.txt and the folder data")
    for line in files_of(run.info.run_id):
        print(f"  {line}")
    print("read again:", mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.txt"))


if __name__ == "__main__":
    main()
