"""The router of an endpoint, over HTTP, before real servers of models."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from mlflow_exec.scoring.asgi import Answer, send_answer
from mlflow_exec.scoring.http_variants import HttpVariants
from mlflow_exec.scoring.options import OptionsError
from mlflow_exec.scoring.router import RouterApp, RouterOptions
from mlflow_exec.scoring.router_server import FileRouter
from mlflow_exec.scoring.routes import Routes
from mlflow_exec.scoring.sameness import same_content
from mlflow_exec.scoring.variants import Asked, Reply, UnreachableVariantError
from tests.unit.scoring.asgi import ask_async
from tests.unit.scoring.routed import (
    JSON,
    OPTIONS,
    Constant,
    Stuck,
    about,
    copies_end,
    predict,
    routed,
    run,
    scoring,
)


def test_requests_go_by_weight_and_the_answer_says_to_whom() -> None:
    async def test() -> None:
        routes = Routes(1, {"one": 3, "two": 1, "none": 0})
        async with routed(routes, one=scoring(Constant(1)), two=scoring(Constant(2))) as router:
            replies = [await predict(router) for _ in range(8)]
            told = [reply.headers["x-mlflow-exec-variant"] for reply in replies]
            assert (told.count("one"), told.count("two")) == (6, 2)
            for reply, variant in zip(replies, told, strict=True):
                answer = {"one": 1, "two": 2}[variant]
                assert json.loads(reply.body) == {"predictions": [answer]}
            assert (await about(router))["answers"] == {"one": {"200": 6}, "two": {"200": 2}}

    run(test)


def test_weights_change_between_two_requests() -> None:
    async def test() -> None:
        async with routed(
            Routes(1, {"one": 1}), one=scoring(Constant(1)), two=scoring(Constant(2))
        ) as router:
            assert json.loads((await predict(router)).body)["predictions"] == [1]
            router.set_routes(Routes(2, {"one": 0, "two": 1}))
            assert json.loads((await predict(router)).body)["predictions"] == [2]
            assert (await about(router))["number"] == 2

    run(test)


def test_a_key_stays_with_its_variant() -> None:
    async def test() -> None:
        routes = Routes(1, {"one": 1, "two": 1}, sticky_header="X-User")
        async with routed(routes, one=scoring(Constant(1)), two=scoring(Constant(2))) as router:
            for user in range(10):
                replies = [await predict(router, **{"x-user": str(user)}) for _ in range(3)]
                assert len({reply.body for reply in replies}) == 1
            assert set((await about(router))["answers"]) == {"one", "two"}

    run(test)


def test_an_error_of_a_variant_is_passed_on_as_it_is() -> None:
    async def test() -> None:
        app = scoring(Constant(1))
        async with routed(Routes(1, {"one": 1}), one=app) as router:
            for method, path, body, headers in (
                ("POST", "/invocations", b"{", JSON),
                ("POST", "/invocations", b"a", {"content-type": "text/odd"}),
                ("GET", "/invocations", b"", {}),
                ("GET", "/v2/models/model", b"", {}),
            ):
                ours = await ask_async(router, method, path, body, headers)
                its = await ask_async(app, method, path, body, headers)
                assert (ours.status, ours.body) == (its.status, its.body)
                told = {"x-mlflow-exec-variant": "one"}
                assert ours.headers == {**its.headers, **told}, "nothing twice, nothing inner"

    run(test)


def test_the_path_arrives_as_it_came_and_a_slash_at_its_end_leads_nowhere_else() -> None:
    async def test() -> None:
        seen: list[tuple[str, bytes]] = []

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            seen.append((scope["path"], scope["query_string"]))
            await send_answer(send, Answer(200, b"{}", "application/json"))

        async with routed(Routes(1, {"one": 1}), one=noting) as router:
            for raw in (b"/v2/models/a%3Fb%23c/infer", b"/invocations/"):
                scope: dict[str, Any] = {
                    "type": "http", "method": "POST", "path": unquote(raw.decode()),
                    "raw_path": raw, "query_string": b"q=1", "headers": [], "root_path": "",
                }  # fmt: skip
                sent: list[Any] = []

                async def receive() -> Any:
                    return {"type": "http.request", "body": b""}

                async def send(message: Any, sent: list[Any] = sent) -> None:
                    sent.append(message)

                await router(scope, receive, send)
                assert sent[0]["status"] == 200
            assert seen == [("/v2/models/a?b#c/infer", b"q=1"), ("/invocations", b"q=1")]
            wrong = await ask_async(router, "GET", "@elsewhere/")
            assert (wrong.status, len(seen)) == (400, 2)

    run(test)


def test_only_predictions_take_turns_and_are_copied() -> None:
    async def test() -> None:
        routes = Routes(1, {"one": 1, "two": 1}, {"three": 100})
        apps = {name: scoring(Constant(1)) for name in ("one", "two", "three")}
        async with routed(routes, OPTIONS, **apps) as router:
            for _ in range(4):
                assert (await ask_async(router, "GET", "/v2/health/ready")).status == 200
                assert (await predict(router)).status == 200
            assert (await copies_end(router, "three", 4))["same"] == 4
            told = [reply.headers["x-mlflow-exec-variant"]
                    for reply in [await predict(router) for _ in range(4)]]  # fmt: skip
            assert sorted(told) == ["one", "one", "two", "two"]

    run(test)


def test_an_answer_of_our_own_is_compared_with_nothing() -> None:
    async def test() -> None:
        routes = Routes(1, {"gone": 1}, {"one": 100})
        async with routed(routes, OPTIONS, one=scoring(Constant(1))) as router:
            assert (await predict(router)).status == 503
            assert (await about(router))["shadows"] == {}

    run(test)


class FailsOnce:
    """A way on which the first request is lost."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, asked: Asked, timeout_s: float) -> Reply:
        self.asked += 1
        if self.asked == 1:
            raise UnreachableVariantError("it has just gone")
        return Reply(200, (), b"{}")


def test_a_request_that_is_lost_on_its_way_is_sent_once_more() -> None:
    async def test() -> None:
        way = FailsOnce()
        router = RouterApp(OPTIONS, lambda _: way)
        router.set_routes(Routes(1, {"one": 1}))
        assert ((await predict(router)).status, way.asked) == (200, 2)

    run(test)


def test_a_token_is_asked_for_by_the_variant(tmp_path: Path) -> None:
    async def test() -> None:
        (tmp_path / "token").write_text("right")
        app = scoring(Constant(1), token_file=str(tmp_path / "token"))
        async with routed(Routes(1, {"one": 1}), one=app) as router:
            assert (await predict(router)).status == 401
            assert (await predict(router, authorization="Bearer right")).status == 200

    run(test)


def test_who_does_not_answer_is_named() -> None:
    async def test() -> None:
        async with routed(Routes(1, {"gone": 1})) as router:
            reply = await predict(router)
            assert reply.status == 503
            assert "variant 'gone' does not answer" in json.loads(reply.body)["message"]

    run(test)


def test_a_copy_is_compared_and_its_answer_dropped() -> None:
    async def test() -> None:
        routes = Routes(1, {"one": 1}, {"same": 100, "other": 50, "gone": 100})
        apps = {name: scoring(Constant(n)) for name, n in (("one", 1), ("same", 1 + 1e-9),
                                                           ("other", 1.01))}  # fmt: skip
        async with routed(routes, OPTIONS, **apps) as router:
            for _ in range(4):
                reply = await predict(router)
                assert json.loads(reply.body) == {"predictions": [1]}
            counted = {"same": 0, "different": 0, "failed": 0, "dropped": 0}
            assert await copies_end(router, "same", 4) == {**counted, "same": 4}
            assert await copies_end(router, "other", 2) == {**counted, "different": 2}
            assert await copies_end(router, "gone", 4) == {**counted, "failed": 4}

    run(test)


def test_a_shadow_that_is_stuck_delays_nobody_and_piles_up_only_so_far() -> None:
    async def test() -> None:
        stuck = Stuck(1)
        options = RouterOptions("iris", 1000, 60.0)
        routes = Routes(1, {"one": 1}, {"stuck": 100})
        try:
            async with routed(
                routes, options, one=scoring(Constant(1)), stuck=scoring(stuck)
            ) as router:
                for _ in range(70):
                    assert (await predict(router)).status == 200
                assert (await copies_end(router, "stuck", 6))["dropped"] == 6
                stuck.may_answer.set()
                assert (await copies_end(router, "stuck", 70))["same"] == 64
        finally:
            stuck.may_answer.set()

    run(test)


def test_too_large_a_body_is_refused_before_it_is_passed_on() -> None:
    async def test() -> None:
        async with routed(Routes(1, {"one": 1}), one=scoring(Constant(1))) as router:
            reply = await ask_async(router, "POST", "/invocations", b"x" * 1001, JSON)
            assert reply.status == 413
            assert (await about(router))["answers"] == {}

    run(test)


def test_what_was_counted_is_told_to_prometheus() -> None:
    async def test() -> None:
        async with routed(Routes(1, {"one": 1}), one=scoring(Constant(1))) as router:
            await predict(router)
            text = (await ask_async(router, "GET", "/metrics")).body.decode()
        wanted = 'mlflow_exec_route_answers_total{code="200",endpoint="iris",variant="one"} 1.0'
        assert wanted in text

    run(test)


def test_it_is_ready_with_routes_and_until_it_is_stopped() -> None:
    async def test() -> None:
        router = RouterApp(OPTIONS, HttpVariants("http://127.0.0.1:1"))
        assert (await ask_async(router, "GET", "/ping")).status == 503
        router.set_routes(Routes(1, {"one": 1}))
        assert (await ask_async(router, "GET", "/ping")).status == 200
        router.stop()
        assert (await ask_async(router, "GET", "/ping")).status == 503

    run(test)


def test_it_ends_when_what_is_under_way_is_answered() -> None:
    async def test() -> None:
        stuck = Stuck(1)
        options = RouterOptions("iris", 1000, 60.0)
        async with routed(Routes(1, {"stuck": 1}), options, stuck=scoring(stuck)) as router:
            asking = asyncio.ensure_future(predict(router))
            while not router._in_flight:
                await asyncio.sleep(0.01)
            messages = iter(["lifespan.startup", "lifespan.shutdown"])
            sent: list[str] = []

            async def receive() -> Any:
                return {"type": next(messages)}

            async def send(message: Any) -> None:
                sent.append(message["type"])

            ending = asyncio.ensure_future(router({"type": "lifespan"}, receive, send))
            while router.ready:
                await asyncio.sleep(0.01)
            assert sent == ["lifespan.startup.complete"]
            stuck.may_answer.set()
            assert (await asking).status == 200
            await ending
            assert sent[-1] == "lifespan.shutdown.complete"

    run(test)


def test_routes_of_a_file_are_taken_when_they_change_and_rubbish_is_not(tmp_path: Path) -> None:
    file = tmp_path / "routes.json"
    with pytest.raises(OptionsError, match=r"routes: .*No such file"):
        FileRouter(OPTIONS, "http://{name}", str(file))
    file.write_text(Routes(1, {"one": 1}).to_json())
    router = FileRouter(OPTIONS, "http://{name}", str(file))
    assert asyncio.run(about(router.app))["number"] == 1
    for rubbish in ("{", '{"number": 2, "weights": {"one": "90"}}'):
        file.write_text(rubbish)
        with pytest.raises(ValueError, match=r"Expecting property name|not routes"):
            router.read()
        assert asyncio.run(about(router.app))["number"] == 1
    file.write_text(Routes(2, {"one": 1}).to_json())
    router.read()
    assert asyncio.run(about(router.app))["number"] == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"a", b"a", True),
        (b"a", b"b", False),
        (b'{"p": [1.0, 2]}', b'{"p": [1.0000000001, 2]}', True),
        (b'{"p": [1.0]}', b'{"p": [1.0, 2]}', False),
        (b'{"p": 1}', b'{"q": 1}', False),
        (b"[NaN]", b"[NaN ]", True),
        (b"[true]", b"[1]", False),
        (b"[1e-9]", b"[2e-9]", False),
    ],
)
def test_answers_are_the_same_but_for_the_last_digits(one: bytes, other: bytes, same: bool) -> None:
    assert same_content(one, other) is same
