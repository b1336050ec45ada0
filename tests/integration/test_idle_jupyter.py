"""What the culler's arbiter reads, as a real Jupyter server says it: without a hub, which `test_idle_culler` has."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from replay_spawner.idle.reading import SessionServer, http_client
from replay_spawner.idle.terminals import has_foreground
from tests.login_fixtures import free_ports
from tests.site import until_it_answers
from tests.terminals import interrupted, opened, typed

pytestmark = [pytest.mark.one_hub_version, pytest.mark.needs("linux")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("jupyter")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "jupyter_server", f"--port={port}", "--no-browser", "--allow-root"]
    options = ["--ServerApp.base_url=/user/ada/", "--IdentityProvider.token=narrow", f"--ServerApp.root_dir={folder}"]
    home = {name: str(folder / name) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    home["SHELL"] = "/bin/bash"
    log = folder / "jupyter.log"
    with log.open("wb") as said:
        process = subprocess.Popen([*command, *options], env=os.environ | home, stdout=said, stderr=said)
    try:
        until_it_answers(f"http://127.0.0.1:{port}/user/ada/api", process, log)
        yield f"http://127.0.0.1:{port}/user/ada/"
    finally:
        process.terminate()
        process.wait(30)


async def test_a_program_in_a_terminal_is_told_from_a_shell_at_its_prompt(address: str) -> None:
    async with http_client() as http:
        server, ours = SessionServer(http, address, "narrow"), set[str]()
        assert await has_foreground(server, ours) is False, "there is none but the one opened to look"
        name = httpx.post(f"{address}api/terminals", headers=server.headers, timeout=30).json()["name"]
        terminal = await opened(server.address, server.headers, name)
        await typed(terminal, "echo $((40 + 2))\r", "42")
        assert await has_foreground(server, ours) is False
        # In words that its echo does not have.
        await typed(terminal, "sh -c 'echo $((40 + 3)); exec sleep 1000'\r", "43")
        assert await has_foreground(server, ours) is True
        await interrupted(terminal)
        await typed(terminal, "sleep 1000 & echo $((40 + 5))\r", "45")
        assert await has_foreground(server, ours) is False, "what is in the background has no terminal"
        await typed(terminal, "kill %1; echo $((40 + 6))\r", "46")
        listed = httpx.get(f"{address}api/terminals", headers=server.headers).json()
        assert [one["name"] for one in listed] == [name], "nothing that was opened to look stays"
        assert ours == set()
        terminal.close()
        assert len((await server.read()).terminals) == 1
        assert (await server.read(but_terminals={name})).terminals == ()


async def test_asking_is_no_activity(address: str) -> None:
    async with http_client() as http:
        server = SessionServer(http, address, "narrow")
        httpx.get(f"{address}api/kernels", headers=server.headers)
        before = httpx.get(f"{address}api/status?no_track_activity=1", headers=server.headers).json()["last_activity"]
        await server.read()
        after = httpx.get(f"{address}api/status?no_track_activity=1", headers=server.headers).json()["last_activity"]
        assert before == after


async def test_kernels_files_and_sections_are_read_as_jupyter_tells_them(address: str) -> None:
    async with http_client() as http:
        server = SessionServer(http, address, "narrow")
        notebook = {"type": "notebook", "format": "json", "content": {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}}  # fmt: skip
        put = httpx.put(f"{address}api/contents/a%20b.ipynb", headers=server.headers, json=notebook)
        assert put.status_code == 201, put.text
        session = {"path": "a b.ipynb", "type": "notebook", "name": "", "kernel": {"name": "python3"}}
        made = httpx.post(f"{address}api/sessions", headers=server.headers, json=session, timeout=60)
        assert made.status_code == 201, made.text
        person = datetime.now(UTC) - timedelta(minutes=7)
        # As the extension in JupyterLab writes it.
        section = {"person_at": f"{person:%Y-%m-%dT%H:%M:%S}.123Z", "lab": True}
        wrote = httpx.patch(f"{address}api/config/replay_activity", headers=server.headers, json=section)
        assert wrote.status_code == 200
        told = await server.read()
        assert (len(told.kernels), len(told.saved)) == (1, 1)
        assert told.age(told.saved[0]) < timedelta(minutes=1)
        assert told.person is not None
        assert timedelta(minutes=6) < told.age(told.person) < timedelta(minutes=8)
        await server.show(told.at, timedelta(hours=1), "/services/replay/", "a" * 32)
        shown = httpx.get(f"{address}api/config/replay_session", headers=server.headers).json()
        assert shown == {
            "ends_at": told.at.isoformat(),
            "limit": 3600,
            "service": "/services/replay/",
            "launch": "a" * 32,
        }
        gone = httpx.delete(f"{address}api/sessions/{made.json()['id']}", headers=server.headers, timeout=60)
        assert gone.status_code == 204
