"""From links to commits, and from commits to files: what reading costs, what a cached answer costs, what many at once cost, and a large fetch.

The stand-in for the sources is a process of its own, which answers each request after `LATENCY`. Our own part runs as it
does in the service: the providers, their limit of requests at one time, the connections that all of them share.
"""

import asyncio
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from pydantic import BaseModel

from benchmarks.figures import spread
from demo.git_server import GitServer
from replay_build_service.errors import BadLink
from replay_build_service.git import GitHttp, fetch_commit
from replay_build_service.links import MAX_SPEC_LENGTH, RepoSpec
from replay_build_service.outgoing import OutgoingRules
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.flights import MAX_ASKED_AT_ONCE
from replay_build_service.providers.git import GitProvider
from replay_build_service.providers.records import RecordProvider
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import Record, RemoteFile

LATENCY = 0.05
"""Seconds that the stand-in takes for an answer."""
RESOLVES = 1_000
LARGE = 100_000_000
"""Bytes of the file that is fetched; they do not compress."""
_SHA = "c0ffee" * 6 + "c0ff"


# the stand-in


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    lines = [f"{_SHA} HEAD\0symref=HEAD:refs/heads/main agent=git/2\n", f"{_SHA} refs/heads/main\n"]
    refs = "001e# service=git-upload-pack\n0000" + "".join(f"{len(line) + 4:04x}{line}" for line in lines) + "0000"
    record = json.dumps({"version": "1", "files": [{"path": "a.ipynb", "size": 1, "checksum": "md5:" + "0" * 32}]})
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(LATENCY)
            is_git = b"/info/refs" in head.split(b"\r\n", 1)[0]
            kind = "application/x-git-upload-pack-advertisement" if is_git else "application/json"
            body = (refs if is_git else record).encode()
            told = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(told.encode() + body)
            await writer.drain()
    writer.close()


def _serve(ready: Connection) -> None:
    async def serve() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=1000)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


@contextmanager
def stand_in() -> Generator[str]:
    """Its address."""
    context = multiprocessing.get_context("spawn")
    told, ready = context.Pipe()
    process = context.Process(target=_serve, args=(ready,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{told.recv()}"
    finally:
        process.terminate()
        process.join()


class _Answered(BaseModel):
    version: str
    files: list[dict[str, str | int]]


class _Archive:
    """An archive as simple as one can be."""

    name = "zenodo"

    def __init__(self, url: str) -> None:
        self._url = url

    async def find(self, ask: Asker, locator: str, version: str | None) -> Record:
        return await self.listed(ask, f"{self._url}/api/records/{locator}")

    async def listed(self, ask: Asker, api_url: str) -> Record:
        answer = await ask.json(api_url, _Answered, missing="There is no such record.")
        files = [RemoteFile(str(one["path"]), api_url, int(one["size"]), str(one["checksum"])) for one in answer.files]
        return Record(self.name, api_url, answer.version, api_url, api_url, files)


# many at once, and once more


async def _many(url: str, kind: str) -> tuple[float, float]:
    """Seconds for all of them, and for one that is known."""
    rules = OutgoingRules(exempt_origins=frozenset({url}))
    async with asyncio.TaskGroup() as tasks, Asker(rules) as ask, GitHttp(rules, limits=ask.limits) as http:
        if kind == "git":
            provider: RepoProvider = GitProvider(rules, tasks, http=http)
            specs = [RepoSpec("git", f"{url}/o/r{number}.git", "main") for number in range(RESOLVES + 1)]
        else:
            provider = RecordProvider(_Archive(url), ProviderContext(rules, tasks, ask))
            specs = [RepoSpec("zenodo", f"10.5281/zenodo.{number}", "") for number in range(RESOLVES + 1)]
        await provider.resolve(specs.pop())  # what the service does once, such as looking which git there is
        waiting = iter(specs)

        async def visitor() -> None:
            for spec in waiting:
                await provider.resolve(spec)

        began = time.perf_counter()
        await asyncio.gather(*(visitor() for _ in range(MAX_ASKED_AT_ONCE)))
        took = time.perf_counter() - began
        return took, await _mean(lambda: provider.resolve(specs[-1]))


async def _mean(ask: Callable[[], Awaitable[object]], times: int = 2_000) -> float:
    began = time.perf_counter()
    for _ in range(times):
        await ask()
    return (time.perf_counter() - began) / times


# reading links


def _links(length: int) -> dict[str, str]:
    """Links of that length, each hard to read in its own way."""
    return {
        "a long ref": "gh/o/r/".ljust(length, "a"),
        "a ref of many parts": ("gh/o/r/" + "a/" * length)[: length - 1] + "a",
        "percent-encoded": ("git/https%3A%2F%2Fexample.org%2F" + "%61" * length)[: length - length % 3 - 5] + "/HEAD",
        "a DOI": "zenodo/10.5281/".ljust(min(length, 200), "a"),
        "dots": ("gh/o/r/" + "a." * length)[: length - 1] + "b",
        "many pins": "swh/swh:1:rev:".ljust(length, "@"),
        "no provider": "/" * length,
    }


def _reading(link: str) -> float:
    """Microseconds, the least of some tries, since what is above that is other programs."""
    taken: list[float] = []
    for _ in range(15):
        began = time.perf_counter()
        for _ in range(20):
            with suppress(BadLink):
                RepoSpec.parse(link)
        taken.append((time.perf_counter() - began) / 20 * 1e6)
    return min(taken)


def _reading_rows() -> str:
    short, long = _links(MAX_SPEC_LENGTH // 4), _links(MAX_SPEC_LENGTH)
    rows: list[str] = []
    for name, link in long.items():
        little, much = _reading(short[name]), _reading(link)
        growth = (much / little) / (len(link) / len(short[name]))
        rows.append(f"| {name} | {len(link)} | {much:.0f} µs | {growth:.2f} |")
    return "\n".join(rows)


# a large fetch


def _large_repository(root: Path) -> tuple[Path, str]:
    repository = root / "large.git"
    repository.mkdir(parents=True)

    def git(*command: str, text: bytes = b"") -> str:
        person = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org")
        return (
            subprocess.run(["git", *person, *command], cwd=repository, input=text, check=True, capture_output=True)
            .stdout.decode()
            .strip()
        )

    git("init", "--quiet", "--bare", "--initial-branch=main")
    git("config", "core.compression", "0")
    blob = git("hash-object", "-w", "--stdin", text=os.urandom(LARGE))
    tree = git("mktree", text=f"100644 blob {blob}\tlarge.bin\n".encode())
    commit = git("commit-tree", tree, "-m", "large")
    git("update-ref", "refs/heads/main", commit)
    return repository, commit


def _plain_fetch(url: str, commit: str, folder: Path) -> None:
    """What one would type for the same files."""
    folder.mkdir()
    for command in (
        ("init", "--quiet"),
        ("fetch", "--quiet", "--depth=1", url, commit),
        ("checkout", "--quiet", "--detach", commit),
    ):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)


def _fetches(folder: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of ours and of git's own, in turn."""
    ours: list[float] = []
    plain: list[float] = []
    repository, commit = _large_repository(folder / "root")
    with GitServer(folder / "root") as server:
        rules, url = OutgoingRules(exempt_origins=frozenset({server.url})), f"{server.url}/{repository.name}"
        for number in range(rounds):
            began = time.perf_counter()
            asyncio.run(fetch_commit(url, commit, folder / f"ours-{number}", rules))
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            _plain_fetch(url, commit, folder / f"plain-{number}")
            plain.append(time.perf_counter() - began)
            for name in ("ours", "plain"):
                subprocess.run(["rm", "-rf", str(folder / f"{name}-{number}")], check=True)
    return ours, plain


def measure(folder: Path, rounds: int) -> str:
    """The Markdown of this measurement."""
    folder.mkdir(parents=True)
    ideal = RESOLVES / MAX_ASKED_AT_ONCE * LATENCY
    with stand_in() as url:
        of_git, known_git = asyncio.run(_many(url, "git"))
        of_records, known_record = asyncio.run(_many(url, "records"))
    ours, plain = _fetches(folder, max(3, rounds // 4))
    return f"""### Reading links

| a link of | characters | to read it | for a character, against a quarter of the length |
| --- | --- | --- | --- |
{_reading_rows()}

(Asked: linear, which is 1 or less in the last column.)

### {RESOLVES:,} distinct links, {MAX_ASKED_AT_ONCE} at a time, at {LATENCY * 1000:.0f} ms for each answer

The ideal is {ideal:.1f} s. Records: {of_records:.2f} s, **{of_records / ideal:.2f}** of that; git repositories: {of_git:.2f} s,
**{of_git / ideal:.2f}** (asked: at most 1.3). One that is known: {known_record * 1e6:.0f} µs and {known_git * 1e6:.0f} µs.

### A commit of {LARGE // 10**6} MB, {len(ours)} interleaved rounds

| fetched and checked out | |
| --- | --- |
| ours | {spread(ours)} |
| `git fetch --depth=1` and `git checkout` | {spread(plain)} |

Ratio of the medians: **{median(ours) / median(plain):.2f}** (asked: at most 1.1).
"""
