"""What Serve says of an application, as a rollout. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_exec.jobs import Failure, FailureCategory
from mlflow_exec.releases import Revision, Rollout, RolloutState
from mlflow_exec.targets.ray_serve.plan import DEPLOYMENTS

Json = Mapping[str, Any]

# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/serve/schema.py (ApplicationStatus)
_STATES = {
    "NOT_STARTED": RolloutState.DEPLOYING,
    "DEPLOYING": RolloutState.DEPLOYING,
    "RUNNING": RolloutState.READY,
    "UNHEALTHY": RolloutState.UNHEALTHY,
    "DEPLOY_FAILED": RolloutState.FAILED,
    "DELETING": RolloutState.DELETING,
}
# What the messages of an application and of its deployment say, the first that matches:
# python/ray/serve/_private/{application_state,deployment_state}.py of Ray 2.60.
_REASONS: tuple[tuple[re.Pattern[str], FailureCategory, str], ...] = (
    (
        re.compile(r"Failed to download runtime_env file package gcs://"),
        FailureCategory.SOURCE_FETCH,
        "Ray has removed what was sent along, as no replica used it any more; 'update' sends it "
        "again.",
    ),
    (
        re.compile(
            r"Runtime env setup for app|RuntimeEnvSetupError|runtime_env setup failed"
            r"|Failed to set up runtime environment"
        ),
        FailureCategory.ENVIRONMENT_SETUP,
        "Mend the model's requirements, or give others by 'requirements'.",
    ),
    (
        re.compile(r"ModuleNotFoundError|ImportError"),
        FailureCategory.ENVIRONMENT_SETUP,
        "Add the package to the model's requirements, or give it by 'requirements'.",
    ),
    (
        re.compile(r"mlflow-exec: the model was logged with Python"),
        FailureCategory.INVALID_CONFIG,
        "Deploy to a cluster with that Python, or accept another by 'any_python'.",
    ),
    (
        re.compile(r"OutOfMemoryError|OOM|killed due to the node running low on memory"),
        FailureCategory.OUT_OF_MEMORY,
        "Raise 'resources.memory', or take a larger node.",
    ),
    (
        re.compile(r"to be scheduled|Resources required for each replica"),
        FailureCategory.UNSCHEDULABLE,
        "Ask for less by 'resources', or add a node.",
    ),
    (re.compile(r"mlflow-exec: the model cannot be fetched"), FailureCategory.SOURCE_FETCH, ""),
)
_LIMIT_CHARS = 4000


def is_ours(application: Json) -> bool:
    """Whether an application was deployed by mlflow-exec."""
    return submitted(application).get("import_path") in DEPLOYMENTS


def api_of(application: Json) -> str:
    """Return by which interface of Serve an application was deployed, as the setting names it."""
    without = "declarative" if application.get("deployed_app_config") else "imperative"
    return str(application.get("source") or without)


def submitted(application: Json) -> Json:
    """Return an application as it was submitted.

    Serve keeps that of those in its document. Of those by its Python interface it tells each
    deployment's options, among them our revisions, from which the rest follows.
    """
    if api_of(application) == "declarative":  # else its entry is one that is not in force
        return dict(application.get("deployed_app_config") or {})
    for import_path, name in DEPLOYMENTS.items():
        deployment = (application.get("deployments") or {}).get(name) or {}
        config = (deployment.get("deployment_config") or {}).get("user_config") or {}
        try:
            if config["revision"]["objects"][0]["import_path"] == import_path:
                deployments = [{"name": name, "user_config": config}]
                return {"import_path": import_path, "deployments": deployments}
        except (KeyError, IndexError, TypeError):
            continue  # somebody else's own
    return {}


def user_config(config: Json) -> Json:
    """Return the part of an application's configuration in which its revisions are."""
    wanted = DEPLOYMENTS.get(str(config.get("import_path")))
    for deployment in config.get("deployments") or ():
        if deployment.get("name") == wanted:
            return dict(deployment.get("user_config") or {})
    return {}


def revisions_in(config: Json) -> list[Revision]:
    """Return the revisions that an application's configuration holds, the oldest first."""
    kept = user_config(config)
    all_ = [*(kept.get("history") or ()), kept.get("revision")]
    return [Revision.from_data(data) for data in all_ if data]


def rollout_of(name: str, application: Json, url: str | None) -> Rollout:
    """Return how an application of ours is.

    Args:
        name: The application's.
        application: What Serve tells of it.
        url: Where it is asked.
    """
    config = submitted(application)
    try:
        revisions = revisions_in(config)
    except ValueError:
        revisions = []
    newest = revisions[-1] if revisions else None
    of_ours = DEPLOYMENTS.get(str(config.get("import_path")), "")
    deployment = (application.get("deployments") or {}).get(of_ours) or {}
    replicas = [r.get("state") for r in deployment.get("replicas") or ()]
    ready = replicas.count("RUNNING")
    state = _STATES.get(str(application.get("status")), RolloutState.UNKNOWN)
    message = _message(application, deployment)
    serving = _serving(deployment, [r.number for r in revisions]) if ready else None
    failure = failure_of(message) if state is RolloutState.FAILED else None
    return Rollout(
        name, state, newest, serving, int(deployment.get("target_num_replicas") or 0), ready, url,
        message, failure, application,
    )  # fmt: skip


def _serving(deployment: Json, numbers: Sequence[int]) -> int | None:
    """Return the revision that answers, where replicas do.

    The application's configuration is the one that was sent; its deployment's is the one that is
    carried out, which is still the one before while Serve builds, or could not build.
    """
    carried_out = (deployment.get("deployment_config") or {}).get("user_config") or {}
    number = (carried_out.get("revision") or {}).get("number")
    if number is None:
        return None
    if deployment.get("status") != "UPDATING" and deployment.get("status") != "DEPLOY_FAILED":
        return int(number)
    # Old replicas go only when new ones have come.
    return max((n for n in numbers if n < number), default=None)


def _message(application: Json, deployment: Json) -> str:
    """Return what Serve says; the cause of "Failed to update the deployments" is one level down."""
    texts = [str(application.get("message") or ""), str(deployment.get("message") or "")]
    texts = [text.strip() for text in texts if text.strip()]
    if len(texts) == 2 and texts[0].startswith("Failed to update the deployments"):
        texts = texts[1:]
    return "\n".join(texts)


def failure_of(message: str) -> Failure:
    """Return why an application did not become ready, from what Serve says."""
    for pattern, category, hint in _REASONS:
        if pattern.search(message):
            return Failure(category, _cut(message), hint)
    text = _cut(message) or "Serve does not say why."
    return Failure(FailureCategory.USER_ERROR, text, "The model's own code or files failed.")


def _cut(message: str) -> str:
    """Keep the end of a long text: that of a traceback says what was wrong."""
    return message if len(message) <= _LIMIT_CHARS else f"…{message[-_LIMIT_CHARS:]}"
