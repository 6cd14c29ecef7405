"""Every exception of mlflow-exec, by what the caller can do about it.

::

    MlflowExecError
    ├── ConfigError               the settings or the call are wrong: change them
    │   ├── CredentialError       a credential is not there, or may not be used there
    │   ├── LocationError         an artifact URI or path is malformed, or could mean two places
    │   └── TemplateError         a template or a patch cannot be rendered or merged
    ├── MissingExtraError         an optional dependency is not installed: install it
    ├── SourceError               the project cannot be bundled: change the project
    │   └── SourceTooLargeError   … it is over the limit
    ├── HandleError               a job handle is no handle, or names no cluster known here
    ├── JobNotFoundError          the cluster was asked and does not know the job
    ├── DeploymentNotFoundError   the target was asked and has no such deployment
    ├── RolloutError              a revision did not become ready; the message says why
    ├── SignInError               who gives tokens refused: sign in again, correct the settings
    ├── ArtifactError             an artifact store refused, or could not be asked
    │   └── ArtifactNotFoundError it was asked and has no such file
    ├── GateError                 a model fails the suite that it has to pass; nothing was touched
    ├── ScanError                 data or model cannot be scanned: the message says which way on
    ├── CancelError               something of a job is still running after its cancellation
    └── ClusterError              the cluster refused or could not be asked
        ├── UnreachableError      no answer: try again later
        ├── AccessDeniedError     401 or 403: ask for the right that the message names
        ├── NotFoundError         404: the named object does not exist
        ├── ConflictError         409: the object exists, or changed in between
        └── RejectedError         the request itself is invalid: trying again cannot help

Messages have the form *where: what; what was given; the way on*.
"""

from __future__ import annotations


class MlflowExecError(Exception):
    """The root of all errors raised by mlflow-exec."""


class ConfigError(MlflowExecError):
    """The settings or the call are wrong; nothing was touched."""


class CredentialError(ConfigError):
    """A credential is not there, or may not be used there."""


class LocationError(ConfigError):
    """An artifact URI or path is malformed, or could mean more than one place."""


class TemplateError(ConfigError):
    """A template or a patch cannot be rendered or merged."""


class MissingExtraError(MlflowExecError):
    """An optional dependency is not installed; the message names the pip command."""


class SourceError(MlflowExecError):
    """The project cannot be bundled."""


class SourceTooLargeError(SourceError):
    """The project is larger than the limit; the message lists the largest folders."""


class HandleError(MlflowExecError):
    """A job handle cannot be parsed, or no configured cluster is the one that it names."""


class JobNotFoundError(MlflowExecError):
    """The cluster was asked and does not know the job."""


class DeploymentNotFoundError(MlflowExecError):
    """The target was asked and has no deployment of ours of that name."""


class RolloutError(MlflowExecError):
    """A revision did not become ready; the message says why, and what serves instead."""


class SignInError(MlflowExecError):
    """Who gives tokens refused, or answered with what is none; the message names the way on."""


class ArtifactError(MlflowExecError):
    """An artifact store refused something, or could not be asked."""


class ArtifactNotFoundError(ArtifactError):
    """The artifact store was asked and has no such file."""


class ScanError(MlflowExecError):
    """Data or model are such that they cannot be scanned; nothing was logged."""


class GateError(MlflowExecError):
    """A model fails the suite that a deployment's gate names; nothing was touched."""


class CancelError(MlflowExecError):
    """Something of a job is still running after its cancellation; the message names it."""


class ClusterError(MlflowExecError):
    """The cluster refused a request, or could not be asked.

    Attributes:
        status: The HTTP status code, or None where there was no answer.
        reason: The machine-readable reason of the answer, such as ``AlreadyExists``.
        retry_after_s: How long the cluster asks to be left alone.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        reason: str = "",
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class UnreachableError(ClusterError):
    """No answer came; trying again later can help."""


class AccessDeniedError(ClusterError):
    """The credentials are not accepted, or do not allow the request."""


class NotFoundError(ClusterError):
    """The object named by the request does not exist."""


class ConflictError(ClusterError):
    """The object exists already, or changed since it was read."""


class RejectedError(ClusterError):
    """The request is invalid; sending it again cannot help."""
