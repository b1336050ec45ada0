"""What a service that dies in the middle of a build leaves to its successor: everything, and nothing twice."""

import itertools
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.people import ADA
from tests.site import DEAD_SERVICES_ARE_STARTED_SOON, ApiClient, Repo, Site, Sites, stopped

pytestmark = [pytest.mark.needs("proxy", "git-server"), pytest.mark.one_hub_version]

SECONDS = 90

Event = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def lasting_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Sites(tmp_path_factory.mktemp("lasting")) as made:
        yield made.start(extra_config=DEAD_SERVICES_ARE_STARTED_SOON)


def gated_by_post_build(site: Site, name: str, gate: Path) -> Repo:
    """A repository whose build prints a line, waits until the gate is there, and prints another."""
    script = (
        f"#!/bin/sh\necho line one of {name}\nwhile [ ! -e {gate} ]; do sleep 0.05; done\necho line two of {name}\n"
    )
    return site.repository(name, {"postBuild": script}, executable=("postBuild",))


def gated_at_once(site: Site, name: str, gate: Path) -> Repo:
    """A repository whose build waits for the gate as its first thing, and then fails."""
    backend = (
        f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.05)\nraise SystemExit(1)\n"
    )
    project = '[build-system]\nrequires = []\nbuild-backend = "gate"\nbackend-path = ["."]\n[project]\nname = "gated"\ndynamic = ["version"]\n'
    return site.repository(name, {"pyproject.toml": project, "gate.py": backend})


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"still not so: {what}"
        time.sleep(0.05)


def has_ended(process: psutil.Process) -> bool:
    """Also where its parent has not taken notice yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def parts(seen: list[Event]) -> dict[str, list[int]]:
    """The sequence numbers of each part of a launch's stream, in the order in which they came."""
    ids = [re.fullmatch(r"([wbl])(\d+)", event_id) for event_id, _ in seen]
    numbers = [(found[1], int(found[2])) for found in ids if found]
    return {part: [number for _, number in group] for part, group in itertools.groupby(numbers, lambda pair: pair[0])}


def assert_whole(seen: list[Event]) -> None:
    """No gap and no repeat: the launch's own events count on where the build's part interrupted them."""
    numbers = parts(seen)
    assert list(numbers) == ["w", "b", "l"]
    assert numbers["b"] == list(range(1, len(numbers["b"]) + 1))
    own = numbers["w"] + numbers["l"]
    assert own == list(range(1, len(own) + 1))


def lines(seen: list[Event]) -> list[str]:
    return [data["message"] for _, data in seen if data["kind"] == "line"]


def follow_to(stream: Iterator[Event], text: str) -> list[Event]:
    seen = []
    for event in stream:
        seen.append(event)
        if text in event[1]["message"]:
            return seen
    raise AssertionError(f"“{text}” never came: {[data['message'] for _, data in seen][-20:]}")


@pytest.fixture
def ada(lasting_site: Site) -> Iterator[ApiClient]:
    yield lasting_site.client(ADA)
    lasting_site.stop_server(ADA)


@pytest.mark.parametrize("ends", ["while-no-service-runs", "under-the-next-service"])
def test_a_build_outlives_its_service_and_ends_once(
    lasting_site: Site, ada: ApiClient, tmp_path: Path, ends: str
) -> None:
    site, gate, name = lasting_site, tmp_path / "gate", f"outlives-{ends}"
    repo = gated_by_post_build(site, name, gate)
    launch = ada.launch(repo).json()["id"]
    stream = ada.events(launch)
    seen = follow_to(stream, f"line one of {name}")
    (runner,) = site.runners()
    service = site.service_process()

    # With the hub held, nobody starts the service again before this test wants it.
    with stopped(site.hub_process()):
        service.kill()
        until(lambda: has_ended(service), "the service is dead")
        # A proxy does not tell its client that the other end is dead, so this watcher just goes.
        stream.close()
        assert not has_ended(runner)
        if ends == "while-no-service-runs":
            gate.touch()
            until(lambda: has_ended(runner), "the build has ended")
    site.until_it_answers(f"{site.url}/services/replay/health")
    gate.touch()

    seen += ada.events(launch, after=seen[-1][0])
    assert_whole(seen)
    assert [line for line in lines(seen) if line.startswith("line ")] == [f"line one of {name}", f"line two of {name}"]
    assert [data["phase"] for _, data in seen].count("built") == 1
    assert seen[-1][1]["phase"] == "ready"
    assert ada.get(launch)["state"] == "running"
    server = site.server(ADA)
    assert server is not None
    assert server["user_options"] == {"launch": launch}
    assert site.rows(f"select status from builds where repository like '%{name}%'") == [("succeeded",)]
    assert site.rows(f"select count(*) from images where name like '%{name}%'") == [(1,)]
    # And whoever comes afterwards reads the same from the start.
    assert [event_id for event_id, _ in ada.events(launch)] == [event_id for event_id, _ in seen]


def test_a_service_that_is_asked_to_end_leaves_its_builds_running(
    lasting_site: Site, ada: ApiClient, tmp_path: Path
) -> None:
    site = lasting_site
    launch = ada.launch(gated_at_once(site, "goes-on", tmp_path / "gate")).json()["id"]
    stream = ada.events(launch)
    follow_to(stream, "Building the environment")
    (runner,) = site.runners()
    service = site.service_process()
    service.send_signal(signal.SIGTERM)
    until(lambda: has_ended(service), "the service has ended")
    # Its watchers were told in good order: the stream ended, and did not just fall silent.
    assert [data["phase"] for _, data in stream] == []
    site.until_it_answers(f"{site.url}/services/replay/health")
    assert site.runners() == [runner]
    assert ada.get(launch)["state"] == "building"
    # Its person can still end it, and then it is really gone.
    assert ada.http.delete(f"api/launches/{launch}").status_code == 204
    until(lambda: not site.runners(), "the build has ended")
    build = ada.get(launch)["build"]
    until(lambda: f"builds/{build}" not in site.left_behind(), "its folder is gone")
    assert site.rows(f"select status from builds where id = '{build}'") == [("cancelled",)]


def test_a_service_that_may_not_leave_builds_ends_them_with_itself(
    new_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = new_site(settings={"KEEP_SERVERS": "0"}, extra_config=DEAD_SERVICES_ARE_STARTED_SOON)
    ada = site.client(ADA)
    launch = ada.launch(gated_at_once(site, "ends", tmp_path / "gate")).json()["id"]
    follow_to(ada.events(launch), "Building the environment")
    service = site.service_process()
    with stopped(site.hub_process()):
        service.send_signal(signal.SIGTERM)
        until(lambda: has_ended(service), "the service has ended")
        assert site.runners() == []
        assert site.left_behind() == set()
        assert site.rows("select status, active from builds") == [("cancelled", None)]
    site.until_it_answers(f"{site.url}/services/replay/health")
    *_, (_, last) = ada.events(launch)
    assert last["phase"] == "failed"
    assert "The build was cancelled" in last["message"]
    assert ada.get(launch)["state"] == "failed"
