"""What the deployment plugins have in common: MLflow's calling conventions, and nothing else.

MLflow takes the one subclass of ``BaseDeploymentClient`` among all members of a plugin's module,
so what is shared is a mixin here, and no subclass (``mlflow/deployments/plugin_manager.py``).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import click
from mlflow.deployments import PredictionsResponse
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST
from mlflow.utils.proto_json_utils import NumpyEncoder

from mlflow_exec import registry
from mlflow_exec.credentials import hide
from mlflow_exec.errors import ConfigError, DeploymentNotFoundError, MlflowExecError
from mlflow_exec.plugins.gate import Gate
from mlflow_exec.releases import Rollout
from mlflow_exec.runs import deploy, deployed, endpoints
from mlflow_exec.runs.progress import Progress
from mlflow_exec.settings import json_schema

FLAVOR = "python_function"
# https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#api-reference-for-scoring-server
_ENVELOPES = ("dataframe_split", "dataframe_records", "inputs", "instances")

# What `TargetSettings.scoring_options` is made of.
_OF_SCORING = {"batch", "drain_s", "max_request", "request_timeout_s", "warmup"}


@contextmanager
def deployment_errors() -> Iterator[None]:
    """Turn our errors into MLflow's; on a command line into one that it prints as a sentence."""
    try:
        yield
    except (MlflowExecError, MlflowException) as error:
        shown = hide(str(error))
        cause = error if shown == str(error) else None
        if click.get_current_context(silent=True) is not None:
            raise click.ClickException(shown) from cause
        missing = isinstance(error, DeploymentNotFoundError)
        code = RESOURCE_DOES_NOT_EXIST if missing else INVALID_PARAMETER_VALUE
        raise MlflowException(shown, error_code=code) from cause


class Deployments:
    """The verbs of ``mlflow.deployments`` on one target; a plugin's class adds MLflow's base."""

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)  # type: ignore[call-arg]
        self._uri = target_uri

    def _place(self, config: Mapping[str, Any] | None = None) -> deploy.Place:
        return deploy.place(self._uri, config)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve a model under a new name, and return when it answers.

        With ``endpoint`` it becomes a variant of that endpoint: the only one of a new endpoint, or
        one without requests until it gets a weight.

        Raises:
            MlflowException: There is one of that name, the call was refused, or the model did not
                become ready; the message says why.
        """
        with deployment_errors():
            _check_call(flavor)
            place = self._place(config)
            if place.settings.render == "only":
                _print_plan(self._uri, name, model_uri, config)
            if endpoint:
                return shown(endpoints.create_variant(
                    self._uri, place, endpoint, name, model_uri, Progress(), Gate()
                ))  # fmt: skip
            return shown(deploy.create(place, name, model_uri, Progress(), Gate()))

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve another model, or by other settings; those that are not given stay.

        Raises:
            MlflowException: There is none of that name, the call was refused, or the revision did
                not become ready: then the one before serves on.
        """
        with deployment_errors():
            _check_call(flavor)
            place = self._place(config)
            self._check_variant(place, endpoint, name)
            if place.settings.render == "only":
                _print_plan(self._uri, name, model_uri, config)
            return shown(
                deploy.update(self._uri, place, name, model_uri, Progress(), Gate())
            )

    def delete_deployment(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> None:
        """Remove a deployment and return when nothing of it is left; idempotent.

        A variant of an endpoint is refused, unless that endpoint is named.
        """
        with deployment_errors():
            place = self._place(config)
            if endpoint:
                endpoints.remove_variant(self._uri, place, endpoint, name)
            endpoints.delete_deployment(place, name)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return all deployments of mlflow-exec there, or the variants of an endpoint."""
        with deployment_errors():
            found = deploy.deployments(self._place().target)
            if endpoint:
                wanted = endpoints.variants(self._place().target, endpoint)
                found = [rollout for rollout in found if rollout.name in wanted]
            return [shown(rollout) for rollout in found]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Return how a deployment is.

        Raises:
            MlflowException: There is none of that name.
        """
        with deployment_errors():
            place = self._place()
            self._check_variant(place, endpoint, name)
            return shown(deploy.deployment(place.target, name))

    @staticmethod
    def _check_variant(place: deploy.Place, endpoint: str | None, name: str) -> None:
        if endpoint and name not in endpoints.variants(place.target, endpoint):
            raise MlflowExecError(f"endpoint: {name!r} is no variant of {endpoint!r}")

    def create_endpoint(
        self, name: str, config: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make one address over several deployments, and return when it answers.

        Args:
            name: The endpoint's.
            config: ``weights``, ``shadows``, ``sticky_header``, and the target's settings.

        Raises:
            MlflowException: The name is not free, or the call was refused; the message says why.
        """
        with deployment_errors():
            return shown_endpoint(
                endpoints.create(endpoints.place(self._uri, config), name, Progress())
            )

    def update_endpoint(
        self, endpoint: str, config: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Change routes or settings; what is not given stays, and ``None`` takes a variant away.

        Raises:
            MlflowException: There is none of that name, or the call was refused.
        """
        with deployment_errors():
            place = endpoints.place(self._uri, config)
            return shown_endpoint(endpoints.update(self._uri, place, endpoint, Progress()))

    def delete_endpoint(self, endpoint: str) -> None:
        """Remove an endpoint, and not the deployments behind it; idempotent."""
        with deployment_errors():
            endpoints.delete(self._place(), endpoint)

    def list_endpoints(self) -> list[dict[str, Any]]:
        """Return all endpoints of mlflow-exec there."""
        with deployment_errors():
            return [shown_endpoint(r) for r in endpoints.endpoints(self._place().target)]

    def get_endpoint(self, endpoint: str) -> dict[str, Any]:
        """Return how an endpoint is, and what one of its routers has counted.

        Raises:
            MlflowException: There is none of that name.
        """
        with deployment_errors():
            target = self._place().target
            found = shown_endpoint(endpoints.endpoint(target, endpoint))
            return {**found, "counts": endpoints.counts(target, endpoint)}

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Return the predictions of a deployment or an endpoint.

        Args:
            deployment_name: The deployment.
            inputs: A DataFrame, an array, a list, or the body of a request as a mapping.
            endpoint: An endpoint in place of a deployment.

        Raises:
            MlflowException: It answers with an error, or not at all.
        """
        with deployment_errors():
            asked = deployment_name or endpoint
            if not asked or (deployment_name and endpoint):
                raise MlflowExecError("name, endpoint: exactly one of them is needed")
            # MLflow's own encoder: dates as ISO 8601, numbers with all their digits.
            body = json.dumps(request_body(inputs), cls=NumpyEncoder).encode()
            headers = {"Content-Type": "application/json"}
            target = self._place().target
            answer = target.request(asked, "/invocations", body, headers)
        if answer.status != 200:
            _refused(asked, answer.status, answer.body)
        found = json.loads(answer.body)
        return PredictionsResponse(found if isinstance(found, dict) else {"predictions": found})


def _refused(name: str, status: int, body: bytes) -> None:
    text = body.decode("utf-8", "replace")
    with suppress(ValueError, KeyError, TypeError):  # then it is no error of MLflow's form
        text = str(json.loads(text)["message"])
    with deployment_errors():
        raise MlflowExecError(f"{name}: it answers {status}: {text[:2000]}")


def request_body(inputs: Any) -> Mapping[str, Any]:
    """Return the body of a scoring request for what Python callers and MLflow's CLI pass.

    MLflow's command line reads any JSON file as a DataFrame, so that a body such as
    ``{"dataframe_split": …}`` arrives as one column of that name; it is unwrapped again.
    """
    import numpy as np
    import pandas as pd

    if isinstance(inputs, pd.DataFrame):
        if len(inputs.columns) == 1 and str(inputs.columns[0]) in _ENVELOPES:
            key = str(inputs.columns[0])
            column = inputs[key]
            plain = list(column.index) == list(range(len(column)))
            return {key: column.tolist() if plain else _plain(column.to_dict())}
        split = inputs.to_dict(orient="split")
        if split["index"] == list(range(len(inputs))):  # what it is without, too, and sooner
            del split["index"]
        return {"dataframe_split": split}
    if isinstance(inputs, Mapping) and any(key in inputs for key in (*_ENVELOPES, "messages")):
        return inputs
    if isinstance(inputs, np.ndarray):
        return {"inputs": inputs.tolist()}
    if isinstance(inputs, Mapping):
        return {"inputs": {k: np.asarray(v).tolist() for k, v in inputs.items()}}
    return {"inputs": inputs}


def _plain(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()}


def shown(rollout: Rollout) -> dict[str, Any]:
    """Return what people and programs see of a rollout; ``name`` and ``flavor`` are for MLflow."""
    revision = rollout.revision
    return {
        "name": rollout.name,
        "flavor": FLAVOR,
        "state": rollout.state.value,
        "revision": revision.number if revision else None,
        "serving": rollout.serving,
        "model_uri": revision.model_uri if revision else None,
        "pinned_uri": revision.pinned_uri if revision else None,
        "model_version": revision.model_version if revision else None,
        "replicas": f"{rollout.ready}/{rollout.replicas}",
        "url": rollout.url,
        "message": rollout.message,
        "failure": str(rollout.failure) if rollout.failure else None,
    }


def shown_endpoint(rollout: Rollout) -> dict[str, Any]:
    """Return what people and programs see of an endpoint."""
    revision = rollout.revision
    routes = dict(revision.routes or {}) if revision else {}
    return {
        "name": rollout.name,
        "state": rollout.state.value,
        "revision": revision.number if revision else None,
        **{key: routes.get(key) for key in endpoints.ROUTES},
        "replicas": f"{rollout.ready}/{rollout.replicas}",
        "url": rollout.url,
        "message": rollout.message,
        "failure": str(rollout.failure) if rollout.failure else None,
    }


def _check_call(flavor: str | None) -> None:
    if flavor not in (None, FLAVOR):
        raise MlflowExecError(
            f"flavor: every model is served by its flavor {FLAVOR!r}; given {flavor!r}"
        )


def _print_plan(
    uri: str, name: str, model_uri: str | None, config: Mapping[str, Any] | None
) -> None:
    """Print what would be sent, and end the command before MLflow can claim that it was."""
    with deployed.rendered(uri, name, model_uri, config or {}) as plan:
        click.echo(plan.to_yaml().rstrip())
    context = click.get_current_context(silent=True)
    if context is None:
        raise MlflowExecError("render: only: it was printed, and nothing was sent")
    context.exit(0)


def target_help(name: str) -> str:
    """Return the text of ``mlflow deployments help -t NAME``: URIs, and each setting."""
    found = registry.target(name)
    out = io.StringIO()
    out.write(f"Target URIs: {', '.join(found.uris)}\n\nSettings, each given by -C name=value")
    out.write(" (-C resources.cpu=2 leads into one, objects and lists are JSON):\n\n")
    schema = json_schema(registry.load(found.settings))
    for key, field in sorted(schema["properties"].items()):
        default = field.get("default")
        told = "" if default is None else f" [{json.dumps(default)}]"
        out.write(f"  {key}{told}\n      {field.get('description', '')}\n")
    return out.getvalue()


def run_local(
    target_name: str,
    name: str,
    model_uri: str,
    flavor: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Serve a model on this machine until the process is stopped, as a replica there would.

    Args:
        target_name: The target's.
        name: The deployment's name, for metrics.
        model_uri: The model.
        flavor: Only ``python_function``.
        config: The target's settings, of which those of the scoring count; and ``port`` (5000).

    Raises:
        MlflowException: The call was refused, or the model cannot be loaded.
    """
    from mlflow_exec.scoring.options import OptionsError, ScoringOptions
    from mlflow_exec.scoring.server import run

    with deployment_errors():
        _check_call(flavor)
        given = dict(config or {})
        port = str(given.pop("port", "5000"))
        without_effect = sorted({key.split(".")[0] for key in given} - _OF_SCORING)
        if without_effect:
            raise ConfigError(
                f"-C: {without_effect[0]}: it has no effect on this machine; known here: "
                f"{', '.join(sorted({*_OF_SCORING, 'port'}))}; 'mlflow-exec serve' knows more"
            )
        settings = deploy.place(target_name, given).settings
        if not port.isdigit():
            raise ConfigError(f"-C: port: a number is needed; given {port!r}")
        options = ScoringOptions(model_uri, name=name, **settings.scoring_options())
        try:
            run(options, "127.0.0.1", int(port))
        except (OptionsError, RuntimeError) as error:
            raise ConfigError(f"run-local: {error}") from error
