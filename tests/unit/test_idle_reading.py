"""What the culler's arbiter makes of what a session's server says: Jupyter's own words, a stranger's, or nothing."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from typing import Any

import pytest
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.websocket import WebSocketHandler

from replay_build_service.client import ServiceUnavailable
from replay_build_service.schemas import ActivityAnswer, ActivityReport
from replay_spawner.idle import reading
from replay_spawner.idle.arbiter import Arbiter, HubDoor
from replay_spawner.idle.reading import NoReading, SessionServer, http_client
from replay_spawner.idle.terminals import has_foreground, runs_in

pytestmark = pytest.mark.hub_independent

LAUNCH = "a" * 32


def ago(minutes: float, now: datetime | None = None) -> str:
    return ((now or datetime.now(UTC)) - timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


@dataclass
class Jupyter:
    """Answers by path; a function answers as it likes. Remembers what it was asked."""

    answers: dict[str, Any] = field(default_factory=dict[str, Any])
    asked: list[tuple[str, str, bytes]] = field(default_factory=list[tuple[str, str, bytes]])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    printed: Callable[[str], list[str]] = lambda typed: []
    address: str = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Jupyter"]:
        socket, port = bind_unused_port()
        server = HTTPServer(
            web.Application(
                [
                    (r"/user/ada/terminals/websocket/(.*)", _Terminal, {"jupyter": self}),
                    (r"/user/ada/(.*)", _Answer, {"jupyter": self}),
                ]
            )
        )
        server.add_socket(socket)
        self.address = f"http://127.0.0.1:{port}/user/ada/"
        try:
            yield self
        finally:
            server.stop()
            await server.close_all_connections()

    def paths(self, method: str = "GET") -> list[str]:
        return [path for known, path, _ in self.asked if known == method]


class _Answer(web.RequestHandler):
    def initialize(self, jupyter: Jupyter) -> None:
        self.jupyter = jupyter

    async def prepare(self) -> None:
        method, path = self.request.method or "", self.path_args[0]
        self.jupyter.asked.append((method, path, self.request.body))
        self.jupyter.headers.append(dict(self.request.headers))
        if path not in self.jupyter.answers and method == "GET":
            self.send_error(404)
            return
        answer = self.jupyter.answers.get(path, {})
        if callable(answer):
            await answer(self)
        else:
            self.finish(answer if isinstance(answer, bytes) else json.dumps(answer))


class _Terminal(WebSocketHandler):
    def initialize(self, jupyter: Jupyter) -> None:
        self.jupyter = jupyter

    def on_message(self, message: str | bytes) -> None:
        kind, typed = json.loads(message)
        assert kind == "stdin"
        for part in self.jupyter.printed(typed):
            self.write_message(part if part.startswith("{") else json.dumps(["stdout", part]))


async def read(jupyter: Jupyter, **more: Any) -> reading.Answers:
    async with jupyter.serving(), http_client() as http:
        return await SessionServer(http, jupyter.address, "narrow").read(**more)


KERNEL = {"id": "k", "name": "python3", "execution_state": "idle", "last_activity": ago(30), "connections": 1}


async def test_all_that_jupyter_tells_is_read() -> None:
    jupyter = Jupyter(
        {
            "api/kernels": [KERNEL, {**KERNEL, "execution_state": "busy"}],
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


# ---- the arbiter: a hub that lets it in, a service that may not answer


class Service:
    """The build service, as the arbiter knows it."""

    def __init__(self) -> None:
        self.told: list[ActivityReport] = []
        self.kept_ago: float | None = None
        self.is_away = False

    async def activity(self, report: ActivityReport) -> ActivityAnswer:
        if self.is_away:
            raise ServiceUnavailable("away")
        self.told.append(report)
        return ActivityAnswer(kept_ago=self.kept_ago)


@dataclass
class Door:
    jupyter: Jupyter
    http: Any
    opened: int = 0

    async def open(self, server: str) -> SessionServer:
        self.opened += 1
        return SessionServer(self.http, self.jupyter.address, "narrow")


@cache
def started_ago(minutes: int) -> str:
    """The same each time that the culler asks for it."""
    return ago(minutes)


def model(*, started: object = 300, name: str = "ada", **more: Any) -> dict[str, Any]:
    return {
        "progress_url": f"/hub/api/users/{name}/server/progress",
        "started": started_ago(started) if isinstance(started, int) else started,
        "user_options": {"launch": LAUNCH},
        **more,
    }


@dataclass
class Bench:
    arbiter: Arbiter
    door: Door
    service: Service

    async def ends(self, *, traffic: float = 0, **more: Any) -> bool:
        return await self.arbiter.should_end(
            inactive=timedelta(minutes=traffic), inactive_limit=3600, server=model(**more)
        )


@asynccontextmanager
async def bench(jupyter: Jupyter) -> AsyncIterator[Bench]:
    async with jupyter.serving(), http_client() as http:
        door, service = Door(jupyter, http), Service()
        yield Bench(Arbiter(door, service), door, service)


def idle_for(minutes: float, **more: Any) -> Jupyter:
    return Jupyter({"api/kernels": [{**KERNEL, "last_activity": ago(minutes)}], **more})


async def test_an_idle_kernel_under_an_open_page_ends_after_a_warning() -> None:
    async with bench(idle_for(55)) as one:
        assert not await one.ends()
        (report,) = one.service.told
        assert (report.launch, report.limit, report.warning) == (LAUNCH, 3600, 600)
        assert 3298 <= report.active_ago < 3360
        assert not await one.ends()
        assert len(one.service.told) == 2, "each round says anew how long is left"
    async with bench(idle_for(61)) as one:
        assert await one.ends()


async def test_a_server_that_cannot_end_soon_is_not_asked() -> None:
    async with bench(idle_for(90)) as one:
        assert not await one.ends(started=10)
        assert (one.door.opened, one.service.told) == (0, [])


async def test_what_was_busy_is_not_asked_again_at_once() -> None:
    jupyter = Jupyter({"api/kernels": [{**KERNEL, "execution_state": "busy", "last_activity": ago(200)}]})
    async with bench(jupyter) as one:
        assert not await one.ends(traffic=200)
        assert not await one.ends(traffic=200)
        assert (one.door.opened, one.service.told) == (1, [])


async def test_a_person_who_stays_is_not_ended_and_the_warning_goes() -> None:
    jupyter = idle_for(70, **{"api/config/replay_activity": {"person_at": ago(65), "lab": True}})
    async with bench(jupyter) as one:
        one.service.kept_ago = 30
        assert not await one.ends()
        (shown,) = [json.loads(body) for method, _, body in jupyter.asked if method == "PATCH"]
        assert shown == {"ends_at": None, "limit": 3600, "service": "/services/replay/", "launch": LAUNCH}


async def test_jupyterlab_is_told_when_it_ends() -> None:
    jupyter = idle_for(70, **{"api/config/replay_activity": {"person_at": ago(55), "lab": True}})
    async with bench(jupyter) as one:
        assert not await one.ends()
        (shown,) = [json.loads(body) for method, _, body in jupyter.asked if method == "PATCH"]
        left = datetime.fromisoformat(shown["ends_at"]) - datetime.now(UTC)
        assert timedelta(minutes=4) < left < timedelta(minutes=6)


async def test_jupyterlab_learns_where_replays_home_is_before_any_end_is_near() -> None:
    jupyter = idle_for(5, **{"api/config/replay_activity": {"person_at": ago(5), "lab": True}})
    async with bench(jupyter) as one:
        assert not await one.ends()
        (shown,) = [json.loads(body) for method, _, body in jupyter.asked if method == "PATCH"]
        assert (shown["ends_at"], shown["service"]) == (None, "/services/replay/")
        assert one.service.told == []


async def test_a_home_that_cannot_be_written_changes_nothing() -> None:
    async def read_only(handler: web.RequestHandler) -> None:
        if handler.request.method == "PATCH":
            handler.send_error(500)
        else:
            handler.finish("{}")

    jupyter = idle_for(61, **{"api/config/replay_session": read_only})
    jupyter.answers["api/config/replay_activity"] = {"person_at": ago(61), "lab": True}
    async with bench(jupyter) as one:
        assert await one.ends()


async def test_a_service_that_is_away_changes_nothing() -> None:
    jupyter = idle_for(61)
    async with bench(jupyter) as one:
        one.service.is_away = True
        assert await one.ends()


async def test_a_server_that_talks_nonsense_for_ever_ends_by_its_traffic() -> None:
    async with bench(Jupyter({"api/kernels": b"RStudio"})) as one:
        assert not await one.ends(traffic=10)
        # It was seen used ten minutes before, by whatever clock, so there is nothing to ask for a while.
        assert one.door.opened == 1
    async with bench(Jupyter({"api/kernels": b"RStudio"})) as one:
        assert await one.ends(traffic=61)


async def test_an_ordinary_server_is_told_to_nobody() -> None:
    async with bench(idle_for(61)) as one:
        assert await one.ends(user_options={"profile": "big"})
        assert one.service.told == []


@pytest.mark.parametrize("broken", [{"progress_url": "?"}, {"started": "?"}, {"started": None}])
async def test_what_the_hub_says_wrongly_ends_nothing(broken: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    async with bench(idle_for(90)) as one:
        assert not await one.ends(**broken)
    assert "Could not find out" in caplog.text


async def test_the_cullers_own_token_reaches_the_hub_alone() -> None:
    session, hub = idle_for(61), Jupyter()
    async with session.serving(), hub.serving(), http_client() as http:
        hub.answers["replay/users/ada@x/servers/one/reading"] = {"address": session.address, "token": "narrow"}
        door = HubDoor(hub.address, "mighty", http)
        opened = await door.open("ada%40x/servers/one")
        await opened.read()
        with pytest.raises(NoReading):
            await door.open("ada/server")
    assert {headers["Authorization"] for headers in hub.headers} == {"token mighty"}
    assert {headers["Authorization"] for headers in session.headers} == {"token narrow"}
