"""The sessions that managers see and stop: those whose launch was for their VO. The store is the real one."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from replay_build_service.db import Store
from replay_build_service.domain import LaunchId, LaunchState, Person, Server, ServerStatus
from replay_build_service.errors import Conflict, NotFound, SourceFault
from replay_build_service.managing.decisions import Decisions
from replay_build_service.managing.sessions import Sessions
from replay_build_service.records import Action
from replay_build_service.wishes import Wish
from tests.unit.core_fakes import FailingStore, ref
from tests.unit.managing_cases import ONE, TWO, Vo, a_vo, audit, decisions_over

pytestmark = pytest.mark.hub_independent


@pytest.fixture
def deciding(store: Store) -> Decisions:
    return decisions_over(store)


@pytest.fixture
async def vo(store: Store) -> AsyncIterator[Vo]:
    async with a_vo(store) as made:
        yield made


async def test_a_manager_sees_what_runs_for_their_vo_and_nothing_else(vo: Vo) -> None:
    mine, other = await vo.running("ada", "vo.one"), await vo.running("boris", "vo.two")
    seen = datetime.now(UTC)
    vo.house.hub.servers["ada", ""] = Server(ServerStatus.READY, "/user/ada/", mine.id, seen)
    assert [(item.session.launch.id, item.last_activity) for item in await vo.sessions.active(ONE)] == [(mine.id, seen)]
    assert [item.session.launch.id for item in await vo.sessions.active(TWO)] == [other.id]
    assert (await vo.sessions.count(ONE), await vo.sessions.count(TWO)) == (1, 1)


async def test_a_manager_stops_a_session_of_their_vo_and_the_person_is_told(vo: Vo, store: Store) -> None:
    launch = await vo.running("ada", "vo.one")
    await vo.sessions.stop(ONE, launch.id, "the machine is needed")
    assert vo.house.hub.servers == {}
    ended = await store.get_launch(launch.id)
    assert ended is not None
    assert (ended.state, ended.failure) == (
        LaunchState.ENDED,
        "A manager of vo.one stopped this session: the machine is needed.",
    )
    assert await audit(store) == [("mia", Action.STOP_SESSION, f"ada: git.example.org/hello ({launch.id})")]
    await vo.sessions.stop(ONE, launch.id, "")
    assert len(await audit(store)) == 1, "it was over already"


async def test_the_server_of_a_person_in_two_vos_is_stopped_by_the_manager_of_its_launch_alone(
    vo: Vo, store: Store
) -> None:
    """The hub's own filter of servers goes by member: for it this would be a server of either VO."""
    launch = await vo.running("chiara", "vo.two")
    with pytest.raises(NotFound):
        await vo.sessions.stop(ONE, launch.id, "")
    assert await vo.sessions.stop_all_of(ONE, "chiara", "") == 0
    assert ("chiara", "") in vo.house.hub.servers
    assert vo.house.hub.stops == 0
    assert await vo.state_of(launch) is LaunchState.RUNNING
    assert await audit(store) == []


@pytest.mark.parametrize("launch_of_it", [None, LaunchId("f" * 32)], ids=["ordinary", "another launch"])
async def test_a_server_that_is_not_the_launchs_any_more_is_left_alone(vo: Vo, launch_of_it: LaunchId | None) -> None:
    launch = await vo.running("ada", "vo.one")
    vo.house.hub.servers["ada", ""] = Server(ServerStatus.READY, "/user/ada/", launch_of_it)
    await vo.sessions.stop(ONE, launch.id, "")
    assert ("ada", "") in vo.house.hub.servers
    assert vo.house.hub.stops == 0
    assert await vo.state_of(launch) is LaunchState.ENDED, "and our record is what is"


async def test_a_session_that_has_ended_is_put_on_record_when_it_is_looked_at(vo: Vo) -> None:
    launch = await vo.running("ada", "vo.one")
    vo.house.hub.servers.clear()
    assert await vo.sessions.active(ONE) == []
    ended = await vo.house.store.get_launch(launch.id)
    assert ended is not None
    assert (ended.state, ended.failure) == (LaunchState.ENDED, None)


async def test_a_hub_that_does_not_answer_is_no_fact_about_a_session(vo: Vo) -> None:
    launch = await vo.running("ada", "vo.one")
    vo.house.hub.faults["server"] = [SourceFault("The hub does not answer.")]
    (item,) = await vo.sessions.active(ONE)
    assert (item.session.launch.id, item.is_known) == (launch.id, False)
    assert await vo.state_of(launch) is LaunchState.RUNNING


async def test_a_second_repository_is_named_where_a_session_is_stopped(vo: Vo, store: Store) -> None:
    launch = await vo.stored("ada", "vo.one", LaunchState.BUILDING, content=ref("notes"))
    await vo.sessions.stop(ONE, launch.id, "")
    told = f"ada: git.example.org/hello with git.example.org/notes ({launch.id})"
    assert await audit(store) == [("mia", Action.STOP_SESSION, told)]


async def test_a_stop_that_fails_is_on_record_as_what_it_is(vo: Vo, store: Store) -> None:
    launch = await vo.running("ada", "vo.one")
    vo.house.hub.faults["stop"] = [SourceFault("The hub does not answer.")]
    with pytest.raises(SourceFault):
        await vo.sessions.stop(ONE, launch.id, "")
    assert await vo.state_of(launch) is LaunchState.RUNNING
    assert [action for _, action, _ in await audit(store)] == [Action.STOP_SESSION, Action.STOP_FAILED]


async def test_nothing_is_stopped_that_cannot_be_put_on_record(vo: Vo, store: Store) -> None:
    launch = await vo.running("ada", "vo.one")
    failing = FailingStore(store)
    failing.fails = {"put_on_record"}
    sessions = Sessions(failing, vo.house.hub, vo.house.builds, vo.house.feed)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="locked"):
        await sessions.stop(ONE, launch.id, "")
    assert ("ada", "") in vo.house.hub.servers


async def test_a_server_that_is_just_starting_cannot_be_stopped_yet(vo: Vo) -> None:
    launch = await vo.stored("ada", "vo.one", LaunchState.STARTING)
    vo.house.hub.servers["ada", ""] = Server(ServerStatus.STARTING, "/user/ada/", launch.id)
    with pytest.raises(Conflict, match="just starting"):
        await vo.sessions.stop(ONE, launch.id, "")
    assert await vo.state_of(launch) is LaunchState.STARTING


async def test_a_launch_on_its_way_is_ended_with_the_build_that_nobody_else_waits_for(vo: Vo) -> None:
    launch = await vo.house.launches.create(Person("ada", frozenset({"vo.one"})), wish())
    running = await vo.house.builder.next()
    # A page of the launch follows this: it tells of the build once that is on record.
    async for frames in vo.house.feed.follow(f"launch:{launch.id}"):
        if frames:
            break
    await vo.sessions.stop(ONE, launch.id, "not now")
    assert await vo.state_of(launch) is LaunchState.ENDED
    assert running.result is not None
    assert (await vo.house.texts(f"launch:{launch.id}"))[-1] == "A manager of vo.one stopped this session: not now."


async def test_blocking_a_person_can_end_all_that_they_have_for_this_vo(vo: Vo, deciding: Decisions) -> None:
    mine = await vo.running("ada", "vo.one")
    name = await deciding.block(ONE, " ada ", "mining", "")
    assert await vo.sessions.stop_all_of(ONE, name, "mining") == 1
    assert vo.house.hub.servers == {}
    assert await vo.state_of(mine) is LaunchState.ENDED


def wish(name: str = "hello") -> Wish:
    return Wish(f"git/https%3A%2F%2Fgit.example.org%2F{name}/HEAD", "vo.one")
