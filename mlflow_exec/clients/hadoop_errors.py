"""What Hadoop's daemons answer over HTTP when they refuse, as errors of this package.

https://hadoop.apache.org/docs/stable/hadoop-project-dist/hadoop-hdfs/WebHDFS.html#Error_Responses
for WebHDFS; YARN's REST interfaces answer in the same form.
"""

from __future__ import annotations

import html
import re

import requests

from mlflow_exec.clients.hadoop_login import SIGN_IN, Login
from mlflow_exec.clients.pauses import retry_after_s
from mlflow_exec.clients.tls import tls_refusal
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)

STANDBY = "StandbyException"
"""The reason of an `UnreachableError` where this daemon of several is not the active one."""

# A NameNode answers 403 to nearly all that goes wrong; the exception says what it was.
_BY_EXCEPTION: dict[str, type[ClusterError]] = {
    "AccessControlException": AccessDeniedError,
    "AuthorizationException": AccessDeniedError,
    "AuthenticationException": AccessDeniedError,
    "ForbiddenException": AccessDeniedError,
    "SecurityException": AccessDeniedError,
    "InvalidToken": AccessDeniedError,
    STANDBY: UnreachableError,
    "RetriableException": UnreachableError,
    "SafeModeException": UnreachableError,
    "NSQuotaExceededException": RejectedError,
    "DSQuotaExceededException": RejectedError,
    "QuotaByStorageTypeExceededException": RejectedError,
    "QuotaExceededException": RejectedError,
    "FileAlreadyExistsException": ConflictError,
    "FileNotFoundException": NotFoundError,
    "ApplicationNotFoundException": NotFoundError,
    "NotFoundException": NotFoundError,
}
# RMWebAppFilter.java
_STANDBY_TEXTS = (
    "This is standby RM",
    "Can not find any active RM",
    "There is no active RM right now",
)
_CLASS_NAME = re.compile(r"\b(?:[a-z_][\w$]*\.){2,}[A-Z][\w$]*(?:: *)")
# A NodeManager answers with 500 or 503 where one may not read a log.
_NOT_AUTHORIZED = re.compile(r"\bis not authorized to\b|\bUnauthorized attempt\b")
# BlockManager.java, DataStreamer.java, NamenodeWebHdfsMethods.java
_NO_ROOM = re.compile(
    r"\bcould only be written to \d+ of the\b"
    r"|^All datanodes .* are bad\b|^Failed to find datanode\b"
)
_TOKEN = re.compile(r"(?i)\b(delegation|token|signature)=[^&\s\"'<>]+")
_TAG = re.compile(r"<[^>]*>")
# Jetty's error page and Hadoop's own; the reason stands in a cell of its table.
_PAGE_MESSAGE = re.compile(r"<th>MESSAGE:</th>\s*<td>(.*?)</td>", re.DOTALL | re.IGNORECASE)
_PAGE_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL | re.IGNORECASE)
_LONGEST = 1000


def first_line(text: str) -> str:
    """Return what an exception's text says, without class names, stack and tokens."""
    for line in text.splitlines():
        said = _CLASS_NAME.sub("", line.strip()).strip()
        if said:
            return without_tokens(said)[:_LONGEST]
    return ""


def without_tokens(text: str) -> str:
    """Return a text with URLs in it without the delegation tokens in those."""
    return _TOKEN.sub(r"\1=***", text)


def date_of(response: requests.Response) -> str | None:
    """Return an answer's ``Date``, which Hadoop's daemons send twice."""
    date = response.headers.get("Date")
    return date and ",".join(date.split(",")[:2])


def standby_text(response: requests.Response) -> str:
    """Return what a ResourceManager says that is not the active one; empty from any other."""
    # A body of 200 may be a file that is streamed; only an older standby's has this header.
    if response.status_code not in (307, 503) and "Refresh" not in response.headers:
        return ""
    line = first_line(response.text)
    return line if line.startswith(_STANDBY_TEXTS) else ""


def refused(where: str, response: requests.Response, login: Login) -> ClusterError:
    """Return the error for an answer of 400 or more.

    Args:
        where: The daemon, for the message.
        response: Its answer.
        login: Who asked, for the way on.
    """
    status = response.status_code
    exception, message = _told(response)
    kind = _BY_EXCEPTION.get(exception)
    if kind is None or status == 401:
        kind = _by_status(status, exception)
    if _NOT_AUTHORIZED.search(message):
        kind = AccessDeniedError
    text = f"{where}: {status}: {message or response.reason or exception}"
    if _NO_ROOM.search(message):
        text = f"{text.rstrip('.')}; no DataNode keeps it: they have no room left, or are away"
    if status == 401:
        text += f"; {_way_in(login)}"
    elif kind is AccessDeniedError:
        for_whom = f" for {login.proxy_user!r}" if login.proxy_user else ""
        text += (
            f"; asked as {login.user!r}{for_whom}: ask the cluster's administrator for the right"
        )
    asked_s = retry_after_s(response.headers.get("Retry-After"), date_of(response))
    return kind(text, status=status, reason=exception, retry_after_s=asked_s)


def _by_status(status: int, exception: str) -> type[ClusterError]:
    if status == 401 or (status == 403 and not exception):
        return AccessDeniedError
    if status == 404:
        return NotFoundError
    if status == 409:
        return ConflictError
    if status in (408, 429) or status >= 500:
        return UnreachableError
    return RejectedError


def _way_in(login: Login) -> str:
    if login.kerberos:
        return f"the Kerberos ticket was not accepted: {SIGN_IN}"
    return (
        f"the user {login.user!r} was not believed without a password; where the cluster signs in "
        f"by Kerberos, hadoop.security.authentication says so in its core-site.xml"
    )


def _told(response: requests.Response) -> tuple[str, str]:
    """Return the simple name of the exception in an answer, and what it says."""
    try:
        answer = response.json()
        told = answer.get("RemoteException", answer)
        exception = str(told.get("exception", ""))
        return exception.rpartition(".")[2], first_line(str(told.get("message", "")))
    except (ValueError, AttributeError):
        pass
    text = response.text
    for page in (_PAGE_MESSAGE, _PAGE_TITLE):
        if match := page.search(text):
            return "", first_line(html.unescape(_TAG.sub(" ", match.group(1))))
    return "", first_line(html.unescape(_TAG.sub(" ", text)))


def unanswered(where: str, error: Exception) -> ClusterError:
    """Return the error for a request that got no answer.

    Args:
        where: The daemon, for the message.
        error: What requests raised.
    """
    refusal = tls_refusal(
        where,
        error,
        way_to_trust="set REQUESTS_CA_BUNDLE to a file with its authority",
        way_to_plain="yarn.http.policy and dfs.http.policy say whether the daemons speak HTTPS",
    )
    if refusal is not None:
        return refusal
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return RejectedError(f"{where}: {without_tokens(str(error))}; correct the configuration")
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return RejectedError(f"{where}: {error}")  # such as a bundle of authorities that is missing
    return UnreachableError(f"{where}: no answer: {_connection_reason(error)}")


def _connection_reason(error: Exception) -> str:
    """Return the innermost sentence about a connection: without URLs, which may hold tokens."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "it took too long"
    innermost: BaseException = error
    while (below := innermost.__cause__ or innermost.__context__) is not None:
        innermost = below
    return without_tokens(str(innermost)) or type(innermost).__name__
