"""From a launch to a server, over the API: the reference configuration on a real hub."""

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.people import ADA
from tests.site import ApiClient, Repo, Site

pytestmark = pytest.mark.needs("proxy", "git-server")


@pytest.fixture(scope="module")
def repo(site: Site) -> Repo:
    return site.repository("plain", {"requirements.txt": "six==1.17.0\n", "hello.txt": "from the repository\n"})


@pytest.fixture
def ada(site: Site) -> Iterator[ApiClient]:
    client = site.client(ADA)
    yield client
    site.stop_server(ADA)


def test_a_launch_becomes_a_server_of_that_commit(site: Site, ada: ApiClient, repo: Repo) -> None:
    launch = ada.launch_and_wait(repo)
    assert (launch["state"], launch["version"]) == ("running", repo.commit)
    server = site.server(ADA)
    assert server is not None
    assert server["user_options"] == {"launch": launch["id"]}
    status = httpx.get(
        f"{site.url}{server['url']}api/contents/hello.txt", headers={"Authorization": f"token {ada.token}"}
    )
    assert status.json()["content"] == "from the repository\n"


def test_a_launch_is_made_looked_at_and_given_up(site: Site, ada: ApiClient, repo: Repo) -> None:
    """The API's table in docs/links.md."""
    other = site.repository("another", {"README.md": "another repository\n"})
    running = ada.launch_and_wait(repo, vo="vo.notebooks.egi.eu", urlpath="lab/tree/hello.txt", version=repo.commit)
    assert running["urlpath"] == "lab/tree/hello.txt"

    made = ada.launch(other)
    assert (made.status_code, made.json()["state"]) == (201, "choosing"), "another server runs"
    waiting = ada.get(made.json()["id"])
    assert waiting == made.json()
    assert ada.http.get(f"{site.url}{waiting['url']}").status_code == 200, "its page has the choice"

    assert ada.http.delete(f"api/launches/{waiting['id']}").status_code == 204
    assert ada.get(waiting["id"])["state"] == "ended"
    assert ada.get(running["id"])["state"] == "running", "the one that runs is not concerned"

    assert ada.http.delete(f"api/launches/{running['id']}").status_code == 204
    assert site.server(ADA) is None
    assert ada.get(running["id"])["state"] == "ended"
    assert ada.http.delete(f"api/launches/{running['id']}").status_code == 204, "once more changes nothing"
    assert ada.http.get(f"api/launches/{'0' * 32}").json()["error"] == "not_found"


def test_a_builds_events_can_be_followed_and_resumed(site: Site, ada: ApiClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gated = site.repository(
        "gated",
        {"postBuild": f"#!/bin/sh\necho at the gate\nwhile [ ! -e '{gate}' ]; do sleep 0.1; done\necho through\n"},
        executable=("postBuild",),
    )
    launch = ada.launch(gated).json()["id"]
    with closing(ada.events(launch)) as events:
        next(event_id for event_id, _ in events if event_id.startswith("b"))
    build = ada.get(launch)["build"]

    with closing(build_events(ada, build)) as events:
        seen = list(islice(events, 3))
    gate.touch()
    seen += build_events(ada, build, after=seen[-1][0])

    assert [event_id for event_id, _ in seen] == [f"b{number}" for number in range(1, len(seen) + 1)]
    messages = [data["message"] for _, data in seen]
    assert [sum(said in message for message in messages) for said in ("at the gate", "through")] == [1, 1]
    assert seen[-1][1]["phase"] == "built"
    assert list(build_events(ada, build)) == seen, "also once it is over"
    assert list(build_events(ada, build, after=seen[-1][0])) == []
    assert ada.http.get(f"api/builds/{'0' * 16}/events").status_code == 404
    # Nobody else's test should find a server that is just starting.
    *_, (_, last) = ada.events(launch)
    assert last["phase"] == "ready"


def build_events(client: ApiClient, build: str, after: str = "") -> Generator[tuple[str, dict[str, Any]]]:
    """Id and data of each event of a build, until its stream ends."""
    headers = {"Last-Event-ID": after} if after else {}
    with client.http.stream("GET", f"api/builds/{build}/events", headers=headers, timeout=120) as response:
        assert response.status_code == 200, response.read()
        event_id = ""
        for line in response.iter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                yield event_id, json.loads(line[6:])
