"""A model on disk or in a registry becomes one that is known to answer."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from typing import Any

from mlflow.artifacts import download_artifacts
from mlflow.pyfunc import load_model

from mlflow_exec.scoring.json_text import dumps
from mlflow_exec.scoring.options import ScoringOptions
from mlflow_exec.scoring.scorer import Scorer

_logger = logging.getLogger(__name__)
_SERVING_EXAMPLE = "serving_input_example.json"


class LoadError(RuntimeError):
    """The model cannot be loaded, or does not answer its own example; the message says why."""


class LoadedModel:
    """A model and the files that it was loaded from, which live as long as it.

    Attributes:
        model: What MLflow loaded.
        path: The model's folder on this machine.
    """

    def __init__(self, model: Any, path: str, folder: str | None = None) -> None:
        self.model = model
        self.path = path
        self._remove = folder and weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the files that were fetched for it, sooner than with the model."""
        if self._remove:
            self._remove()


def load(options: ScoringOptions) -> LoadedModel:
    """Fetch and load the model as MLflow's scoring server does.

    Raises:
        LoadError: It cannot be found or loaded.
    """
    # Models ask MLflow whether they are being served.
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
    config = os.environ.get("SERVING_MODEL_CONFIG")
    given = {"model_config": json.loads(config)} if config else {}
    folder = None
    try:
        path = options.model_uri
        if not os.path.isdir(path):
            folder = tempfile.mkdtemp(prefix="mlflow-exec-model-")
            path = download_artifacts(artifact_uri=options.model_uri, dst_path=folder)
        return LoadedModel(load_model(path, **given), path, folder)
    except BaseException as error:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, Exception):  # it is told to stop
            raise
        raise LoadError(
            f"model {options.model_uri}: cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def warm_up(scorer: Scorer, loaded: LoadedModel) -> bool:
    """Let the model predict on its input example, as a request; return whether there is one.

    Raises:
        LoadError: The answer is an error.
    """
    example = serving_example(loaded)
    if example is None:
        _logger.warning(
            "The model has no input example: its first request will be slower than the others."
        )
        return False
    answer = scorer.answer(example, "application/json")
    if answer.status != 200:
        text = answer.body.decode()
        with suppress(ValueError, KeyError, TypeError):  # a plain text
            text = json.loads(text)["message"]
        raise LoadError(
            f"model {loaded.path}: the prediction on its own input example failed with "
            f"{answer.status}: {text}; log it with an example that it predicts on, or serve it "
            "without the warm-up"
        )
    return True


def serving_example(loaded: LoadedModel) -> bytes | None:
    """Return the body of a request with the model's input example, or None without one."""
    file = os.path.join(loaded.path, _SERVING_EXAMPLE)
    if os.path.isfile(file):
        with open(file, "rb") as stream:
            return stream.read()
    # Models logged before MLflow 2.17 have the example only as it was given.
    try:
        example = loaded.model.metadata.load_input_example(loaded.path)
    except Exception as error:
        _logger.warning("The model's input example cannot be read: %s", error)
        return None
    if isinstance(example, tuple):  # with parameters
        example = example[0]
    if hasattr(example, "to_dict"):
        split = example.to_dict(orient="split")
        example, key = {k: split[k] for k in ("columns", "data")}, "dataframe_split"
    else:
        key = "inputs"
    return None if example is None else str(dumps({key: example})).encode()
