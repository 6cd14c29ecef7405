"""`mlflow-exec serve`: a real process, a real model, real connections."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.served_models import ROW, save_model
from tests.unit.scoring.collector import collecting

COMMAND = [str(Path(sys.executable).with_name("mlflow-exec")), "serve"]
JSON = {"content-type": "application/json"}
BODY = json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2.5]]}})
MAKE_MODELS = """
import sys, time, mlflow, pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LinearRegression

class Slow(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        time.sleep(model_input["a"][0])
        return [1.5]

class Broken(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        raise ValueError("no such thing")

table = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": [1.0, 0.0, 5.0]})
signature = infer_signature(table, [1.0])
model = LinearRegression().fit(table, [1.0, 2.0, 3.0])
folder = sys.argv[1]
mlflow.sklearn.save_model(model, folder + "/linear", signature=signature, input_example=table,
                          pip_requirements=[])
for name, python_model in {"slow": Slow(), "broken": Broken()}.items():
    mlflow.pyfunc.save_model(folder + "/" + name, python_model=python_model, signature=signature,
                             pip_requirements=[])
with open(folder + "/broken/serving_input_example.json", "w") as file:
    file.write('{"inputs": {"a": [1.0], "b": [2.0]}}')
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, "-c", MAKE_MODELS, str(folder)], check=True, cwd=folder)
    return folder


class Served:
    """A server that is starting or running."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        self.port = 0

    def is_serving(self) -> bool:
        text = self.log.read_text()
        assert self.process.poll() is None, text
        found = re.search(r"serving .* on http://127.0.0.1:(\d+)", text)
        self.port = int(found[1]) if found else 0
        with contextlib.suppress(OSError):
            return bool(found) and self.ask("GET", "/ping")[0] == 200
        return False

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        connection = self.connect()
        with contextlib.closing(connection):
            connection.request(method, path, body, {**JSON, **headers})
            reply = connection.getresponse()
            return reply.status, reply.read().decode()


@contextlib.contextmanager
def serving(model: Path | str, folder: Path, *flags: str) -> Iterator[Served]:
    with started([*COMMAND, "-m", str(model), "--port", "0", *flags], folder) as served:
        yield served


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[Served]:
    log = folder / "serve.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stderr=stream, text=True)
    served = Served(process, log)
    try:
        until(served.is_serving, "the server answers")
        yield served
    finally:
        process.kill()
        process.wait()


def refused(*flags: str) -> str:
    done = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("mlflow-exec: ")]
    assert "Traceback" not in done.stderr
    return line


def test_it_answers_and_ends_on_sigterm(models: Path, tmp_path: Path) -> None:
    with serving(models / "linear", tmp_path) as served:
        status, text = served.ask("POST", "/invocations", BODY)
        assert (status, text[:17]) == (200, '{"predictions": [')
        assert served.ask("GET", "/metrics")[1].count('requests_total{code="200"') == 1
        assert served.ask("POST", "/invocations", "{")[0] == 400
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(120) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("target", ["ray-serve", "k8s"])
def test_mlflows_run_local_is_the_same_server(models: Path, tmp_path: Path, target: str) -> None:
    command = [str(Path(sys.executable).with_name("mlflow")), "deployments", "run-local"]
    model = ("-t", target, "--name", "price", "-m", str(models / "linear"))
    settings = ("-C", "port=0", "-C", "max_request=1000")
    with started([*command, *model, *settings], tmp_path) as served:
        assert served.ask("POST", "/invocations", BODY)[0] == 200
        assert 'model="price"' in served.ask("GET", "/metrics")[1]
        assert served.ask("POST", "/invocations", " " * 2000)[0] == 413
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(120) in (0, -signal.SIGTERM)


@pytest.mark.filterwarnings("ignore")  # of MLflow's own imports
def test_its_answers_are_those_of_mlflow_models_serve(models: Path, tmp_path: Path) -> None:
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    from tests.unit.scoring.asgi import ask

    theirs = scoring_server.init(mlflow.pyfunc.load_model(str(models / "linear")))
    with serving(models / "linear", tmp_path) as served:
        for body in (BODY, "[1", '{"inputs": [[1, 2]]}', '{"inputs": {"a": ["x"], "b": [1]}}'):
            expected = ask(theirs, "POST", "/invocations", body.encode(), JSON)
            status, text = served.ask("POST", "/invocations", body)
            assert (status, text.encode()) == (expected.status, expected.body)


def test_requests_under_way_are_answered_after_sigterm(models: Path, tmp_path: Path) -> None:
    body = json.dumps({"inputs": {"a": [1.5], "b": [0]}})
    with serving(models / "slow", tmp_path, "--no-warmup") as served:
        connection = served.connect()
        connection.request("POST", "/invocations", body, JSON)
        until(lambda: 'in_flight{model="model",version=""} 1' in served.ask("GET", "/metrics")[1],
              "the model is asked")
        served.process.send_signal(signal.SIGTERM)
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (200, b'{"predictions": [1.5]}')
        served.process.wait(120)
        with pytest.raises(ConnectionRefusedError):
            served.connect().connect()


def test_a_request_may_take_its_time_after_sigterm_too(models: Path, tmp_path: Path) -> None:
    body = json.dumps({"inputs": {"a": [3.0], "b": [0]}})
    flags = ("--no-warmup", "--timeout-s", "30", "--drain-s", "0")
    with serving(models / "slow", tmp_path, *flags) as served:
        connection = served.connect()
        connection.request("POST", "/invocations", body, JSON)
        until(lambda: 'in_flight{model="model",version=""} 1' in served.ask("GET", "/metrics")[1],
              "the model is asked")
        served.process.send_signal(signal.SIGTERM)
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (200, b'{"predictions": [1.5]}')
        assert served.process.wait(120) == 0


@pytest.mark.parametrize("busy_in", ["loading", "predicting"])
def test_sigterm_ends_what_is_not_ready_and_takes_its_files_away(
    busy_in: str, tmp_path: Path
) -> None:
    """By a handler of its own: the first process of a container overlooks it without one."""
    making: dict[str, Any] = {busy_in: "print('busy', flush=True); time.sleep(600)"}
    model = save_model(tmp_path, 1, **making)
    (model / "serving_input_example.json").write_text(json.dumps(ROW))
    files = tmp_path / "temporary"
    files.mkdir()
    command = [sys.executable, "-m", "mlflow_exec.scoring", "--port", "0"]
    with subprocess.Popen(
        [*command, "--model-uri", model.as_uri()], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(files)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "busy\n"
            assert len(list(files.iterdir())) == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 143
            assert list(files.iterdir()) == []
        finally:
            process.kill()


def test_traces_are_sent_before_it_ends(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # ms, so only the end sends them
        with serving(models / "linear", tmp_path, "--name", "price") as served:
            assert served.ask("POST", "/invocations", BODY)[0] == 200
            assert served.ask("POST", "/invocations", "{")[0] == 400
            assert collector.spans == []
            served.process.send_signal(signal.SIGTERM)
            served.process.wait(120)
    statuses = [span.attributes["http.response.status_code"] for span in collector.spans]
    assert statuses == [200, 400]
    assert {span.resource["service.name"] for span in collector.spans} == {"price"}


def test_slow_clients_take_nothing_from_others(models: Path, tmp_path: Path) -> None:
    flags = ("--max-concurrent", "1", "--timeout-s", "2")
    with serving(models / "linear", tmp_path, *flags) as served:
        lines = ["POST /invocations HTTP/1.1", "host: h", "content-type: application/json"]
        head = "\r\n".join([*lines, f"content-length: {len(BODY)}", "", ""])
        slow = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(40)]
        for sent, connection in enumerate(slow):  # nothing of the body is among it
            connection.sendall(head.encode() + BODY[: sent % 6].encode())
        assert served.ask("POST", "/invocations", BODY)[0] == 200
        for connection in slow[:2]:
            assert connection.recv(100).startswith(b"HTTP/1.1 504 ")
        for connection in slow:
            connection.close()


def test_a_body_of_100_mb_is_answered_and_a_larger_one_refused(
    models: Path, tmp_path: Path
) -> None:
    rows = 7_000_000
    body = '{"inputs": {"a": [' + "1.25, " * rows + '1.5], "b": [' + "1.25, " * rows + "1.5]}}"
    with serving(models / "linear", tmp_path) as served:
        assert len(body) < 100 * 1024 * 1024
        status, text = served.ask("POST", "/invocations", body)
        assert (status, text.count(",")) == (200, rows)
        status, text = served.ask("POST", "/invocations", body + " " * 30_000_000)
        assert status == 413
        assert "max_request_bytes" in text


def test_tokens_are_never_logged(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("s3cret-one\n")
    with serving(models / "linear", tmp_path, "--token-file", str(file)) as served:
        for token, status in (("s3cret-two", 401), ("s3cret-one", 200)):
            given = {"authorization": f"Bearer {token}"}
            assert served.ask("POST", "/invocations", BODY, **given)[0] == status
        assert served.ask("POST", "/invocations", "{", **given)[0] == 400
        assert served.ask("GET", "/ping")[0] == 200
        assert "s3cret" not in served.log.read_text()


def test_what_cannot_be_served_is_one_sentence_and_no_open_port(
    models: Path, tmp_path: Path
) -> None:
    assert "/nowhere: cannot be loaded" in refused("-m", "/nowhere")
    broken = refused("-m", str(models / "broken"))
    assert "the prediction on its own input example failed with 400" in broken
    assert "without the warm-up" in broken
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port} of 127.0.0.1 cannot be used" in refused("-m", "m", "--port", port)
    assert "timeout_s: must be at least" in refused("-m", "m", "--timeout-s", "0")


def test_the_runtime_needs_nothing_else_of_ours(models: Path, tmp_path: Path) -> None:
    """As a zip that holds this package alone, on the path of another Python process."""
    import zipfile

    import mlflow_exec

    package = Path(mlflow_exec.__file__).parent
    archive = tmp_path / "runtime.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in [package / "__init__.py", *(package / "scoring").glob("*.py")]:
            zipped.write(file, Path("mlflow_exec") / file.relative_to(package))
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from mlflow_exec.scoring.app import ScoringApp\n"
        "from mlflow_exec.scoring.options import ScoringOptions\n"
        "import mlflow_exec; assert mlflow_exec.__file__.startswith(sys.argv[1])\n"
        "assert ScoringApp.load(ScoringOptions(sys.argv[2])).ready\n"
        "print(sorted(m for m in sys.modules if m.startswith('mlflow_exec.')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(archive), str(models / "linear")],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all("mlflow_exec.scoring" in name for name in json.loads(done.stdout.replace("'", '"')))


def test_the_port_is_closed_until_the_model_has_predicted(models: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path / "log").open("w")
    example = models / "slow" / "serving_input_example.json"
    example.write_text('{"inputs": {"a": [3.0], "b": [2.0]}}')
    started_s = time.monotonic()
    process = subprocess.Popen(
        [*COMMAND, "-m", str(models / "slow"), "--port", str(port)], stderr=log
    )
    try:
        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return True
            return False

        until(answers, "the port opens")
        assert time.monotonic() - started_s > 3
    finally:
        example.unlink()
        process.kill()
        process.wait()
        log.close()


def test_ping_is_answered_while_a_prediction_computes(models: Path, tmp_path: Path) -> None:
    body = json.dumps({"inputs": {"a": [4.0], "b": [0]}})
    with serving(models / "slow", tmp_path, "--no-warmup") as served:
        asked = threading.Thread(target=served.ask, args=("POST", "/invocations", body))
        asked.start()
        started_s = time.monotonic()
        assert served.ask("GET", "/ping")[0] == 200
        assert time.monotonic() - started_s < 3
        asked.join()
