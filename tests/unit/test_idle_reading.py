"""What the culler's arbiter makes of what a session's server says: Jupyter's own words, a stranger's, or nothing."""

import asyncio
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tornado import web

from replay_spawner.idle import reading
from replay_spawner.idle.reading import NoReading, SessionServer, http_client
from replay_spawner.idle.terminals import has_foreground, runs_in
from tests.unit.idle_cases import KERNEL, Jupyter, ago

pytestmark = pytest.mark.one_hub_version


async def read(jupyter: Jupyter, **more: Any) -> reading.Answers:
    async with jupyter.serving(), http_client() as http:
        return await SessionServer(http, jupyter.address, "narrow").read(**more)


async def test_all_that_jupyter_tells_is_read() -> None:
    # Made now: this file may have been read long before it runs.
    kernel = {**KERNEL, "last_activity": ago(30)}
    jupyter = Jupyter(
        {
            "api/kernels": [kernel, {**kernel, "execution_state": "busy"}],
            "api/terminals": [{"name": "1", "last_activity": ago(10)}, {"name": "ours", "last_activity": ago(0)}],
            "api/sessions": [
                {"path": "a b/ü.ipynb", "type": "notebook", "name": "", "kernel": KERNEL},
                {"path": "x", "type": "console", "name": "", "kernel": KERNEL},
            ],
            "api/contents/a b/ü.ipynb": {"type": "notebook", "last_modified": ago(5), "content": None},
            "api/config/replay_activity": {"person_at": ago(2), "lab": True},
            "server-proxy/servers-info": {"server_processes": [{"name": "rstudio"}]},
        }
    )
    told = await read(jupyter, but_terminals={"ours"})
    ages = [round(told.age(at).total_seconds() / 60) for at in (*told.kernels, *told.terminals, *told.saved)]
    assert (told.is_busy, ages, told.has_apps) == (True, [30, 30, 10, 5], True)
    assert told.person is not None
    assert round(told.age(told.person).total_seconds() / 60) == 2
    assert "api/contents/x" not in jupyter.paths()
    assert {headers["Authorization"] for headers in jupyter.headers} == {"token narrow"}


async def test_a_server_of_another_clock_is_understood() -> None:
    async def behind(handler: web.RequestHandler) -> None:
        at = datetime.now(UTC) - timedelta(hours=3)
        handler.set_header("Date", format_datetime(at, usegmt=True))
        handler.finish(json.dumps([{**KERNEL, "last_activity": ago(30, at)}]))

    told = await read(Jupyter({"api/kernels": behind}))
    assert abs(told.age(told.kernels[0]) - timedelta(minutes=30)) < timedelta(seconds=5)


async def test_what_has_not_happened_yet_happens_now() -> None:
    told = await read(Jupyter({"api/kernels": [{**KERNEL, "last_activity": "9999-12-31T23:59:59Z"}]}))
    assert told.age(told.kernels[0]) == timedelta()


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Thu, 01 Jan 9999 00:00:00 GMT", "Thu, 01 Jan 99999999999 00:00:00 GMT"]
)
async def test_a_clock_that_no_clock_shows_is_ours(date: str) -> None:
    async def odd(handler: web.RequestHandler) -> None:
        handler.set_header("Date", date)
        handler.finish(json.dumps([KERNEL]))

    told = await read(Jupyter({"api/kernels": odd}))
    assert abs(told.at - datetime.now(UTC)) < timedelta(seconds=10)


async def endless(handler: web.RequestHandler) -> None:
    for _ in range(40):
        handler.write("[" + " " * 65536)
        await handler.flush()
    handler.finish()


async def silent(handler: web.RequestHandler) -> None:
    await asyncio.sleep(reading.ANSWER_SECONDS * 3)


async def elsewhere(handler: web.RequestHandler) -> None:
    handler.redirect("http://127.0.0.1:1/")


async def refused(handler: web.RequestHandler) -> None:
    handler.send_error(403)


_PACKED = gzip.compress(b"[]" + b" " * 10_000_000)


async def packed(handler: web.RequestHandler) -> None:
    handler.set_header("Content-Encoding", "gzip")
    handler.finish(_PACKED)


async def cut(handler: web.RequestHandler) -> None:
    handler.set_header("Content-Length", "100")
    handler.write("[]")
    await handler.flush()
    handler.request.connection.stream.close()  # type: ignore[union-attr]


HOSTILE = {
    "html": b"<html>RStudio</html>",
    "nothing": b"",
    "another form": {"kernels": []},
    "no time": [{**KERNEL, "last_activity": "soon"}],
    "no zone": [{**KERNEL, "last_activity": "2026-03-01T12:00:00"}],
    "deep": b"[" * 100_000,
    "not text": b"\xff\xfe[]",
    "endless": endless,
    "silent": silent,
    "elsewhere": elsewhere,
    "refused": refused,
    "packed": packed,
    "cut": cut,
}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ANSWER_SECONDS", 0.5)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
async def test_whatever_else_a_server_answers_is_no_answer(answer: Any) -> None:
    with pytest.raises(NoReading):
        await read(Jupyter({"api/kernels": answer}))


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
async def test_what_it_says_wrongly_beside_its_kernels_tells_nothing(answer: Any) -> None:
    others = ["api/terminals", "api/sessions", "api/config/replay_activity", "server-proxy/servers-info"]
    jupyter = Jupyter({"api/kernels": [KERNEL], **dict.fromkeys(others, answer)})
    told = await read(jupyter)
    assert (len(told.kernels), told.terminals, told.saved, told.person, told.has_apps) == (1, (), (), None, False)


async def test_no_more_than_twenty_files_are_looked_at() -> None:
    sessions = [{"path": f"../{number}", "type": "notebook"} for number in range(1000)]
    jupyter = Jupyter({"api/kernels": [], "api/sessions": sessions})
    await read(jupyter)
    assert len([path for path in jupyter.paths() if path not in {"api/kernels", "api/sessions"}]) <= 20 + 3


async def test_a_cookie_of_one_server_reaches_no_other() -> None:
    async def sweet(handler: web.RequestHandler) -> None:
        handler.set_cookie("mark", "1", path="/")
        handler.finish("[]")

    jupyter = Jupyter({"api/kernels": sweet})
    async with jupyter.serving(), http_client() as http:
        for _ in range(2):
            await SessionServer(http, jupyter.address, "narrow").read()
    assert not [headers for headers in jupyter.headers if "Cookie" in headers]


# ---- terminals


TABLE = """7 1
1 (python) S 0 1 1 0 -1 0
7 (sh) S 1 7 7 34816 7 0
20 (bash) S 1 20 20 34817 {foreground} 0
21 (sleep) S 20 21 20 34817 {foreground} 0
30 (bash) S 2 30 30 34818 31 0
31 (of) another) session) S 30 31 30 34818 31 0
broken
"""


@pytest.mark.parametrize(("foreground", "runs"), [(21, True), (20, False), (-1, False)])
def test_a_program_that_has_a_terminal_is_told_from_a_shell_at_its_prompt(foreground: int, runs: bool) -> None:
    assert runs_in(TABLE.format(foreground=foreground)) is runs


def test_a_program_that_has_ended_runs_no_more() -> None:
    assert runs_in(TABLE.format(foreground=21).replace("(sleep) S", "(sleep) Z")) is False


def marked(typed: str, text: str) -> str:
    mark = typed.split("begin ")[1].split(";")[0]
    return f"begin-{mark}\r\n{text}end-{mark}\r\n".replace("\n", "\r\n")


def terminals(printed: Callable[[str], list[str]]) -> Jupyter:
    return Jupyter({"api/terminals": {"name": "9", "last_activity": ago(0)}}, printed=printed)


async def looked(jupyter: Jupyter, ours: set[str]) -> bool:
    async with jupyter.serving(), http_client() as http:
        return await has_foreground(SessionServer(http, jupyter.address, "narrow"), ours)


async def test_the_terminal_that_was_opened_to_look_is_closed() -> None:
    jupyter = terminals(lambda typed: [f"$ {typed}\n", marked(typed, TABLE.format(foreground=21))])
    ours: set[str] = set()
    assert await looked(jupyter, ours) is True
    assert jupyter.paths("DELETE") == ["api/terminals/9"]
    assert ours == set()


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    "printed",
    [
        lambda typed: [],
        lambda typed: ["x" * 500_000] * 5,
        lambda typed: ["a"] * 5000,
        lambda typed: ['{"not": "a list"}'] * 5,
        lambda typed: [marked(typed, "")],
        lambda typed: [marked(typed, "no numbers\n")],
        lambda typed: [marked(typed, "1 2 3\n")],
    ],
    ids=["nothing", "much", "long", "another form", "empty", "no numbers", "three numbers"],
)
async def test_a_terminal_that_prints_something_else_tells_nothing(
    printed: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay_spawner.idle.terminals.TERMINAL_SECONDS", 0.5)
    jupyter = terminals(printed)
    with pytest.raises(NoReading):
        await looked(jupyter, set())
    assert jupyter.paths("DELETE") == ["api/terminals/9"]
