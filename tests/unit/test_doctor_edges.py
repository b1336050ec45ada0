"""What the doctor makes of a database, an engine, a public address and a registry that are not as they should be."""

import asyncio
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from replay_build_service.db import UnusableDatabase, inspect_database, upgrade
from replay_build_service.doctor.addresses import check_badge, check_links
from replay_build_service.doctor.engine import check_docker_engine
from replay_build_service.doctor.image_registry import check_registry
from replay_build_service.doctor.verdicts import State
from replay_build_service.registry import RegistryFault
from replay_build_service.registry.exchange import Answer
from replay_build_service.registry.pushes import check_stored, upload_path
from tests.registry_server import Asked, Reply, ScriptedServer
from tests.unit.doctor_cases import deployment, nowhere, told

# ---- the database


async def test_a_database_is_looked_at_and_left_as_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'replay.sqlite'}"
    with pytest.raises(UnusableDatabase, match="There is no database"):
        await inspect_database(url)
    assert not (tmp_path / "replay.sqlite").exists()
    upgrade(url)
    before = _rows(tmp_path)
    assert await inspect_database(url) == "0005"
    assert _rows(tmp_path) == before


def _rows(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "replay.sqlite")) as database:
        return database.execute("SELECT version_num FROM alembic_version").fetchall()


async def test_a_database_that_is_held_for_writing_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay_build_service.db.inspection._LOCKED_SECONDS", 0)
    url = f"sqlite:///{tmp_path / 'replay.sqlite'}"
    upgrade(url)
    with closing(sqlite3.connect(tmp_path / "replay.sqlite")) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(UnusableDatabase, match="database is locked"):
            await inspect_database(url)


@pytest.mark.parametrize("content", [b"no database at all", b""])
async def test_what_is_no_database_of_ours_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "replay.sqlite").write_bytes(content)
    with pytest.raises(UnusableDatabase, match=r"not a database|is at revision none"):
        await inspect_database(f"sqlite:///{tmp_path / 'replay.sqlite'}")


async def test_a_database_whose_driver_is_missing_says_so_without_its_password() -> None:
    with pytest.raises(UnusableDatabase) as raised:
        await inspect_database("postgresql+nodriver://replay:secret-word@127.0.0.1:9/replay")
    assert "secret-word" not in str(raised.value)


# ---- the engine


async def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    absent = await check_docker_engine(deployment(tmp_path, docker_host=f"unix://{tmp_path}/docker.sock"))
    assert "no such file" in absent.message
    assert "systemctl start docker" in absent.remedy
    (tmp_path / "file").touch()
    assert (
        "is no socket"
        in (await check_docker_engine(deployment(tmp_path, docker_host=f"unix://{tmp_path}/file"))).message
    )
    with closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(str(tmp_path / "left.sock"))  # As an engine that was killed leaves it.
        left = await check_docker_engine(deployment(tmp_path, docker_host=f"unix://{tmp_path}/left.sock"))
    wrong = await check_docker_engine(deployment(tmp_path, docker_host="docker.sock"))
    for verdict in (absent, left, wrong):
        assert verdict.state is State.FAILED
        assert verdict.remedy


# ---- addresses


BADGE = Reply(200, {"Content-Type": "image/svg+xml"}, b"<svg><title>launch: Replay</title></svg>")


@pytest.mark.parametrize(
    ("reply", "state"),
    [
        (BADGE, State.OK),
        (Reply(200, {"Content-Type": "text/html"}, b"<html>Replay"), State.FAILED),
        (Reply(404, {"Content-Type": "image/svg+xml"}, b"Replay"), State.FAILED),
    ],
)
async def test_the_badge_is_the_services_own(tmp_path: Path, reply: Reply, state: State) -> None:
    async with ScriptedServer(lambda _: reply) as server:
        verdict = await check_badge(deployment(tmp_path, public_url=server.url))
    assert verdict.state is state


LINK = "/v2/gh/EGI-Federation/binder-example/HEAD"


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ({LINK: Reply(302, {"Location": f"/hub{LINK}"}), f"/hub{LINK}": Reply(200, {}, b"EGI-Federation/binder-example")}, State.OK),
        ({LINK: Reply(302, {"Location": "/hub/login"}), "/hub/login": Reply(200, {}, b"EGI-Federation/binder-example")}, State.FAILED),
        ({LINK: Reply(200, {}, b"Welcome to nginx")}, State.FAILED),
        ({LINK: Reply(404)}, State.FAILED),
        ({LINK: Reply(302, {"Location": f"http://127.0.0.1:9{LINK}"})}, State.FAILED),
    ],
)  # fmt: skip
async def test_links_lead_to_replays_page(tmp_path: Path, answers: dict[str, Reply], state: State) -> None:
    async with ScriptedServer(lambda asked: answers[asked.target]) as server:
        verdict = await check_links(deployment(tmp_path, public_url=server.url))
    assert verdict.state is state, told(verdict)


async def test_silence_is_not_taken_for_a_fault_of_the_public_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replay_build_service.doctor.asking.ANSWER_SECONDS", 0.2)

    async def never(_: Asked) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with ScriptedServer(never) as server:
        verdict = await check_badge(deployment(tmp_path, public_url=server.url))
    assert verdict.state is State.NOT_KNOWN
    assert (await check_badge(deployment(tmp_path, public_url=nowhere()))).state is State.FAILED
    assert (await check_badge(deployment(tmp_path))).state is State.NOT_KNOWN
    for wrong in ("hub.example.org", "http://[", "https://hub.example.org/path"):
        assert (await check_links(deployment(tmp_path, public_url=wrong))).state is State.FAILED


# ---- the registry: what of it needs none


@pytest.mark.parametrize(
    ("settings", "state"),
    [
        ({}, State.NOT_USED),
        ({"builder": "docker"}, State.NOT_USED),
        ({"builder": "kubernetes"}, State.FAILED),
        ({"builder": "docker", "registry": "registry.example.org"}, State.FAILED),
        ({"builder": "docker", "registry": "https://["}, State.FAILED),
        ({"builder": "docker", "registry": "https://127.0.0.1:9/Prefix"}, State.FAILED),
    ],
)
async def test_a_registry_that_is_not_set(tmp_path: Path, settings: dict[str, str], state: State) -> None:
    assert (await check_registry(deployment(tmp_path, **settings))).state is state


async def test_an_account_that_a_program_keeps_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"credsStore": "desktop"}')
    challenge = Reply(401, {"WWW-Authenticate": 'Basic realm="r"'}, b"{}")
    async with ScriptedServer(lambda _: challenge) as server:
        given = {"builder": "docker", "registry": server.url, "docker_config": str(tmp_path)}
        kept = await check_registry(deployment(tmp_path, **given))
        (tmp_path / "config.json").write_text("{}")
        missing = await check_registry(deployment(tmp_path, **given))
    assert (kept.state, "credsStore" in kept.message) == (State.NOT_KNOWN, True)
    assert (missing.state, "no account" in missing.message) == (State.FAILED, True)


DIGEST = "sha256:" + "a" * 64


def answer(status: int, **headers: str) -> Answer:
    return Answer(status, httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), b"")


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/v2/a/blobs/uploads/1", f"/v2/a/blobs/uploads/1?digest={DIGEST}"),
        (
            "http://127.0.0.1:5000/v2/a/blobs/uploads/1?_state=x%3D",
            f"/v2/a/blobs/uploads/1?_state=x%3D&digest={DIGEST}",
        ),
    ],
)
def test_a_blob_goes_where_the_registry_says(location: str, path: str) -> None:
    assert upload_path(answer(202, Location=location), "http://127.0.0.1:5000", DIGEST) == path


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://127.0.0.1/v2/a/blobs/uploads/1", "X-Forwarded-Proto"),
        ("https://127.0.0.1:5000/v2/a/blobs/uploads/1", "sends uploads to https://127.0.0.1:5000"),
        ("//elsewhere/v2/x", "sends uploads to http://elsewhere"),
        ("", "makes no sense"),
        ("http://[", "makes no sense"),
        ("/elsewhere", "makes no sense"),
    ],
)
def test_a_blob_and_the_account_go_nowhere_but_to_the_registry(location: str, words: str) -> None:
    with pytest.raises(RegistryFault, match=words):
        upload_path(answer(202, Location=location), "http://127.0.0.1:5000", DIGEST)


@pytest.mark.parametrize(("status", "words"), [(404, "makes none"), (405, "read only"), (200, "no sense")])
def test_a_push_that_was_not_taken_is_a_fault(status: int, words: str) -> None:
    with pytest.raises(RegistryFault, match=words):
        check_stored(answer(status))
