"""200 people open one unbuilt link at once: one build, and who sees its first line when.

Tokens are cached beforehand, as the hub's own rate would otherwise be measured. Clients are one process of their own
on the same machine, through the proxy; they give up before the build ends, so that no 200 servers start.
"""

import asyncio
import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.figures import spread
from demo.people import ADA
from tests.site import Repo, Site, Sites

PEOPLE = 200
VO = "vo.notebooks.egi.eu"


@dataclass(frozen=True)
class Seen:
    """What one watcher saw, in seconds of one clock."""

    answered: float
    first_line: float
    launch: str


def make_people(site: Site) -> list[str]:
    """Tokens of people who are in the VO."""
    names = [f"person-{number}" for number in range(PEOPLE)]
    site.client(ADA)  # the first login makes the group
    site.admin("POST", "/users", json={"usernames": names}).raise_for_status()
    site.admin("POST", f"/groups/{VO}/users", json={"users": names}).raise_for_status()
    return [
        site.admin("POST", f"/users/{name}/tokens", json={"scopes": ["inherit"]}).raise_for_status().json()["token"]
        for name in names
    ]


async def watch_all(site: Site, repo: Repo, tokens: list[str], release: Path) -> list[Seen]:
    base = f"{site.url}/services/replay/"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=180)) as http:

        async def warm(token: str) -> None:
            async with http.get(
                f"{base}api/launches/{'0' * 32}", headers={"Authorization": f"token {token}"}
            ) as answer:
                assert answer.status == 404, answer.status

        for start in range(0, PEOPLE, 20):
            await asyncio.gather(*(warm(token) for token in tokens[start : start + 20]))
        watching = asyncio.Semaphore(0)

        async def watch(token: str) -> Seen:
            headers = {"Authorization": f"token {token}"}
            async with http.post(f"{base}api/launches", json={"repo": repo.spec}, headers=headers) as answer:
                assert answer.status == 201, await answer.text()
                launch = (await answer.json())["id"]
            answered = time.perf_counter()
            async with http.get(f"{base}api/launches/{launch}/events", headers=headers) as events:
                watching.release()
                async for line in events.content:
                    if line.startswith(b"data: ") and "the first line" in json.loads(line[6:])["message"]:
                        break
                seen = time.perf_counter()
            async with http.delete(f"{base}api/launches/{launch}", headers=headers) as gone:
                assert gone.status == 204, gone.status
            return Seen(answered, seen, launch)

        async def let_it_print() -> None:
            for _ in range(PEOPLE):
                await watching.acquire()
            await asyncio.to_thread(release.touch)

        _, *seen = await asyncio.gather(let_it_print(), *(watch(token) for token in tokens))
    return seen


def measure(folder: Path, _rounds: int) -> str:
    """The Markdown of this measurement."""
    release = folder / "release"
    with Sites(folder / "sites") as sites:
        site = sites.start()
        tokens = make_people(site)
        repo = site.repository(
            "popular",
            {
                "postBuild": "#!/bin/sh\n"
                f"while [ ! -e {release} ]; do sleep 0.05; done\n"
                "echo the first line\nsleep 600\n"
            },
            executable=("postBuild",),
        )
        began = time.perf_counter()
        seen = asyncio.run(watch_all(site, repo, tokens, release))
        with sqlite3.connect(site.state / "replay.sqlite") as database:
            (builds,) = database.execute("SELECT count(*) FROM builds").fetchone()
    if builds != 1:
        raise AssertionError(f"{builds} builds were made of one image")
    first = min(one.first_line for one in seen)
    behind = [one.first_line - first for one in seen]
    return f"""### {PEOPLE} people who open one unbuilt link at once

{builds} build. Answers to the launch: {spread([one.answered - began for one in seen])}. The first line, behind the first
watcher's: {spread(behind, "ms", 1000, 0)}, the last one **{max(behind):.2f} s** (asked: at most 1 s).
"""
