"""Sessions that may not go on are stopped, and those that run are on record, whatever the hub said while they started."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from replay_build_service import lifetimes as lifetimes_module
from replay_build_service.db import Store
from replay_build_service.domain import Launch, LaunchState, Person, Server, ServerStatus, launch_stream
from replay_build_service.errors import LimitReached, SourceFault
from replay_build_service.lifetimes import LOOKS_PER_TIDYING, PERIOD_SECONDS
from replay_build_service.policy_values import Limits, Resources, VOPolicy
from replay_build_service.wishes import Wish
from tests.unit.core_fakes import FakeHub, House, a_house, image

pytestmark = [pytest.mark.hub_independent, pytest.mark.usefixtures("quick_starts")]

IN_BOTH = Person("ada", frozenset({"vo.one", "vo.two"}))
BORIS = Person("boris", frozenset({"vo.one"}))
SILENT = SourceFault("The hub does not answer just now. Try again in a moment.")


def wish(name: str = "hello", vo: str = "vo.one") -> Wish:
    return Wish(f"git/https%3A%2F%2Fgit.example.org%2F{name}/HEAD", vo)


async def launched(house: House, person: Person = IN_BOTH) -> Launch:
    """A launch, once its stream has ended."""
    launch = await house.launches.create(person, wish())
    if launch.state is LaunchState.BUILDING:
        (await house.builder.next()).end(image())
    await house.texts(launch_stream(launch.id))
    return await now(house, launch)


async def now(house: House, launch: Launch) -> Launch:
    found = await house.store.get_launch(launch.id)
    assert found is not None
    return found


def in_groups(house: House, user: str, *groups: str, unknown: bool = False) -> None:
    server = house.hub.servers[user, ""]
    house.hub.servers[user, ""] = replace(server, groups=None if unknown else frozenset(groups))


# membership


async def test_who_left_the_vo_of_a_session_loses_it_although_another_vo_lets_them_in(store: Store) -> None:
    async with a_house(store) as house:
        launch = await launched(house)
        in_groups(house, "ada", "vo.one", "vo.two")
        await house.launches.lifetimes.look(everything=True)
        assert house.hub.stops == 0
        in_groups(house, "ada", "vo.two")
        await house.launches.lifetimes.look(everything=True)
        assert house.hub.stops == 1
        ended = await now(house, launch)
        assert ended.state is LaunchState.ENDED
        assert ended.failure == (
            "The session was stopped: it ran for vo.one, and you are not a member of that any more. "
            "Launch it for another virtual organisation of yours."
        )


async def test_groups_that_the_hub_does_not_tell_are_no_loss(store: Store) -> None:
    async with a_house(store) as house:
        launch = await launched(house)
        in_groups(house, "ada", unknown=True)
        await house.launches.lifetimes.look(everything=True)
        house.hub.faults["server"] = [SILENT]
        await house.launches.lifetimes.look(everything=True)
        assert (house.hub.stops, (await now(house, launch)).state) == (0, LaunchState.RUNNING)


def test_each_session_is_looked_at_often_enough_for_the_bound_of_access() -> None:
    """The hub looks at a membership every three minutes of the five that the bound has; the rest is for this and for the stop."""
    assert PERIOD_SECONDS * LOOKS_PER_TIDYING <= 60


async def test_a_server_that_does_not_stop_holds_up_no_look(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(FakeHub):
        asked_to_stop = 0
        was_asked_to_stop = asyncio.Event()

        async def stop(self, user: str, server_name: str) -> None:
            self.asked_to_stop += 1
            self.was_asked_to_stop.set()
            if user == "boris":
                await super().stop(user, server_name)

    monkeypatch.setattr(lifetimes_module, "PERIOD_SECONDS", 0.01)
    hub = Slow()
    async with a_house(store, hub=hub) as house:
        stuck, other = await launched(house), await launched(house, BORIS)
        watching = asyncio.create_task(house.launches.lifetimes.watch())
        try:
            in_groups(house, "ada", "vo.two")
            async with asyncio.timeout(10):
                await hub.was_asked_to_stop.wait()
                in_groups(house, "boris", "vo.two")
                while (await now(house, other)).state is LaunchState.RUNNING:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
        finally:
            watching.cancel()
        assert (await now(house, stuck)).state is LaunchState.RUNNING, "it is not said to have ended"
        assert hub.asked_to_stop == 2, "it is not stopped again while it is being stopped"


# what was taken for failed


async def taken_for_failed(house: House) -> Launch:
    """A hub that was restarted during a start: the launch is given up, and the server comes all the same."""
    house.hub.faults["progress"] = [SILENT] * 5
    launch = await launched(house)
    assert (launch.state, launch.failure) == (LaunchState.FAILED, SILENT.sentence)
    assert house.hub.servers["ada", ""].status is ServerStatus.STARTING
    return launch


def comes_up(house: House) -> None:
    house.hub.servers["ada", ""] = replace(house.hub.servers["ada", ""], status=ServerStatus.READY)


async def test_a_server_that_runs_although_its_launch_was_given_up_is_on_record_again(store: Store) -> None:
    limited = [VOPolicy("vo.one", Resources(), limits=Limits(servers=1), maximum_age=timedelta(hours=8))]
    async with a_house(store, policies=limited) as house:
        launch = await taken_for_failed(house)
        await house.launches.lifetimes.look(everything=True)
        assert (await now(house, launch)).state is LaunchState.FAILED, "it does not run yet"
        comes_up(house)
        await house.launches.lifetimes.look(everything=True)
        found = await now(house, launch)
        assert (found.state, found.failure, found.ended_at) == (LaunchState.RUNNING, None, None)
        assert found.running_at is not None
        assert found.ends_by == found.running_at + timedelta(hours=8)
        (session,) = await store.sessions("vo.one", {LaunchState.RUNNING}, None, 10)
        assert session.launch.id == launch.id, "its VO's managers see it"
        with pytest.raises(LimitReached):
            await house.launches.create(BORIS, wish())
        in_groups(house, "ada", "vo.two")
        await house.launches.lifetimes.look(everything=True)
        assert house.hub.stops == 1


@pytest.mark.parametrize("instead", ["nothing", "an ordinary server"])
async def test_a_launch_whose_server_is_gone_stays_failed_and_is_not_asked_about_again(
    store: Store, instead: str
) -> None:
    async with a_house(store) as house:
        launch = await taken_for_failed(house)
        house.hub.servers.clear()
        if instead != "nothing":
            house.hub.servers["ada", ""] = Server(ServerStatus.READY, "/user/ada/")
        await house.launches.lifetimes.look(everything=True)
        house.hub.faults["server"] = [SILENT]
        await house.launches.lifetimes.look(everything=True)
        assert house.hub.faults["server"] == [SILENT], "nobody asked"
        assert (await now(house, launch)).state is LaunchState.FAILED


async def test_a_launch_whose_place_another_has_taken_is_not_taken_back(store: Store) -> None:
    async with a_house(store) as house:
        first = await taken_for_failed(house)
        house.hub.servers.clear()
        second = await launched(house)
        assert second.state is LaunchState.RUNNING
        assert not await store.take_back(first.id)
        assert await store.given_up_after_their_plan(timedelta(days=1)) == []


async def test_what_failed_long_ago_or_before_its_plan_is_not_asked_about(store: Store) -> None:
    async with a_house(store) as house:
        house.hub.faults["start"] = [SILENT]
        assert (await launched(house)).state is LaunchState.FAILED
        assert await store.given_up_after_their_plan(timedelta(days=1)) == []
        launch = await taken_for_failed(house)
        (found,) = await store.given_up_after_their_plan(timedelta(days=1))
        assert (found.id, found.ended_at is not None and found.ended_at <= datetime.now(UTC)) == (launch.id, True)
        assert await store.given_up_after_their_plan(timedelta(0)) == []
