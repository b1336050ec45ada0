"""“Download my work” over HTTP: what the person gets where their session, the hub or their own connection does not do its part."""

import asyncio
import io
import json
import re
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from replay_build_service.domain import LaunchId, LaunchState, Person
from replay_build_service.errors import Conflict, Refused
from replay_build_service.schemas import ReadingModel
from replay_build_service.web import make_application, make_templates, work
from replay_build_service.web.auth import AtOnce, RateLimit
from replay_build_service.web.base import HubHandler
from replay_build_service.work import Entry

pytestmark = pytest.mark.one_hub_version

HOME = "/services/replay/"
ID = "1f" * 16
LISTING = json.dumps(
    {"content": [{"name": "a.txt", "type": "file"}, {"name": "datahub", "type": "directory"}]}
).encode()


def launch(state: LaunchState = LaunchState.RUNNING, *features: str, short: str = "github.com/ada/rain fall") -> Any:
    repository = SimpleNamespace(short=short)
    return SimpleNamespace(
        id=LaunchId(ID), user="ada", state=state, features=features, resolved=SimpleNamespace(repository=repository)
    )


@dataclass
class Room:
    """The service, and a session that sends for each path what a test says."""

    site: Any
    session: dict[str, bytes] = field(default_factory=lambda: {"api/contents": LISTING, "files/a.txt": b"hello"})
    refused: Exception | None = None
    tokens: list[tuple[str, str, str]] = field(default_factory=list)
    port: int = 0
    http: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)
    address: str = ""

    async def read_session(self, user: str, launch_id: LaunchId, token: str) -> ReadingModel:
        self.tokens.append((user, launch_id, token))
        if self.refused:
            raise self.refused
        return ReadingModel(url=f"http://127.0.0.1:{self.port}/user/ada/", token="way-in", seconds=600)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ")[1].partition("?")[0].removeprefix("/user/ada/")
        if (body := self.session.get(path)) is not None:
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async def get(self, **headers: str) -> httpx.Response:
        return await self.http.get(self.address, headers=headers)


@pytest.fixture
async def room(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Room]:
    async def prepare(handler: HubHandler) -> None:
        handler.person = Person("ada")
        handler.current_user = handler._hub_auth_user_cache = None

    async def get(_person: Person, launch_id: LaunchId) -> Any:
        return site.launch

    monkeypatch.setattr(HubHandler, "prepare", prepare)
    site = SimpleNamespace(
        base_url=HOME,
        launch=launch(),
        launches=SimpleNamespace(get=get),
        hub_auth=SimpleNamespace(get_token=lambda handler: "the-persons"),
        work_limit=RateLimit(3, 3600),
        work_at_once=AtOnce(1, "One at a time."),
        templates=make_templates(),
        hub_home_url="/hub/home",
        public_url="https://hub.example.org",
    )
    made = Room(site)
    site.read_session = made.read_session
    session = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.port = session.sockets[0].getsockname()[1]
    server = HTTPServer(make_application(site, b"secret"))  # type: ignore[arg-type]
    socket, port = bind_unused_port()
    server.add_socket(socket)
    made.address = f"http://127.0.0.1:{port}{HOME}launches/{ID}/work"
    async with session, httpx.AsyncClient(trust_env=False) as made.http:
        yield made
    server.stop()
    await server.close_all_connections()


async def test_a_download_is_a_file_and_read_in_the_persons_name(room: Room) -> None:
    answer = await room.get()
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/zip"
    name = re.fullmatch(r'attachment; filename="(rain-fall-\d{8}-\d{6})\.zip"', answer.headers["Content-Disposition"])
    assert name, answer.headers["Content-Disposition"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert zipfile.ZipFile(io.BytesIO(answer.content)).read(f"{name[1]}/a.txt") == b"hello"
    assert room.tokens == [("ada", ID, "the-persons")]


@pytest.mark.parametrize(
    ("hinder", "status", "told"),
    [
        (lambda room: room.session.clear(), 503, "Your session does not answer just now."),
        (
            lambda room: room.session.update({"api/contents": b"<html>"}),
            409,
            "does not show its files in Jupyter’s way",
        ),
        (lambda room: setattr(room, "refused", Refused("Not you.")), 403, "Not you."),
        (lambda room: setattr(room, "refused", Conflict("It has ended.")), 409, "It has ended."),
        (lambda room: setattr(room.site, "launch", launch(LaunchState.ENDED)), 409, "This session does not run"),
        (lambda room: setattr(room.site, "launch", launch(LaunchState.STARTING)), 409, "This session does not run"),
    ],
    ids=["silent", "not Jupyter", "refused", "ended meanwhile", "ended", "starting"],
)
async def test_what_is_in_the_way_is_told_on_a_page(
    room: Room, hinder: Callable[[Room], None], status: int, told: str
) -> None:
    hinder(room)
    answer = await room.get()
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "Content-Disposition" not in answer.headers
    assert told.replace("’", "&#39;") in answer.text


async def test_somebody_elses_page_and_too_many_get_nothing(room: Room) -> None:
    assert (await room.get(**{"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert room.tokens == []
    for site in ("same-origin", "none", "same-site"):
        assert (await room.get(**{"Sec-Fetch-Site": site})).status_code == 200
    often = await room.get()
    assert often.status_code == 429
    assert "Too many requests from you." in often.text
    assert len(room.tokens) == 3


async def test_what_breaks_on_our_side_is_no_whole_file(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_arguments: object, **_more: object) -> AsyncIterator[bytes]:
        yield b"PK"
        raise ZeroDivisionError

    monkeypatch.setattr(work, "pack", broken)
    with pytest.raises(httpx.RemoteProtocolError):
        await room.get()
    assert (await room.get(**{"Sec-Fetch-Site": "cross-site"})).status_code == 403, "and the service goes on"


async def test_who_takes_nothing_any_more_holds_nothing_for_ever(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def endless(*_arguments: object, **_more: object) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1024**2)
        finally:
            ended.set()

    monkeypatch.setattr(work, "pack", endless)
    monkeypatch.setattr(work, "TAKING_SECONDS", 0.2)
    async with room.http.stream("GET", room.address) as answer:
        assert answer.status_code == 200
        await asyncio.wait_for(ended.wait(), 30)
    assert (await room.get(**{"Sec-Fetch-Site": "cross-site"})).status_code == 403
    with room.site.work_at_once.held("ada"):
        pass


@pytest.mark.parametrize(
    ("features", "names", "left_out"),
    [
        ((), {"datahub", "datahub-spaces"}, set()),
        (("token",), {"datahub"}, set()),
        (("datahub",), {"datahub", "a"}, {"datahub"}),
        (("token", "datahub"), {"datahub", "datahub-spaces"}, {"datahub-spaces"}),
        (("datahub",), {"datahub", "datahub-spaces", "datahub-spaces-2", "datahub-spaces-10"}, {"datahub-spaces-10"}),
        (("datahub",), {"datahub-x", "my-datahub"}, set()),
    ],
)
def test_a_repositorys_own_datahub_is_its_own(features: tuple[str, ...], names: set[str], left_out: set[str]) -> None:
    assert work.mounted(features, [Entry(name, True) for name in names]) == left_out


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("github.com/ada/rainfall", "rainfall"),
        ('x/a"; filename="b.exe', "a-filename-b.exe"),
        ("x/ü", "session"),
        ("", "session"),
    ],
)
def test_a_files_name_is_harmless_in_a_header(short: str, name: str) -> None:
    made = work.archive_name(launch(short=short), datetime(2026, 3, 4, 9, 7, 5, tzinfo=UTC))
    assert made == f"{name}-20260304-090705"
