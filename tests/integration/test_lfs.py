"""Files in Git LFS: which take their pointers' places, and which never do. The server is a stand-in for a forge's own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from demo.git_server import GitServer
from demo.repositories import publish_folder
from replay_build_service.builders.detached import lfs
from replay_build_service.builders.detached.failures import Unbuildable
from replay_build_service.builders.detached.lfs import fill_in_lfs
from replay_build_service.builders.detached.log import LogWriter, parse_records
from replay_build_service.builders.detached.sources import fetch_sources, recipe_parameters
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.sources import downloading

pytestmark = pytest.mark.hub_independent

DATA = b"\x00\x01 many bytes " * 1000
MUCH = 1_000_000


def oid_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pointer_to(content: bytes) -> str:
    """https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md#the-pointer"""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid_of(content)}\nsize {len(content)}\n"


@dataclass
class Forge:
    """Answers as https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md says ("Successful Responses", "Response Errors")."""

    contents: dict[str, bytes] = field(default_factory=dict[str, bytes])
    elsewhere: str = ""
    """Where it says that objects are, if not with itself."""
    answer: tuple[int, bytes] | None = None
    """To a question about objects, whatever was asked."""
    questions: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    fetched: list[str] = field(default_factory=list[str])
    url: str = ""

    def batch(self, asked: dict[str, Any]) -> tuple[int, bytes]:
        self.questions.append(asked)
        if self.answer is not None:
            return self.answer
        objects: list[dict[str, Any]] = []
        for one in asked["objects"]:
            if one["oid"] in self.contents:
                href = f"{self.elsewhere or self.url}/objects/{one['oid']}"
                actions = {"download": {"href": href, "header": {"X-Key": "value"}, "expires_in": 3600}}
                objects.append({**one, "authenticated": True, "actions": actions})
            else:
                objects.append({**one, "error": {"code": 404, "message": "Object does not exist"}})
        return 200, json.dumps({"transfer": "basic", "objects": objects, "hash_algo": "sha256"}).encode()


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    made = Forge({oid_of(DATA): DATA})

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/o/r.git/info/lfs/objects/batch"
            made.headers.append(dict(self.headers))
            self.tell(*made.batch(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def do_GET(self) -> None:
            made.fetched.append(self.path)
            self.tell(200, made.contents[self.path.rpartition("/")[2]])

        def tell(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.git-lfs+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    monkeypatch.setattr(downloading, "ATTEMPTS", 1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / ".git").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (folder / "data" / "large.bin").write_text(pointer_to(DATA))
    (folder / "data" / "large.bin").chmod(0o755)
    (folder / "again.bin").write_text(pointer_to(DATA))
    (folder / "notes.txt").write_text("version https://git-lfs.github.com/spec/v1\n" + "not a pointer. " * 20)
    return folder


async def fill(forge: Forge, checkout: Path, limit: int = MUCH, **more: Any) -> list[str]:
    said: list[str] = []
    rules = OutgoingRules(exempt_origins=frozenset({forge.url}), lfs_limit=limit, **more)
    await fill_in_lfs(f"{forge.url}/o/r", checkout, rules, said.append)
    return said


async def test_files_take_the_places_of_their_pointers(forge: Forge, checkout: Path) -> None:
    said = await fill(forge, checkout)
    assert said == ["Git LFS keeps 2 of the repository's files, 28 kB together. They are fetched, too."]
    assert (checkout / "data" / "large.bin").read_bytes() == (checkout / "again.bin").read_bytes() == DATA
    assert (checkout / "data" / "large.bin").stat().st_mode & 0o777 == 0o755
    assert (checkout / "notes.txt").read_text().startswith("version https://git-lfs")
    assert list((checkout / ".git").iterdir()) == []
    (question,) = forge.questions
    assert question == {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": oid_of(DATA), "size": len(DATA)}],
        "hash_algo": "sha256",
    }
    (headers,) = forge.headers
    assert headers["Accept"] == headers["Content-Type"] == "application/vnd.git-lfs+json"
    assert "Authorization" not in headers


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (0, "They are not fetched: pointers are in their places."),
        (2 * len(DATA) - 1, "so none is: pointers are in their places."),
    ],
    ids=["none are allowed", "more than is allowed"],
)
async def test_beyond_the_limit_pointers_stay_and_nobody_is_asked(
    forge: Forge, checkout: Path, limit: int, says: str
) -> None:
    said = await fill(forge, checkout, limit)
    assert [line.endswith(says) for line in said] == [True]
    assert (checkout / "again.bin").read_text() == pointer_to(DATA)
    assert forge.questions == []


async def test_more_files_than_the_limit_stay_too(
    forge: Forge, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lfs, "MAX_FILES", 1)
    assert "and 1 files are fetched here" in (await fill(forge, checkout))[0]
    assert forge.questions == []


async def test_what_no_attribute_speaks_of_is_no_pointer(forge: Forge, checkout: Path) -> None:
    (checkout / ".gitattributes").write_text("*.bin binary\n")
    assert await fill(forge, checkout) == []
    assert forge.questions == []


async def test_what_a_submodule_keeps_is_not_asked_for_here(forge: Forge, checkout: Path) -> None:
    (checkout / "part" / ".git").mkdir(parents=True)
    (checkout / "part" / "its.bin").write_text(pointer_to(b"its own" * 100))
    assert (await fill(forge, checkout))[0].startswith("Git LFS keeps 2 of")
    assert (checkout / "part" / "its.bin").read_text() == pointer_to(b"its own" * 100)


async def test_a_link_is_not_followed_and_not_replaced(forge: Forge, checkout: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.bin"
    outside.write_text(pointer_to(DATA))
    (checkout / "again.bin").unlink()
    (checkout / "again.bin").symlink_to(outside)
    await fill(forge, checkout)
    assert (checkout / "again.bin").is_symlink()
    assert outside.read_text() == pointer_to(DATA)


async def test_where_the_server_names_a_host_that_may_not_be_asked_pointers_stay(forge: Forge, checkout: Path) -> None:
    forge.elsewhere = "https://storage.example.org"
    said = await fill(forge, checkout)
    assert said[-1].startswith(
        "What is kept in Git LFS is not fetched: pointers are in its places. storage.example.org"
    )
    assert (checkout / "again.bin").read_text() == pointer_to(DATA)


@pytest.mark.parametrize(
    ("content", "answer", "says"),
    [
        (DATA[:-1] + b"x", None, "its checksum is another one"),
        (DATA + b"x", None, "more came than the archive lists"),
        (DATA[:-1], None, "it ended after"),
        (None, None, "does not have “again.bin” to give"),
        (DATA, (403, b"{}"), "status 403"),
        (DATA, (200, b"<html>"), "was not understood"),
        (DATA, (200, b'{"objects": []}'), "to give"),
        (DATA, (200, b" " * 3_000_000), "too much"),
    ],
)
async def test_what_is_not_what_the_commit_says_ends_the_build_and_is_not_left_there(
    forge: Forge, checkout: Path, content: bytes | None, answer: tuple[int, bytes] | None, says: str
) -> None:
    (checkout / "data" / "large.bin").unlink()
    forge.contents = {} if content is None else {oid_of(DATA): content}
    forge.answer = answer
    with pytest.raises(Unbuildable) as caught:
        await fill(forge, checkout)
    assert caught.value.failure.message.startswith("A file that is kept in Git LFS cannot be had. ")
    assert says in caught.value.failure.message
    assert (checkout / "again.bin").read_text() == pointer_to(DATA)


async def test_a_build_says_that_pointers_stay_and_the_limit_makes_another_image(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / ".gitattributes").write_text("*.bin filter=lfs\n")
    (files / "a.bin").write_text(pointer_to(DATA))
    commit = publish_folder(files, tmp_path / "root" / "r.git", message="with LFS")
    with GitServer(tmp_path / "root") as server:
        rules = OutgoingRules(exempt_origins=frozenset({server.url}))
        log = LogWriter(tmp_path / "log")
        await fetch_sources(f"{server.url}/r.git", commit, tmp_path / "checkout", rules.to_json(), MUCH, log)
    records, _ = parse_records((tmp_path / "log").read_bytes())
    assert records[-1].text == (
        "Git LFS keeps 1 of the repository's files, 14 kB together. They are not fetched: pointers are in their places."
    )
    made = [recipe_parameters(OutgoingRules(lfs_limit=limit)) for limit in (0, 1, 2)]
    assert made[0] == {}
    assert len({str(one) for one in made}) == 3
    assert OutgoingRules.from_json(OutgoingRules(lfs_limit=7, submodules=True).to_json()).lfs_limit == 7
