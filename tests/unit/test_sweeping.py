"""What is left over, and what is not: by what the hub knows of its servers, in an engine, a cluster and on this machine."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kmock
import psutil
import pytest
from jupyterhub import orm

from replay_spawner import ReplayLocalSpawner
from replay_spawner.docker.leftovers import Containers
from replay_spawner.docker.leftovers import Leftovers as ContainerLeftovers
from replay_spawner.local import _remove
from replay_spawner.local_leftovers import Machine
from replay_spawner.plans import HUB_LABEL, LAUNCH_LABEL
from replay_spawner.sweeping import KEY, Leftover, Sweeper, launches_in_use
from tests.unit.kube_api import NAMESPACE, PODS, Api, api, asked_spawner
from tests.unit.kube_cases import no_cluster, spawned, spawner_of

__all__ = ["api", "no_cluster"]

A, B, C, D, E = (letter * 32 for letter in "abcde")


class Shelf:
    """A place that holds what it is given."""

    def __init__(self, *leftovers: Leftover, stuck: frozenset[str] = frozenset()) -> None:
        self.there = list(leftovers)
        self.stuck = stuck

    async def found(self) -> Sequence[Leftover]:
        return list(self.there)

    async def remove(self, leftover: Leftover) -> None:
        if leftover.name in self.stuck:
            raise OSError("stuck")
        self.there.remove(leftover)


def of(launch: str, *, age: float = 1000) -> Leftover:
    return Leftover(launch, f"thing of {launch[:1]}", age)


async def test_what_no_server_is_and_is_old_enough_goes_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf(of(A), of(B), of(C, age=10), of(D), of(E), stuck=frozenset({"thing of d"}))
    swept = await Sweeper(shelf, lambda: frozenset({A}), period=1, grace=60).sweep()
    assert [one.launch for one in shelf.there] == [A, C, D], "in use, too young, stuck"
    assert swept.failed == ["thing of d"]
    assert f"Removed 2 leftovers of sessions that have no server: thing of b of launch {B}, thing of e" in caplog.text
    assert f"thing of d of launch {D} cannot be removed yet: OSError('stuck')" in caplog.text


async def test_a_launch_that_becomes_a_server_while_others_are_removed_stays() -> None:
    used: set[str] = set()

    class Slow(Shelf):
        async def remove(self, leftover: Leftover) -> None:
            await super().remove(leftover)
            used.add(B)

    shelf = Slow(of(A), of(B))
    await Sweeper(shelf, lambda: frozenset(used), period=1, grace=0).sweep()
    assert [one.launch for one in shelf.there] == [B]


async def test_a_place_that_does_not_answer_is_asked_again() -> None:
    class Broken(Shelf):
        asked = 0

        async def found(self) -> Sequence[Leftover]:
            self.asked += 1
            if self.asked == 1:
                raise ConnectionError("away")
            return await super().found()

    shelf, user = Broken(of(A)), SimpleNamespace(settings={})
    sweeper = Sweeper(shelf, frozenset, period=0, grace=0)
    sweeper.start()
    async with asyncio.timeout(10):
        while shelf.there:  # noqa: ASYNC110 - of what has no event
            await asyncio.sleep(0.01)
    assert shelf.asked >= 2
    assert user.settings == {}


# which launches are servers


@pytest.fixture
def db() -> Any:
    made = orm.new_session_factory("sqlite:///:memory:")()
    yield made
    made.close()


def app_of(db: Any, *spawners: Any) -> Any:
    users = {1: SimpleNamespace(spawners={str(number): one for number, one in enumerate(spawners)})}
    return SimpleNamespace(db=db, users=users)


def spawner(launch: str | None = None, *, active: bool = True, server: object = None, **more: Any) -> Any:
    plan = None if launch is None else SimpleNamespace(launch=launch)
    values: dict[str, Any] = {"_session": None, "user_options": {}} | more
    return SimpleNamespace(plan=plan, active=active, orm_spawner=SimpleNamespace(server=server), **values)


def test_servers_and_what_is_on_its_way_to_or_from_one_are_in_use(db: Any) -> None:
    app = app_of(
        db,
        spawner(A),
        spawner(None, _session=Path("/sessions") / B),
        spawner(None, active=False, server=object(), user_options={"launch": C}),
        spawner(D, active=False, _session=D),
        spawner(),
    )
    assert launches_in_use(app) == {A, B, C}


def test_servers_on_record_are_in_use_before_anybody_has_looked_at_them(db: Any) -> None:
    user = orm.User(name="ada")
    db.add(user)
    records: list[tuple[Any, Any, bool]] = [
        ({"launch": A}, None, True),
        ({}, {"replay_launch": B}, True),
        ({}, {"replay_session": f"/sessions/{C}"}, True),
        ({"launch": D}, {"replay_launch": D}, False),
        ({"launch": ["odd"]}, {"replay_launch": 7}, True),
    ]
    for number, (options, state, runs) in enumerate(records):
        record = orm.Spawner(name=str(number), user=user, user_options=options, state=state)
        if runs:
            record.server = orm.Server()
        db.add(record)
    db.commit()
    assert launches_in_use(app_of(db)) == {A, B, C}


async def test_the_first_spawner_of_a_hub_begins_and_no_other(db: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"app": app_of(db)}

    def made(**more: Any) -> ReplayLocalSpawner:
        user = SimpleNamespace(name="ada", id=1, url="/user/ada/", escaped_name="ada", settings=settings)
        orm_spawner = SimpleNamespace(name="", user_options={}, server=None)
        hub = SimpleNamespace(api_url="http://127.0.0.1:8081/hub/api")
        return ReplayLocalSpawner(
            user=user, orm_spawner=orm_spawner, hub=hub, api_token="", sessions_dir=str(tmp_path), **more
        )

    made(replay_sweep_seconds=0)
    assert KEY not in settings, "switched off"
    first = made()
    sweeper = settings[KEY]
    second = made()
    assert settings[KEY] is sweeper
    assert first.hub_mark == second.hub_mark != made(replay_hub_name="mine").hub_mark == "mine"
    sweeper._task.cancel()


# this machine


def process_of(launch: str, hub: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "REPLAY_LAUNCH": launch, "REPLAY_HUB": hub}
    command = [sys.executable, "-c", "print(flush=True); input()"]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


async def test_folders_of_sessions_and_processes_without_one_are_found_and_removed(tmp_path: Path) -> None:
    (tmp_path / A / "home" / "closed").mkdir(parents=True)
    (tmp_path / A / "home" / "closed").chmod(0)
    (tmp_path / "notes-of-the-admin").mkdir()
    (tmp_path / B).symlink_to("/")
    place = Machine(tmp_path, "mine", _remove)
    in_folder, without, another_hubs = process_of(A, "mine"), process_of(C, "mine"), process_of(D, "another")
    try:
        found = await place.found()
        assert {one.launch: one.name for one in found} == {
            A: f"folder {tmp_path / A}",
            C: f"process {without.pid} ({psutil.Process(without.pid).name()})",
        }
        assert all(0 <= one.age < 60 for one in found)
        for leftover in found:
            await place.remove(leftover)
            assert not psutil.pid_exists(in_folder.pid)
        assert not psutil.pid_exists(without.pid)
        assert await place.found() == []
        assert another_hubs.poll() is None
    finally:
        for process in (in_folder, without, another_hubs):
            process.kill()
            process.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == [B, "notes-of-the-admin"]


# an engine


class Engine:
    """Answers as docker-py does."""

    def __init__(self, containers: list[dict[str, Any]]) -> None:
        self.containers = containers
        self.removed: list[str] = []

    async def __call__(self, method: str, *arguments: Any, **options: Any) -> Any:
        if method == "containers":
            assert options == {"all": True, "filters": {"label": LAUNCH_LABEL}}
            return self.containers
        assert (method, options) == ("remove_container", {"v": True, "force": True})
        if arguments[0] == f"replay-{D}":
            raise TimeoutError
        self.removed.extend(arguments)
        return None


async def test_of_an_engine_this_hubs_containers_are_found_and_nothing_that_only_has_our_labels() -> None:
    def container(launch: str, name: str, hub: str | None = "mine", seconds: float = 1000) -> dict[str, Any]:
        labels = {LAUNCH_LABEL: launch} | ({} if hub is None else {HUB_LABEL: hub})
        return {"Labels": labels, "Names": [name], "Created": time.time() - seconds, "State": "running"}

    engine = Engine(
        [
            container(A, f"/replay-{A}"),
            container(B, "/somebody-elses"),
            container(C, f"/replay-{C}", hub="another"),
            container("false", "/replay-x", hub=None),
            container(D, f"/replay-{D}"),
            container(E, f"/replay-{E}", seconds=5),
        ]
    )
    left = ContainerLeftovers()
    swept = await Sweeper(Containers(engine, left, "mine"), frozenset, period=1, grace=60).sweep()
    assert engine.removed == [f"replay-{A}"]
    assert (swept.removed, swept.failed) == ([f"container replay-{A} of launch {A}"], [f"container replay-{D}"])
    assert left._task is not None, "what the engine did not remove is tried again by itself"
    left._task.cancel()


# a cluster

SECRETS = kmock.resource("", "v1", "secrets")


def thing(name: str, launch: str | None, hub: str, seconds: float = 1000) -> dict[str, Any]:
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))
    labels = {HUB_LABEL: hub} | ({} if launch is None else {LAUNCH_LABEL: launch})
    identity = {"name": name, "namespace": NAMESPACE, "uid": name, "resourceVersion": "1"}
    return {"metadata": {**identity, "labels": labels, "creationTimestamp": made}, "status": {"phase": "Running"}}


async def test_of_a_cluster_this_hubs_pods_and_secrets_are_found_and_removed(no_cluster: None, api: Api) -> None:
    spawner = await asked_spawner(api)
    mark = spawner.hub_mark
    api.resources[SECRETS] = kmock.ResourceInfo(namespaced=True)
    for kind in (PODS, SECRETS):
        for name, launch, hub in (("a", A, mark), ("b", B, mark), ("another-hubs", C, "another"), ("no-session", None, mark)):  # fmt: skip
            api.objects[kind, NAMESPACE, name] = thing(name, launch, hub)
        api.objects[kind, NAMESPACE, "young"] = thing("young", D, mark, seconds=5)
    place = spawner.place_to_sweep()
    swept = await Sweeper(place, lambda: frozenset({B}), period=1, grace=60).sweep()
    assert swept.removed == [f"pod a of launch {A}", f"secret a of launch {A}"]
    gone = {(kind.plural, name) for kind in (PODS, SECRETS) for name in ("a", "b", "another-hubs", "no-session", "young") if api.objects[kind, NAMESPACE, name].deleted}  # fmt: skip
    assert gone == {("pods", "a"), ("secrets", "a")}


async def test_a_sessions_pod_says_whose_it_is(no_cluster: None) -> None:
    spawner = spawner_of()
    pod = await spawned(spawner)
    assert pod["metadata"]["labels"][HUB_LABEL] == spawner.hub_mark
    another = spawner_of(namespace="elsewhere")
    assert another.hub_mark == spawner.hub_mark, "where sessions run is not who the hub is"
    another.replay_hub_name = "mine"
    assert (await spawned(another))["metadata"]["labels"][HUB_LABEL] == "mine"
