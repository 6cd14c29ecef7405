"""How long `create` takes until the first right answer, with warm caches, on any target.

Deploys a linear model of the wine data once, so that what is cached is there, and then so often
anew; each is asked and deleted. The settings are those of `mlflow deployments create`.

    python -m benchmarks.serving_create k8s://context/namespace --config cfg.json
    python -m benchmarks.serving_create ray-serve --rounds 5
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

from mlflow.deployments import get_deploy_client

from benchmarks.figures import show
from benchmarks.serving_ray import save_wine

LIMIT_S = 15.0
NAME = "mlflow-exec-benchmark"


def main() -> int:
    """Print the table; returns 1 where the slowest is slower than the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--config", type=Path, help="settings, as a JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args()
    warnings.simplefilter("ignore")
    config = json.loads(parsed.config.read_text()) if parsed.config else {}
    client = get_deploy_client(parsed.target)
    took_s = []
    with tempfile.TemporaryDirectory() as made:
        model, body = save_wine(Path(made))
        for _ in range(parsed.rounds + 1):
            begun_s = time.monotonic()
            client.create_deployment(NAME, str(model), config=config)
            try:
                assert client.predict(NAME, json.loads(body.read_text()))["predictions"] == [0]
                took_s.append(time.monotonic() - begun_s)
            finally:
                client.delete_deployment(NAME)
    what = "create, until the first right answer"
    rows = {f"{what}, the first": took_s[:1], f"{what}, warm": took_s[1:]}
    return 0 if show(parsed.target, rows, {f"{what}, warm": LIMIT_S}) else 1


if __name__ == "__main__":
    sys.exit(main())
