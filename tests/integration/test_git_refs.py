"""The refs of a repository, asked without a process: how often, with what, and when git itself is asked."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from demo.git_server import GitServer
from demo.repositories import publish_folder
from replay_build_service import git, git_http
from replay_build_service.errors import OriginRefused, RefNotFound, Refused, RepositoryNotFound, SourceFault
from replay_build_service.git import GitHttp, list_refs
from replay_build_service.links import RepoSpec
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.providers.git import GitProvider
from replay_build_service.rate_limits import RateLimits

pytestmark = pytest.mark.hub_independent

SHA = "c0ffee" * 6 + "c0ff"
PULLS = 100


def run_git(folder: Path, *command: str, text: str | None = None) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *command], cwd=folder, env=environment, input=text, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def exempting(*origins: str) -> OutgoingRules:
    return OutgoingRules(exempt_origins=frozenset(origins))


def spec(url: str, ref: str) -> RepoSpec:
    return RepoSpec.parse(f"git/{quote(url, safe='')}/{ref}")


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "FIRST_WAIT", 0.01)


# ---- of a repository with more refs than are read


@dataclass(frozen=True)
class Crowded:
    """A repository with many pull requests: ``main`` and these lead to two commits."""

    root: Path
    main: str
    pull: str


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Crowded:
    root, files = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("files")
    (files / "file.txt").write_text("of a pull request\n")
    pull = publish_folder(files, root / "crowded.git", message="one")
    (files / "file.txt").write_text("main\n")
    main = publish_folder(files, root / "crowded.git", message="two")
    refs = "".join(f"create refs/pull/{number}/head {pull}\n" for number in range(PULLS))
    run_git(root / "crowded.git", "update-ref", "--stdin", text=refs)
    return Crowded(root, main, pull)


@pytest.fixture
def few_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "MAX_LISTING", 2_000)


FIRST, SECOND = "GET /crowded.git/info/refs?service=git-upload-pack", "POST /crowded.git/git-upload-pack"


async def test_of_a_repository_with_too_many_refs_branches_and_tags_are_read(
    crowded: Crowded, few_are_read: None
) -> None:
    with GitServer(crowded.root) as server:
        url, rules = f"{server.url}/crowded.git", exempting(server.url)
        async with GitHttp(rules) as http:
            refs = await list_refs(url, rules, http=http)
            assert (dict(refs.refs), refs.default_branch) == (
                {"HEAD": crowded.main, "refs/heads/main": crowded.main},
                "refs/heads/main",
            )
            assert not refs.is_whole
            assert server.requests == [FIRST, FIRST, SECOND]
            server.requests.clear()
            assert await list_refs(url, rules, http=http) == refs
            assert server.requests == [SECOND], "what kind of server it is was remembered"
            moved = crowded.root / "crowded.git"
            moved.rename(crowded.root / "elsewhere.git")
            with pytest.raises(RepositoryNotFound):
                await list_refs(url, rules, http=http)
            (crowded.root / "elsewhere.git").rename(moved)
            assert await list_refs(url, rules, http=http) == refs


async def test_a_pull_request_of_such_a_repository_is_asked_for_by_itself(crowded: Crowded, few_are_read: None) -> None:
    with GitServer(crowded.root) as server:
        url, rules = f"{server.url}/crowded.git", exempting(server.url)
        async with asyncio.TaskGroup() as tasks, GitHttp(rules) as http:
            provider = GitProvider(rules, tasks, http=http)
            assert (await provider.resolve(spec(url, "main"))).version == crowded.main
            server.requests.clear()
            assert (await provider.resolve(spec(url, "pull/7/head"))).version == crowded.pull
            assert (await provider.resolve(spec(url, "refs/pull/7/head"))).version == crowded.pull
            assert server.requests == [SECOND]
            for _ in range(2):
                with pytest.raises(RefNotFound, match="pull/70/merge"):
                    await provider.resolve(spec(url, "pull/70/merge"))
            assert server.requests == [SECOND, SECOND]


async def test_where_some_refs_alone_cannot_be_asked_for_too_many_are_refused(
    crowded: Crowded, few_are_read: None
) -> None:
    with GitServer(crowded.root, hands_out_any_commit=False) as old, pytest.raises(Refused, match="full commit SHA"):
        await list_refs(f"{old.url}/crowded.git", exempting(old.url))


# ---- git itself is asked


@pytest.fixture
def plain_files(crowded: Crowded) -> Iterator[str]:
    """The address of a server of files, as any web server is."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    run_git(crowded.root / "crowded.git", "update-server-info")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(crowded.root))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


async def test_a_server_of_plain_files_is_asked_by_git_with_no_configuration_but_ours(
    plain_files: str, crowded: Crowded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_git(tmp_path, "init", "--quiet")
    run_git(tmp_path, "config", "url.http://127.0.0.1:1/.insteadOf", f"{plain_files}/")
    monkeypatch.chdir(tmp_path)
    refs = await list_refs(f"{plain_files}/crowded.git", exempting(plain_files))
    assert (refs.target("refs/heads/main"), refs.target("refs/pull/7/head")) == (crowded.main, crowded.pull)


# ---- a server that says what it is told to


def listing(*, sha: str = SHA) -> bytes:
    lines = [f"{sha} HEAD\0symref=HEAD:refs/heads/main\n", f"{sha} refs/heads/main\n"]
    return (
        b"001e# service=git-upload-pack\n0000"
        + "".join(f"{len(line) + 4:04x}{line}" for line in lines).encode()
        + b"0000"
    )


@dataclass
class Told:
    """A server that gives one answer to all, and notes what it was sent, and over how many connections."""

    url: str = ""
    status: str = "200 OK"
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = field(default_factory=listing)
    requests: list[str] = field(default_factory=list[str])
    connections: list[tuple[asyncio.StreamWriter, asyncio.Task[None]]] = field(
        default_factory=list[tuple[asyncio.StreamWriter, "asyncio.Task[None]"]]
    )

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections.append((writer, task))
        try:
            while True:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                kind = {"Content-Type": "application/x-git-upload-pack-advertisement"}
                headers = kind | self.headers | {"Content-Length": str(len(self.body))}
                head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                writer.write(f"HTTP/1.1 {self.status}\r\n{head}\r\n".encode() + self.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left, or this server ends
        writer.close()


@asynccontextmanager
async def telling() -> AsyncGenerator[Told]:
    told = Told()
    server = await asyncio.start_server(told.answer, "127.0.0.1", 0)
    told.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield told
        for writer, task in told.connections:
            writer.close()
            await task


async def test_refs_are_asked_for_without_a_process_over_one_connection_and_without_cookies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(git, "run_remote", None)
    async with telling() as told:
        rules = exempting(told.url)
        told.headers = {"Set-Cookie": "who=you; Path=/"}
        async with asyncio.TaskGroup() as tasks, GitHttp(rules) as http:
            provider = GitProvider(rules, tasks, http=http)
            for name in ("one", "two"):
                assert (await provider.resolve(spec(f"{told.url}/o/{name}", "main"))).version == SHA
        assert (len(told.requests), len(told.connections)) == (2, 1)
        for request in told.requests:
            names = {line.partition(":")[0].lower() for line in request.splitlines()[1:]}
            assert names <= {"", "host", "user-agent", "accept", "accept-encoding", "pragma"}
            assert "\r\nUser-Agent: git/" in request, "forges tell git from browsers by it"


@pytest.mark.parametrize(
    ("status", "headers", "requests"),
    [
        ("429 Too Many Requests", {"Retry-After": "600"}, 1),
        ("403 Forbidden", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "600"}, 1),
        ("200 OK", {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "600"}, 1),
    ],
)
async def test_a_host_that_takes_no_more_questions_is_not_asked(
    status: str, headers: dict[str, str], requests: int
) -> None:
    async with telling() as told:
        rules, limits = exempting(told.url), RateLimits()
        told.status, told.headers = status, headers
        async with asyncio.TaskGroup() as tasks, GitHttp(rules, limits=limits) as http:
            provider = GitProvider(rules, tasks, http=http)
            first = spec(f"{told.url}/o/first", "main")
            if status.startswith("200"):
                assert (await provider.resolve(first)).version == SHA
            else:
                with pytest.raises(SourceFault, match="Try again in 10 minutes"):
                    await provider.resolve(first)
            for ref in ("main", "1" * 40):
                with pytest.raises(SourceFault, match="takes no more questions"):
                    await provider.resolve(spec(f"{told.url}/o/second", ref))
        assert len(told.requests) == requests
        assert limits.remaining == ({"127.0.0.1": 0} if "X-RateLimit-Remaining" in headers else {})


async def test_what_comes_packed_is_unpacked_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    async with telling() as told:
        rules = exempting(told.url)
        told.headers, told.body = {"Content-Encoding": "gzip"}, gzip.compress(listing())
        assert (await list_refs(f"{told.url}/o/r", rules)).target("HEAD") == SHA
        told.body = gzip.compress(bytes(git.MAX_LISTING + 1))
        told.requests.clear()
        with pytest.raises(Refused, match="more than 16 MB"):
            await list_refs(f"{told.url}/o/r", rules)
        assert len(told.requests) == 2, "once for all refs, once for what it can do"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"zzzz"),
        ({}, listing()[:-1]),
        ({}, listing(sha="nonsense")),
        ({"Content-Type": "application/json"}, b"{}"),
        ({"Content-Encoding": "br"}, listing()),
    ],
    ids=["no lines", "cut off", "no object ids", "another kind", "packed otherwise"],
)
async def test_what_is_not_understood_is_asked_for_by_git_and_is_a_fault_or_no_repository(
    headers: dict[str, str], body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    run_remote = git.run_remote

    async def by_git(command: tuple[str, ...], address: str, rules: OutgoingRules, *, max_output: int) -> str:
        asked.append(address)
        return await run_remote(command, address, rules, max_output=max_output)

    monkeypatch.setattr(git, "run_remote", by_git)
    async with telling() as told:
        told.headers, told.body = headers, body
        with pytest.raises((SourceFault, RepositoryNotFound)):
            await list_refs(f"{told.url}/o/r", exempting(told.url))
        assert set(asked) == {f"{told.url}/o/r"}


@pytest.mark.parametrize("location", ["http://999.1.1.1/r/info/refs?service=git-upload-pack", "http://[", ""])
async def test_a_redirect_to_what_is_no_address_is_told(location: str) -> None:
    async with telling() as told:
        told.status, told.headers = "302 Found", {"Location": location} if location else {}
        with pytest.raises((SourceFault, OriginRefused), match="redirects"):
            await list_refs(f"{told.url}/o/r", exempting(told.url))


async def test_hosts_of_archives_are_not_asked_for_refs() -> None:
    rules = OutgoingRules(frozenset({"github.com"}), archive_hosts=frozenset({"zenodo.org"}))
    async with GitHttp(rules) as http:
        with pytest.raises(OriginRefused, match=r"zenodo\.org is not among the hosts"):
            await list_refs("https://zenodo.org/o/r", rules, http=http)
        with pytest.raises(OriginRefused, match=r"zenodo\.org is not among the hosts"):
            await http.refs("https://zenodo.org/o/r", git_http.BRANCHES_AND_TAGS, git.MAX_LISTING)
