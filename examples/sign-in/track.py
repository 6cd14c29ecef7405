"""Logs a run at the tracking server; who signs in, and how, is what the environment says."""

from __future__ import annotations

import mlflow


def main() -> None:
    with mlflow.start_run() as run:  # without a credential this is refused
        print(f"signed in at {mlflow.get_tracking_uri()}", flush=True)
        mlflow.log_param("answer", 42)
        mlflow.log_text("by whoever signed in", "note.txt")
    found = mlflow.get_run(run.info.run_id)
    print(f"logged run {run.info.run_id} and read it again: answer = {found.data.params['answer']}")


if __name__ == "__main__":
    main()
