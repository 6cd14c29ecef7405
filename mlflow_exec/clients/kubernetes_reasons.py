"""The words in which Kubernetes says why a pod is not there or not running. Pure."""

from __future__ import annotations

import re

from mlflow_exec.jobs import FailureCategory

# https://github.com/kubernetes/kubernetes/blob/v1.34.1/pkg/kubelet/images/types.go
IMAGE_REASONS = {
    "ErrImageNeverPull", "ErrImagePull", "ImageInspectError", "ImagePullBackOff",
    "InvalidImageName", "RegistryUnavailable", "SignatureValidationFailed",
}  # fmt: skip
# https://github.com/kubernetes/kubernetes/blob/v1.34.1/pkg/kubelet/kuberuntime/kuberuntime_container.go
CONFIG_REASONS = {
    "CreateContainerConfigError", "CreateContainerError", "PreCreateHookError",
    "PreStartHookError", "RunContainerError",
}  # fmt: skip

# A registry that limits its clients, and the kubelet's own limit, pass: the pull is tried again.
TRANSIENT_PULL = re.compile(r"\b429\b|too many requests|toomanyrequests|pull QPS exceeded", re.I)
PULL_DENIED = re.compile(r"\b40[13]\b|unauthorized|forbidden|denied|authorization failed", re.I)

# What stands between the controller and a pod and passes, unlike what the pod itself lacks.
_TRANSIENT_CREATE = re.compile(r"failed calling webhook|internal error|timed? ?out|too many", re.I)
_LAST_WORDS_CHARS = 300  # a tag holds 500


def not_created(message: str) -> FailureCategory:
    """Return the category of a message by which a controller says that it can create no pod.

    https://github.com/dagster-io/dagster/issues/24595
    """
    if "exceeded quota" in message:
        return FailureCategory.QUOTA
    if _TRANSIENT_CREATE.search(message):
        return FailureCategory.INFRASTRUCTURE
    if "forbidden" in message and "error looking up service account" not in message:
        return FailureCategory.PERMISSION
    return FailureCategory.INVALID_CONFIG


def last_words(output: str) -> str:
    """Return the last lines of an output, where programs say what went wrong, as one line."""
    kept = ""
    for line in reversed(output.splitlines()):
        longer = f"{line.strip()} {kept}".strip()
        if kept and len(longer) > _LAST_WORDS_CHARS:
            break
        kept = longer
    return kept
