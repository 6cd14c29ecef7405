"""Asking one of several daemons, and what their refusals mean."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

import pytest

from mlflow_exec.clients.hadoop_http import HadoopHttp, Login
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from tests.unit.hadoop_daemon import Answer, Asked, Daemon, daemon, remote_exception
from tests.unit.test_hadoop_config import of
from tests.unit.tls_relay import Authority, TlsRelay

ME = Login("me")
STANDBY_RM = Answer(
    307,
    "This is standby RM. The redirect url is: /ws/v1/cluster/apps\n",
    {"Location": "http://127.0.0.1:1/ws/v1/cluster/apps"},
)
NO_ACTIVE_RM = Answer(
    307,
    "Can not find any active RM. Will retry in next 7 seconds.\nHA Zookeeper Connection State: x\n",
    {"Refresh": "7;url=http://127.0.0.1:1/ws?next_refresh_interval=1"},
)
STANDBY_NN = remote_exception(
    403, "StandbyException", "Operation category READ is not supported in state standby."
)
GOOD = Answer(200, {"good": True})


def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def pair() -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons, of which both answer well."""
    with ExitStack() as stack:
        yield stack.enter_context(daemon(GOOD)), stack.enter_context(daemon(GOOD))


def failure_of(answer: Answer, login: Login = ME) -> ClusterError:
    with daemon(answer) as server, pytest.raises(ClusterError) as failure:
        HadoopHttp("YARN", [server.url], login).ask("GET", "/x")
    assert str(failure.value).startswith(f"YARN {server.url}: ")
    return failure.value


# -- which daemon ---------------------------------------------------------------------------


@pytest.mark.parametrize("standby", [STANDBY_RM, NO_ACTIVE_RM, STANDBY_NN])
def test_a_standby_is_passed_over_and_the_active_one_remembered(
    pair: tuple[Daemon, Daemon], standby: Answer
) -> None:
    first, second = pair
    first.answer = lambda _: standby
    http = HadoopHttp("YARN", [first.url, second.url], ME)
    assert http.json("GET", "/x") == {"good": True}
    assert http.json("GET", "/x") == {"good": True}
    assert (len(first.asked), len(second.asked)) == (1, 2)
    assert http.url == second.url

    first.answer, second.answer = (lambda _: GOOD), (lambda _: standby)
    assert http.json("GET", "/x") == {"good": True}
    assert http.url == first.url


@pytest.mark.parametrize("standby", [STANDBY_RM, NO_ACTIVE_RM, STANDBY_NN])
def test_where_all_stand_by_it_is_tried_again_later(standby: Answer) -> None:
    failure = failure_of(standby)
    assert isinstance(failure, UnreachableError)
    assert failure.reason == "StandbyException"


def test_a_daemon_that_is_away_is_passed_over(pair: tuple[Daemon, Daemon]) -> None:
    _, second = pair
    http = HadoopHttp("YARN", [unused_url(), second.url], ME)
    assert http.json("GET", "/x") == {"good": True}
    assert http.url == second.url


def test_a_daemon_that_says_no_is_the_active_one(pair: tuple[Daemon, Daemon]) -> None:
    first, second = pair
    first.answer = lambda _: STANDBY_RM
    second.answer = lambda _: remote_exception(404, "NotFoundException", "no such application")
    http = HadoopHttp("YARN", [first.url, second.url], ME)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            http.ask("GET", "/x")
    assert (len(first.asked), len(second.asked)) == (1, 2)


@pytest.mark.parametrize(
    ("answers", "kind", "said"),
    [
        ([STANDBY_RM, Answer(500, "broken")], UnreachableError, "broken"),
        ([Answer(500, "broken"), STANDBY_RM], UnreachableError, "broken"),
        ([Answer(401, "who?"), STANDBY_RM], AccessDeniedError, "who?"),
        ([STANDBY_RM, Answer(401, "who?")], AccessDeniedError, "who?"),
        ([None, STANDBY_RM], UnreachableError, "standby"),
        ([STANDBY_RM, None], UnreachableError, "standby"),
    ],
)
def test_where_none_is_active_the_most_telling_failure_is_raised(
    pair: tuple[Daemon, Daemon],
    answers: list[Answer | None],
    kind: type[ClusterError],
    said: str,
) -> None:
    urls = []
    for server, answer in zip(pair, answers, strict=True):
        urls.append(server.url if answer else unused_url())
        server.answer = lambda _, answer=answer: answer  # type: ignore[misc]
    with pytest.raises(kind, match=said):
        HadoopHttp("YARN", urls, ME).ask("GET", "/x")


def test_one_known_to_nobody_is_asked_of_the_others(pair: tuple[Daemon, Daemon]) -> None:
    first, second = pair
    first.answer = lambda _: Answer(401, "who?")
    assert HadoopHttp("YARN", [first.url, second.url], ME).json("GET", "/x") == {"good": True}


@pytest.mark.parametrize(
    ("ha_state", "state"),
    [("STANDBY", "STARTED"), ("INITIALIZING", "STARTED"), ("ACTIVE", "INITED")],
)
def test_the_information_of_one_that_is_not_active_is_not_taken(
    pair: tuple[Daemon, Daemon], ha_state: str, state: str
) -> None:
    def info(identity: int, ha_state: str, state: str) -> Answer:
        told = {"id": identity, "haState": ha_state, "state": state}
        return Answer(200, {"clusterInfo": told})

    first, second = pair
    first.answer = lambda _: info(1, ha_state, state)
    second.answer = lambda _: info(2, "ACTIVE", "STARTED")
    config = of(
        **{
            "yarn.resourcemanager.ha.enabled": "true",
            "yarn.resourcemanager.ha.rm-ids": "rm1,rm2",
            "yarn.resourcemanager.webapp.address.rm1": first.url.removeprefix("http://"),
            "yarn.resourcemanager.webapp.address.rm2": second.url.removeprefix("http://"),
        }
    )
    manager = ResourceManager(config, ME)
    assert manager.info()["id"] == 2
    assert manager.url == second.url
    second.answer = first.answer
    with pytest.raises(UnreachableError, match=f"{ha_state}, {state}"):
        manager.info()


# -- who asks -------------------------------------------------------------------------------


def test_it_says_who_asks_and_for_whom(pair: tuple[Daemon, Daemon]) -> None:
    server, _ = pair
    HadoopHttp("YARN", [server.url], ME).ask("GET", "/x", params={"a": "1"})
    HadoopHttp("YARN", [server.url], Login("me", proxy_user="you")).ask("GET", "/x")
    HadoopHttp("YARN", [server.url], Login("me", proxy_user="you")).send("GET", server.url + "/y")
    assert [asked.query for asked in server.asked] == [
        {"user.name": "me", "a": "1"},
        {"user.name": "me", "doAs": "you"},
        {},
    ]


def test_a_proxy_and_a_netrc_are_left_alone(
    pair: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, proxy = pair
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password it")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    HadoopHttp("YARN", [server.url], ME).ask("GET", "/x")
    assert not proxy.asked
    assert "Authorization" not in server.asked[0].headers


def test_a_certificate_is_checked_against_what_the_environment_names(
    pair: tuple[Daemon, Daemon], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, _ = pair
    authority = Authority.make(tmp_path / "ca", "127.0.0.1")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    relay = TlsRelay("127.0.0.1", int(server.url.rpartition(":")[2]), authority)
    try:
        url = f"https://127.0.0.1:{relay.port}"
        with pytest.raises(RejectedError, match=r"not accepted.*REQUESTS_CA_BUNDLE"):
            HadoopHttp("YARN", [url], ME).ask("GET", "/x")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca_cert)
        assert HadoopHttp("YARN", [url], ME).json("GET", "/x") == {"good": True}
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nosuch"))
        with pytest.raises(RejectedError, match="nosuch"):
            HadoopHttp("YARN", [url], ME).ask("GET", "/x")
    finally:
        relay.close()


# -- what a refusal means -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "exception", "kind"),
    [
        (403, "AccessControlException", AccessDeniedError),
        (403, "AuthorizationException", AccessDeniedError),
        (403, "SafeModeException", UnreachableError),
        (403, "RetriableException", UnreachableError),
        (403, "NSQuotaExceededException", RejectedError),
        (403, "DSQuotaExceededException", RejectedError),
        (403, "FileAlreadyExistsException", ConflictError),
        (403, "IOException", RejectedError),
        (404, "FileNotFoundException", NotFoundError),
        (404, "NotFoundException", NotFoundError),
        (400, "BadRequestException", RejectedError),
        (401, "SecurityException", AccessDeniedError),
        (429, "", UnreachableError),
        (500, "RuntimeException", UnreachableError),
        (503, "WebApplicationException", UnreachableError),
    ],
)
def test_the_exception_says_what_a_refusal_means(
    status: int, exception: str, kind: type[ClusterError]
) -> None:
    failure = failure_of(remote_exception(status, exception, "what it was"))
    assert type(failure) is kind
    assert (failure.status, failure.reason) == (status, exception)
    assert f"{status}: what it was" in str(failure)


def test_only_the_first_line_is_told_without_class_names() -> None:
    message = "java.lang.Exception: app with id: x not found\n\tat org.apache.X.y(X.java:1)"
    failure = failure_of(remote_exception(404, "NotFoundException", message))
    assert str(failure).endswith(": 404: app with id: x not found")


def test_a_page_for_people_is_told_in_a_sentence() -> None:
    page = "<title>Error 404</title><tr><th>MESSAGE:</th><td>No &quot;x&quot;</td></tr>"
    assert str(failure_of(Answer(404, page))).endswith(': 404: No "x"')
    assert str(failure_of(Answer(403, "<h1>Forbidden</h1>"))).startswith("YARN http://")
    assert isinstance(failure_of(Answer(403, "<h1>Forbidden</h1>")), AccessDeniedError)


@pytest.mark.parametrize(
    "said",
    [
        "File /x could only be written to 0 of the 1 minReplication nodes.",
        "All datanodes [127.0.0.1:9866] are bad. Aborting...",
        "Failed to find datanode, suggest to check cluster health. excludeDatanodes=null",
    ],
)
def test_where_no_data_node_takes_a_file_two_reasons_are_told(said: str) -> None:
    failure = failure_of(remote_exception(403, "IOException", said))
    assert str(failure).endswith("; no DataNode keeps it: they have no room left, or are away")


def test_who_may_not_read_a_log_is_told_so_whatever_the_status() -> None:
    text = "User [me] is not authorized to view the logs for application x"
    for answer in (remote_exception(503, "WebApplicationException", text), Answer(500, text)):
        assert isinstance(failure_of(answer), AccessDeniedError)


def test_the_way_on_depends_on_how_one_signs_in() -> None:
    assert "hadoop.security.authentication" in str(failure_of(Answer(401, "who?")))
    denied = remote_exception(403, "AuthorizationException", "not allowed to impersonate")
    said = str(failure_of(denied, Login("me", proxy_user="you")))
    assert "asked as 'me' for 'you'" in said


def test_a_token_is_never_shown() -> None:
    secret = "KAAKSm9i_secret"
    url = f"{unused_url()}/webhdfs/v1/x?op=CREATE&delegation={secret}"
    http = HadoopHttp("HDFS", [url], ME)
    with pytest.raises(UnreachableError) as away:
        http.send("PUT", url, data=b"x")
    assert secret not in str(away.value)

    told = f"Failed to open http://x/?op=OPEN&delegation={secret}&token={secret}"
    answer = remote_exception(403, "IOException", told)
    with daemon(answer) as server, pytest.raises(RejectedError) as refused:
        http.send("PUT", f"{server.url}/?delegation={secret}")
    assert secret not in str(refused.value)
    assert "delegation=***&token=***" in str(refused.value)


def test_silence_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="took too long"):
            HadoopHttp("YARN", [url], ME).ask("GET", "/x", timeout_s=0.2)


def test_what_is_no_json_is_something_else() -> None:
    told = pytest.raises(RejectedError, match="check the address")
    with daemon(Answer(200, "<html>")) as server, told:
        HadoopHttp("YARN", [server.url], ME).json("GET", "/x")


@pytest.mark.parametrize("body", ["<html>", {}, [], {"clusterInfo": None}])
def test_what_is_no_resource_manager_is_something_else(body: object) -> None:
    told = pytest.raises(RejectedError, match="something else answers there")
    with daemon(Answer(200, body)) as server, told:
        address = server.url.removeprefix("http://")
        ResourceManager(of(**{"yarn.resourcemanager.webapp.address": address}), ME).info()


# -- the rest -------------------------------------------------------------------------------


def test_a_redirection_is_followed_where_it_is_wanted(pair: tuple[Daemon, Daemon]) -> None:
    first, second = pair
    first.answer = lambda _: Answer(302, {}, {"Location": f"{second.url}/y?a=1"})
    http = HadoopHttp("YARN", [first.url], ME)
    assert http.ask("GET", "/x").status_code == 302
    assert http.ask("GET", "/x", redirects=True).json() == {"good": True}
    assert [(a.path, dict(a.query)) for a in second.asked] == [("/y", {"a": "1"})]

    first.answer = lambda _: Answer(302, {}, {"Location": "/x"})
    with pytest.raises(RejectedError, match="circle"):
        http.ask("GET", "/x", redirects=True)


def test_the_clock_is_the_daemons(pair: tuple[Daemon, Daemon]) -> None:
    server, _ = pair
    date = "Fri, 27 Nov 2020 14:41:31 GMT"

    def twice(_: Asked) -> Answer:  # the server here adds one of its own, as Hadoop's do
        return Answer(200, {}, {"Date": date})

    server.answer = twice
    http = HadoopHttp("YARN", [server.url], ME)
    assert http.clock.now() is None
    http.ask("GET", "/x")
    now = http.clock.now()
    assert now is not None
    assert abs((now - datetime.now(timezone.utc)).total_seconds()) < 60
