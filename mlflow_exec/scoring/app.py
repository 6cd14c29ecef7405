"""The scoring server as an ASGI application, without a framework in the way.

It answers ``/invocations``, ``/ping``, ``/health`` and ``/version`` as MLflow's does,
``/metrics``, and the Open Inference Protocol below ``/v2``. It runs under any ASGI server: uvicorn
(``python -m mlflow_exec.scoring``), Ray Serve.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from mlflow.version import VERSION

from mlflow_exec.scoring.asgi import (
    EVENT_STREAM,
    JSON,
    NOT_FOUND,
    TIMED_OUT,
    WRONG_METHOD,
    Answer,
    Receive,
    Scope,
    Send,
    in_time,
    lifespan,
    nobody_left,
    refusal,
    route_in,
    send_answer,
    too_large,
    whole_body,
)
from mlflow_exec.scoring.batching import Batches
from mlflow_exec.scoring.bearer import BearerTokens
from mlflow_exec.scoring.loading import LoadedModel, load, warm_up
from mlflow_exec.scoring.metrics import Metrics
from mlflow_exec.scoring.open_inference import OpenInference
from mlflow_exec.scoring.options import ScoringOptions
from mlflow_exec.scoring.scorer import Scorer
from mlflow_exec.scoring.streaming import Stream
from mlflow_exec.scoring.traces import Traces
from mlflow_exec.scoring.workers import Workers

_METHODS = {
    "/invocations": "POST", "/ping": "GET", "/health": "GET", "/version": "GET", "/metrics": "GET",
}  # fmt: skip
_OPEN = frozenset({"/ping", "/health", "/v2/health/live", "/v2/health/ready"})
# A body of so many bytes at most is answered in the event loop by a model that is cheap.
_AT_ONCE_BYTES = 64 * 1024
_AT_ONCE_ROWS = 100
_SENT = Answer(200, b"", EVENT_STREAM, "mlflow")  # piece by piece, already


class ScoringApp:
    """Answers for one model; an ASGI 3 application.

    Attributes:
        options: What was chosen.
        ready: Whether it takes requests: true once it exists, false from `stop` on.
        scorer: What answers a single body.
        metrics: What was counted.
    """

    def __init__(self, model: Any, options: ScoringOptions) -> None:
        self.options = options
        self.scorer = Scorer(model)
        self.metrics = Metrics(options)
        self.ready = True
        self._v2 = OpenInference(self.scorer, options)
        self._tokens = BearerTokens(options)
        self._traces = Traces.of(options)
        self._workers = Workers(options.max_concurrent)
        # Made in the event loop: old Pythons tie it to the one that is there.
        self._batches: Batches | None = None
        self._loaded: LoadedModel | None = None

    @classmethod
    def load(cls, options: ScoringOptions) -> ScoringApp:
        """Load the model and let it predict on its input example; then it is ready.

        Raises:
            LoadError: The model cannot be loaded, or fails on its own example.
            OptionsError: The tokens cannot be read.
        """
        BearerTokens(options)  # before the model, which may take minutes
        loaded = load(options)
        try:
            app = cls(loaded.model, options)
            if options.warmup:
                warm_up(app.scorer, loaded)
        except BaseException:
            loaded.close()
            raise
        app._loaded = loaded  # with the files that the model may still read
        return app

    def stop(self) -> None:
        """Tell who asks that no more requests are wanted; those that are under way go on."""
        self.ready = False

    async def drained(self) -> bool:
        """Wait until no request is under way, for `stop_s` at most; return whether that is so."""
        return await nobody_left(lambda: self.metrics.in_flight, self.options.stop_s)

    def flush(self) -> None:
        """Send the last traces, after the last request; this blocks, for seconds at most."""
        traces, self._traces = self._traces, None
        if traces is not None:
            traces.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's event as ASGI asks for it."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await lifespan(receive, send, self._end)
        else:  # a websocket
            await send({"type": "websocket.close", "code": 1000})

    async def _end(self) -> None:
        self.stop()
        await self.drained()
        self.flush()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = route_in(scope), scope["method"]
        headers = _Headers(scope["headers"])
        if path not in _OPEN and not self._tokens.accept(headers.authorization):
            await send_answer(send, _UNAUTHENTICATED, (b"www-authenticate", b"Bearer"))
            self.metrics.count(401, "none", 0.0)
            return
        expected = _METHODS.get(path) or self._v2.method(path)
        if expected is None:
            await _elsewhere(scope, path, headers, send)
        elif method != expected:
            await send_answer(send, WRONG_METHOD, (b"allow", expected.encode()))
        elif expected == "POST":
            await self._prediction(path, headers, scope, receive, send)
        else:
            await send_answer(send, self._about(path))

    def _about(self, path: str) -> Answer:
        if path == "/version":
            return Answer(200, VERSION.encode(), JSON)
        if path == "/metrics":
            status, media_type, body = self.metrics.text()
            return Answer(status, body, media_type.decode())
        if path.startswith("/v2"):
            return self._v2.about(path, self.ready)
        return Answer(200 if self.ready else 503, b"\n", JSON)

    async def _prediction(
        self, path: str, headers: _Headers, scope: Scope, receive: Receive, send: Send
    ) -> None:
        start_s = monotonic()
        metrics, traces = self.metrics, self._traces
        span = traces.begin(scope, path) if traces else None
        answer = None
        metrics.in_flight += 1
        try:
            answer = await self._answer(path, headers, receive, send, start_s)
            if answer is not None and answer is not _SENT:
                await send_answer(send, answer)
        finally:
            metrics.in_flight -= 1
            if traces is not None and span is not None:
                traces.end(span, answer)
        if answer is not None:
            metrics.count(answer.status, answer.path, monotonic() - start_s, answer.rows)

    async def _answer(
        self, path: str, headers: _Headers, receive: Receive, send: Send, start_s: float
    ) -> Answer | None:
        """Return the answer; None where the client went away before its whole body was here."""
        limit = self.options.max_request_bytes
        if headers.content_length > limit:
            return too_large(limit)
        timeout_s = self.options.timeout_s
        try:
            body = await in_time(whole_body(receive, limit), timeout_s)
            if body is None:
                return None
            timeout_s = max(0.0, timeout_s - (monotonic() - start_s))
            if len(body) > limit:
                return too_large(limit)
            if path == "/invocations" and headers.wants_events:
                stream = Stream(self.scorer, self._workers, timeout_s)
                return await stream.run(body, headers.content_type, receive, send) or _SENT
            if path == "/invocations":
                return await self._score(body, headers.content_type, timeout_s)
            return await self._infer(path, body, headers.header_bytes, timeout_s)
        except asyncio.TimeoutError:
            return TIMED_OUT

    async def _infer(
        self, path: str, body: bytes, header_bytes: int | None, timeout_s: float
    ) -> Answer:
        answer: Answer = self._v2.refusal(path) or await self._workers.run(
            lambda: self._v2.infer(body, header_bytes), timeout_s
        )
        return answer

    async def _score(self, body: bytes, content_type: str | None, timeout_s: float) -> Answer:
        if self.options.batch_max_rows and self.scorer.fast_path:
            if self._batches is None:
                self._batches = Batches(self.scorer, self._workers, self.options, self.metrics)
            return await self._batches.answer(body, content_type, timeout_s)
        fast_path, request = self.scorer.fast_path, None
        if fast_path and fast_path.is_cheap and len(body) <= _AT_ONCE_BYTES:
            request = fast_path.understand(body, content_type)
            if request is not None and request.rows <= _AT_ONCE_ROWS:
                return self.scorer.answer_to(request, body, content_type)

        def predict() -> Answer:
            if request is None:
                return self.scorer.answer(body, content_type)
            return self.scorer.answer_to(request, body, content_type)

        answer: Answer = await self._workers.run(predict, timeout_s)
        return answer


async def _elsewhere(scope: Scope, path: str, headers: _Headers, send: Send) -> None:
    if not (path.endswith("/") and path.rstrip("/") in _METHODS):
        await send_answer(send, NOT_FOUND)
        return
    # Starlette sends to the path without the slash.
    query = scope["query_string"].decode("latin-1")
    place = f"{scope['scheme']}://{headers.host.decode('latin-1')}{scope['path'].rstrip('/')}"
    place += f"?{query}" if query else ""
    await send_answer(send, Answer(307, b"", ""), (b"location", place.encode("latin-1")))


class _Headers:
    """The few headers that matter, found in one go."""

    __slots__ = (
        "authorization", "content_length", "content_type", "header_bytes", "host", "wants_events",
    )  # fmt: skip

    def __init__(self, pairs: Any) -> None:
        self.authorization = self.host = b""
        self.content_length = 0
        self.content_type: str | None = None
        self.wants_events = False
        self.header_bytes: int | None = None  # of the Open Inference Protocol
        for name, value in pairs:
            if name == b"content-type":
                if self.content_type is None:
                    self.content_type = value.decode("latin-1")
            elif name == b"content-length":
                self.content_length = int(value) if value.isdigit() else 0
            elif name == b"authorization":
                self.authorization = value
            elif name == b"x-mlflow-exec-token":
                # For those who come through a proxy that keeps the usual header for itself.
                self.authorization = b"Bearer " + value
            elif name == b"inference-header-content-length":
                self.header_bytes = int(value) if value.isdigit() else -1
            elif name == b"accept":
                self.wants_events = value.startswith(EVENT_STREAM.encode())
            elif name == b"host":
                self.host = value


_UNAUTHENTICATED = refusal(
    401, "UNAUTHENTICATED",
    "This server asks for a token. Send the header: Authorization: Bearer <token>.",
)  # fmt: skip
