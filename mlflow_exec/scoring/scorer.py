"""One model's answers to the bodies that are posted to ``/invocations``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.utils.proto_json_utils import _get_jsonable_obj

from mlflow_exec.scoring.asgi import Answer, refusal
from mlflow_exec.scoring.fast_path import FastPath, Request
from mlflow_exec.scoring.json_text import dumps

_logger = logging.getLogger(__name__)


ARROW = "application/vnd.apache.arrow.stream"

INTERNAL_ERROR = Answer(
    500, b"Internal Server Error", "text/plain; charset=utf-8", "mlflow"
)


class Scorer:
    """Answers with one model: by the fast path where it understands, else by MLflow.

    Attributes:
        model: The model as MLflow loaded it.
        fast_path: None where every request needs MLflow.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.fast_path = FastPath.of(model)
        self._input_schema = model.metadata.get_input_schema()

    def understand(self, body: bytes, content_type: str | None) -> Request | None:
        """Return what the fast path will ask the model, or None where MLflow has to answer."""
        return self.fast_path.understand(body, content_type) if self.fast_path else None

    def answer(self, body: bytes, content_type: str | None) -> Answer:
        """Answer one request; every error is an answer too."""
        if content_type == ARROW:
            return self.answer_to_arrow(body)
        request = self.understand(body, content_type)
        if request is None:
            return self.answer_by_mlflow(body, content_type)
        return self.answer_to(request, body, content_type)

    def answer_to(self, request: Request, body: bytes, content_type: str | None) -> Answer:
        """Answer a request that is understood; the body is for the message of an error."""
        assert self.fast_path is not None
        try:
            predictions = self.fast_path.predict(request)
        except Exception as error:
            return self.answer_with(_raising(error), body, content_type)
        return self.answer_of(predictions, request.rows, body, content_type)

    def answer_of(
        self, predictions: Any, rows: int, body: bytes, content_type: str | None
    ) -> Answer:
        """Answer with what the model returned."""
        try:
            text = dumps({"predictions": _get_jsonable_obj(predictions, pandas_orient="records")})
        except Exception:
            return self.answer_with(lambda: predictions, body, content_type)
        return Answer(200, text.encode(), "application/json", "fast", rows)

    def answer_with(
        self, predict: Callable[[], Any], body: bytes, content_type: str | None
    ) -> Answer:
        """Let MLflow answer with a result or an error that is there already.

        So its words are those of the MLflow that is installed, and the model is not asked twice.
        """
        replayed = _Replayed(self.model.metadata, predict)
        return self.answer_by_mlflow(body, content_type, replayed)._replace(path="fast")

    def parsed_by_mlflow(
        self, body: bytes, content_type: str | None
    ) -> tuple[Answer | None, tuple[Any, Any]]:
        """Return what MLflow would ask the model, data and params; or its refusal before them."""
        noting = _Noting(self.model.metadata)
        answer = self.answer_by_mlflow(body, content_type, noting)
        return (None if noting.is_asked else answer), noting.asked

    def answer_to_arrow(self, body: bytes) -> Answer:
        """Answer a table in Arrow's stream format; MLflow's checks hold for it."""
        try:
            import pyarrow
        except ImportError:
            needed = "Arrow needs the package pyarrow in the model's environment."
            return refusal(415, "BAD_REQUEST", needed)
        try:
            frame = pyarrow.ipc.open_stream(body).read_pandas()
        except (pyarrow.ArrowException, ValueError, OSError) as error:
            return refusal(400, "BAD_REQUEST", f"The body is no Arrow stream: {error}")
        try:
            predictions = self.model.predict(frame)
        except MlflowException as error:
            text, status = error.serialize_as_json(), error.get_http_status_code()
            return Answer(status, text.encode(), "application/json", "mlflow")
        except Exception as error:
            _logger.exception("the model failed")
            return refusal(400, "BAD_REQUEST", f"The model failed: {type(error).__name__}: {error}")
        answer = self.answer_of(predictions, len(frame), b'{"inputs": []}', "application/json")
        return answer._replace(path="mlflow")

    def answer_by_mlflow(
        self, body: bytes, content_type: str | None, model: Any = None
    ) -> Answer:
        """Answer by MLflow's own scoring server, which gets what came."""
        try:
            result = scoring_server.invocations(
                body, content_type, model or self.model, self._input_schema
            )
            is_text = result.mimetype.startswith("text/")
            media_type = result.mimetype + ("; charset=utf-8" if is_text else "")
            return Answer(result.status, result.response.encode(), media_type, "mlflow")
        except MlflowException as error:
            text, status = error.serialize_as_json(), error.get_http_status_code()
            return Answer(status, text.encode(), "application/json", "mlflow")
        except Exception:
            _logger.exception("the request cannot be answered")
            return INTERNAL_ERROR


class _Noting:
    """In a model's place: notes what it is asked."""

    def __init__(self, metadata: Any) -> None:
        self.metadata = metadata
        self.is_asked = False
        self.asked: tuple[Any, Any] = (None, None)

    def predict(self, data: Any, params: Any = None) -> list[Any]:
        self.is_asked = True
        self.asked = data, params
        return []


class _Replayed:
    """In a model's place: hands out one result again."""

    def __init__(self, metadata: Any, result: Callable[[], Any]) -> None:
        self.metadata = metadata
        self._result = result

    def predict(self, data: Any, params: Any = None) -> Any:
        return self._result()


def _raising(error: Exception) -> Callable[[], Any]:
    def predict() -> Any:
        raise error

    return predict
