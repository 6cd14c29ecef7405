"""Our application on Ray Serve beside one that does nothing, on the same cluster, in one run.

A Ray of its own is started twice: with Serve's own proxy, and with HAProxy, as the Ray of this
machine has it. wrk (a Debian package) asks both applications in turn; the medians of the rounds are
shown. Then how long `create` takes until the first right answer, and the application that does
nothing.

    python -m benchmarks.serving_ray
    python -m benchmarks.serving_ray --rounds 5 --seconds 10
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, show_figures
from benchmarks.serving import Load, ask, middle
from mlflow_exec.clients import ray_embedded
from mlflow_exec.clients.ray_packages import package_name
from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.shipping import zipped
from mlflow_exec.targets.ray_serve.document import with_application

# Times the requests per second of the application that does nothing, by connections.
AT_LEAST = {1: 0.45, 16: 0.7}
CREATE_AT_MOST_S = 4.0
CONFIG = {"environment": "local", "resources.cpu": "0.1"}
_NOTHING = """
from ray import serve

@serve.deployment(max_ongoing_requests=64)
class Nothing:
    async def __call__(self, request):
        await request.body()
        return {"predictions": [0]}

app = Nothing.bind()
"""


@contextmanager
def ray(haproxy: bool, home: str) -> Iterator[ServeClient]:
    """Start a Ray of its own, with or without HAProxy."""
    os.environ["MLFLOW_EXEC_HOME"] = home
    for variable in ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED"):
        os.environ[variable] = "1" if haproxy else "0"
    try:
        started = ray_embedded.start_or_reuse(print)
        yield ServeClient(started.address, token=started.token())
    finally:
        ray_embedded.stop()


def save_wine(folder: Path) -> tuple[Path, Path]:
    """Save a linear model of the wine data; returns it, and a body with one row."""
    import mlflow.sklearn
    from mlflow.models import infer_signature
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression

    table, classes = load_wine(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=50).fit(table, classes)
    path, body = folder / "model", folder / "body.json"
    mlflow.sklearn.save_model(
        model, str(path), signature=infer_signature(table, model.predict(table)),
        input_example=table[:2], pip_requirements=[],
    )  # fmt: skip
    row = {"columns": list(table.columns), "data": table[:1].values.tolist()}
    body.write_text(json.dumps({"dataframe_split": row}))
    return path, body


def put_nothing(client: ServeClient, name: str) -> None:
    """Deploy the application that does nothing, and return when it answers."""
    sha256, content = zipped({f"{name}.py": _NOTHING.encode()})
    client.put_package(package_name(sha256), content)
    config = {
        "name": name, "route_prefix": f"/{name}", "import_path": f"{name}:app",
        "runtime_env": {"working_dir": f"gcs://{package_name(sha256)}"},
        "deployments": [{"name": "Nothing", "ray_actor_options": {"num_cpus": 0.1}}],
    }  # fmt: skip
    client.put_applications(with_application(client.applications(), config, {}))


def answers(client: ServeClient, name: str, body: bytes) -> str:
    """Wait for the first right answer; returns the application's address."""
    while True:
        details = client.applications()
        url = f"http://127.0.0.1:{details['http_options']['port']}/{name}"
        request = urllib.request.Request(f"{url}/invocations", data=body)
        request.add_header("Content-Type", "application/json")
        with suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
            if "predictions" in json.loads(answer.read()):
                return url
        time.sleep(0.05)


def took_s(act: Callable[[], object], client: ServeClient, name: str, body: bytes) -> float:
    """Return how long it takes from the call to the first right answer."""
    begun_s = time.monotonic()
    act()
    answers(client, name, body)
    return time.monotonic() - begun_s


def compare(
    client: ServeClient, model: Path, body: Path, parsed: argparse.Namespace
) -> Iterator[tuple[int, Load, Load]]:
    """Yield the connections, the figures of the one that does nothing, and ours."""
    from mlflow.deployments import get_deploy_client

    get_deploy_client("ray-serve").create_deployment("wine", str(model), config=CONFIG)
    put_nothing(client, "nothing")
    urls = [answers(client, name, body.read_bytes()) for name in ("nothing", "wine")]
    for connections in AT_LEAST:
        for url in urls:
            ask(url, body, connections, min(2.0, parsed.seconds))
        turns = [
            [ask(url, body, connections, parsed.seconds) for url in urls]
            for _ in range(parsed.rounds)
        ]
        nothing, ours = ([turn[i] for turn in turns] for i in (0, 1))
        yield connections, middle(nothing), middle(ours)


def through_router(client: ServeClient, body: Path, seconds: float) -> Iterator[tuple[int, Load]]:
    """Yield the connections and the figures of an endpoint before our application."""
    from mlflow.deployments import get_deploy_client

    get_deploy_client("ray-serve").create_endpoint("routed", {"weights": {"wine": 1}})
    url = answers(client, "routed", body.read_bytes())
    for connections in AT_LEAST:
        ask(url, body, connections, min(2.0, seconds))
        yield connections, ask(url, body, connections, seconds)


def creation(client: ServeClient, model: Path, body: bytes, rounds: int) -> tuple[float, float]:
    """Return the medians of the seconds until the first answer: doing nothing, and ours."""
    from mlflow.deployments import get_deploy_client

    deployments = get_deploy_client("ray-serve")

    def create(name: str) -> None:
        deployments.create_deployment(name, str(model), config=CONFIG)

    names = [(f"nothing{number}", f"wine{number}") for number in range(rounds)]
    took = [
        (
            took_s(partial(put_nothing, client, nothing), client, nothing, body),
            took_s(partial(create, ours), client, ours, body),
        )
        for nothing, ours in names
    ]
    return statistics.median(t[0] for t in took), statistics.median(t[1] for t in took)


def main() -> int:
    """Print the tables; returns 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parsed = parser.parse_args()
    warnings.simplefilter("ignore")
    figures: dict[str, Figure] = {}
    rows = []
    with tempfile.TemporaryDirectory() as made:
        model, body = save_wine(Path(made))
        for proxy in ("HAProxy", "Serve's own"):
            with ray(proxy == "HAProxy", f"{made}/{proxy[:2]}") as client:
                for connections, nothing, ours in compare(client, model, body, parsed):
                    times = ours.per_s / nothing.per_s
                    rows.append(
                        f"| {proxy} | {connections} | {nothing.per_s:.0f} | {nothing.p50_ms:.1f} "
                        f"| {ours.per_s:.0f} | {ours.p50_ms:.1f} | {times:.2f} |"
                    )
                    print(rows[-1], flush=True)
                    label = f"{proxy}, {connections} connections: times that of doing nothing"
                    figures[label] = Figure(times, at_least=AT_LEAST[connections])
                for connections, routed in through_router(client, body, parsed.seconds):
                    print(f"{proxy}, {connections} connections, by an endpoint: "
                          f"{routed.per_s:.0f} req/s, {routed.p50_ms:.1f} ms")  # fmt: skip
                if proxy == "HAProxy":
                    plain_s, ours_s = creation(client, model, body.read_bytes(), parsed.rounds)
                    print(f"create: {plain_s:.1f} s doing nothing, {ours_s:.1f} s ours")
                    more = "create, until the first right answer: s more than doing nothing"
                    figures[more] = Figure(ours_s - plain_s, at_most=CREATE_AT_MOST_S)
    print("\n| proxy | connections | nothing req/s | p50 ms | ours req/s | p50 ms | times |\n"
          + "| --- " * 7 + "|")  # fmt: skip
    print("\n".join(rows))
    return 0 if show_figures("Ray Serve", figures) else 1


if __name__ == "__main__":
    sys.exit(main())
