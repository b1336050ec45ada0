"""From consent to a server: policy, one server at a time, and what becomes of a launch when something fails."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from replay_build_service import awaiting as awaiting_module
from replay_build_service import builds as builds_module
from replay_build_service import events as events_module
from replay_build_service import launches as launches_module
from replay_build_service import starts as starts_module
from replay_build_service.db import Store
from replay_build_service.domain import (
    BuildStatus,
    Launch,
    LaunchId,
    LaunchState,
    Person,
    Server,
    ServerStatus,
    StartProgress,
    launch_stream,
)
from replay_build_service.errors import BadLink, Conflict, NotFound, NotPermitted, SourceFault, UnknownProvider
from replay_build_service.wishes import Wish
from tests.unit.core_fakes import (
    ABSENT,
    BROKEN,
    CANCELLED,
    FailingStore,
    FakeBuilder,
    FakeHub,
    FakeProvider,
    House,
    a_house,
    a_store,
    image,
)

ADA = Person("ada", frozenset({"vo.one"}))
BORIS = Person("boris", frozenset({"vo.one"}))
HUB_FAULT = SourceFault("The hub does not answer just now. Try again in a moment.")


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in [
        (builds_module, "RETRY_SECONDS"),
        (events_module, "POLL_SECONDS"),
        (launches_module, "RETRY_SECONDS"),
        (starts_module, "LOOK_SECONDS"),
        (starts_module, "STOP_POLL_SECONDS"),
    ]:
        monkeypatch.setattr(module, name, 0.01)


def wish(name: str = "hello", **more: Any) -> Wish:
    return Wish(f"git/https%3A%2F%2Fgit.example.org%2F{name}/HEAD", **more)


async def settled(house: House, launch: Launch) -> Launch:
    """The launch once its stream has ended."""
    await house.texts(launch_stream(launch.id))
    found = await house.store.get_launch(launch.id)
    assert found is not None
    return found


async def running(house: House, person: Person, name: str = "hello") -> Launch:
    """A launch that has become a server."""
    launch = await house.launches.create(person, wish(name))
    if launch.state is LaunchState.BUILDING:
        (await house.builder.next(len(house.builder.jobs) or 1)).end(image(name))
    found = await settled(house, launch)
    assert found.state is LaunchState.RUNNING
    return found


# who may launch


@pytest.mark.parametrize(
    ("groups", "vo", "expected"),
    [
        ({"vo.one"}, None, "vo.one"),
        ({"vo.one", "some-group"}, None, "vo.one"),
        ({"vo.one", "vo.two"}, "vo.two", "vo.two"),
    ],
)
async def test_a_launch_is_for_a_vo_of_the_person(
    store: Store, groups: set[str], vo: str | None, expected: str
) -> None:
    async with a_house(store) as house:
        assert (await house.launches.create(Person("ada", frozenset(groups)), wish(vo=vo))).vo == expected


@pytest.mark.parametrize(
    ("groups", "vo", "sentence"),
    [
        ({"vo.one", "vo.two"}, None, "Say for which one this runs: vo.one, vo.two."),
        ({"vo.one"}, "vo.two", "You are not in vo.two, or it may not launch here. You can launch for: vo.one."),
        ({"some-group"}, None, "You are in no virtual organisation that may launch here. These may: vo.one, vo.two."),
        (set(), "vo.one", "You are in no virtual organisation that may launch here."),
    ],
)
async def test_who_has_no_such_vo_is_told_which_there_are(
    store: Store, groups: set[str], vo: str | None, sentence: str
) -> None:
    async with a_house(store) as house:
        with pytest.raises(NotPermitted, match=re.escape(sentence)):
            await house.launches.create(Person("ada", frozenset(groups)), wish(vo=vo))
        assert await store.recent_launches("ada") == []


async def test_a_site_without_policies_launches_nothing(store: Store) -> None:
    async with a_house(store, vos=()) as house:
        with pytest.raises(NotPermitted, match="These may: none"):
            await house.launches.create(ADA, wish())


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Wish("zenodo/10.5281/x"), UnknownProvider),
        (Wish("gh/owner/name/HEAD"), UnknownProvider),
        (Wish("git/nowhere/HEAD"), BadLink),
        (wish(urlpath="//evil.example"), BadLink),
        (wish(server_name="second"), BadLink),
        (wish(server_name=".."), BadLink),
        (Wish("git/https%3A%2F%2Fgit.example.org%2Fhello/nothing"), NotFound),
    ],
)
async def test_a_wish_that_cannot_be_granted_leaves_nothing(store: Store, bad: Wish, error: type[Exception]) -> None:
    async with a_house(store) as house:
        with pytest.raises(error):
            await house.launches.create(ADA, bad)
        assert await store.recent_launches("ada") == []
        assert house.builder.jobs == []


async def test_looking_starts_and_stores_nothing(store: Store) -> None:
    async with a_house(store) as house:
        consent = await house.launches.consent(ADA, wish().repo)
        assert (consent.is_built, consent.holder, consent.same_image) == (False, None, False)
        assert (house.builder.jobs, house.hub.starts, await store.recent_launches("ada")) == ([], [], [])


async def test_what_runs_is_the_commit_that_was_agreed_to_although_the_branch_has_moved(store: Store) -> None:
    provider = FakeProvider()
    async with a_house(store, provider=provider) as house:
        seen = (await house.launches.consent(ADA, wish().repo)).resolved.version
        provider.branches["HEAD"] = "b" * 40
        launch = await house.launches.create(ADA, wish(version=seen))
        assert launch.resolved.version == seen
        assert launch.resolved.spec.ref == "HEAD"
        await house.builder.next()
        assert house.builder.jobs[0].resolved.version == seen


# one launch's way


async def test_a_launch_builds_starts_and_becomes_a_server(store: Store) -> None:
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, wish(urlpath="lab/tree/index.ipynb"))
        assert launch.state is LaunchState.BUILDING
        (await house.builder.next()).end(image())
        assert (await settled(house, launch)).state is LaunchState.RUNNING
        assert await house.texts(launch_stream(launch.id)) == [
            "Your launch waits for its build.",
            "Starting your server.",
            "Looking for room",
            "/user/ada/lab/tree/index.ipynb",
        ]
        assert house.hub.starts == [launch.id]


async def test_an_image_that_is_there_needs_no_build(store: Store) -> None:
    async with a_house(store) as house:
        await running(house, ADA)
        launch = await house.launches.create(BORIS, wish())
        assert (launch.state, launch.build_id, launch.image) == (LaunchState.STARTING, None, image())
        assert (await settled(house, launch)).state is LaunchState.RUNNING
        assert len(house.builder.jobs) == 1


async def test_a_failed_build_fails_the_launch_with_its_reason(store: Store) -> None:
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, wish())
        (await house.builder.next()).end(BROKEN)
        found = await settled(house, launch)
        assert (found.state, found.failure) == (LaunchState.FAILED, BROKEN.message)
        assert (await house.launches.standing(ADA))[0] is None
        # And the server is free for the next.
        assert (await house.launches.create(ADA, wish("other"))).state is LaunchState.BUILDING


async def test_a_session_that_is_over_is_ended_on_record_when_anybody_looks(store: Store) -> None:
    async with a_house(store) as house:
        launch = await running(house, ADA)
        house.hub.servers.clear()
        assert await house.launches.standing(ADA) == (None, ABSENT)
        assert (await settled(house, launch)).state is LaunchState.ENDED


# one server at a time


async def test_twenty_requests_of_one_moment_for_one_thing_are_one_launch(store: Store) -> None:
    async with a_house(store) as house:
        found = await asyncio.gather(*(house.launches.create(ADA, wish()) for _ in range(20)))
        assert len({launch.id for launch in found}) == 1
        assert len(await store.recent_launches("ada", 100)) == 1


async def test_of_twenty_different_launches_of_one_moment_one_holds_the_server_and_the_others_choose(
    store: Store,
) -> None:
    async with a_house(store) as house:
        found = await asyncio.gather(*(house.launches.create(ADA, wish(f"r{n}")) for n in range(20)))
        states = [launch.state for launch in found]
        assert (states.count(LaunchState.BUILDING), states.count(LaunchState.CHOOSING)) == (1, 19)
        (first,) = [launch for launch in found if launch.state is LaunchState.BUILDING]
        holder = await store.holder("ada", "")
        assert holder is not None
        assert holder.id == first.id
        await house.builder.next()
        assert [job.resolved.repository for job in house.builder.jobs] == [first.resolved.repository]


async def test_twenty_people_do_not_stand_in_each_others_way(store: Store) -> None:
    async with a_house(store) as house:
        people = [Person(f"person-{n}", frozenset({"vo.one"})) for n in range(20)]
        found = await asyncio.gather(*(house.launches.create(person, wish()) for person in people))
        assert {launch.state for launch in found} == {LaunchState.BUILDING}
        (await house.builder.next()).end(image())
        assert {(await settled(house, launch)).state for launch in found} == {LaunchState.RUNNING}
        assert len(house.builder.jobs) == 1


async def test_a_launch_beside_a_running_server_waits_for_a_choice(store: Store) -> None:
    async with a_house(store) as house:
        first = await running(house, ADA)
        second = await house.launches.create(ADA, wish("other"))
        assert second.state is LaunchState.CHOOSING
        assert len(house.builder.jobs) == 1
        taken = await house.launches.replace(ADA, second.id, first.id)
        assert taken.state is LaunchState.BUILDING
        (await house.builder.next(2)).end(image("other"))
        assert (await settled(house, second)).state is LaunchState.RUNNING
        assert (await settled(house, first)).state is LaunchState.ENDED
        assert house.hub.stops == 1


async def test_an_ordinary_server_asks_for_a_choice_too(store: Store) -> None:
    async with a_house(store) as house:
        house.hub.servers["ada", ""] = Server(ServerStatus.READY, "/user/ada/")
        launch = await house.launches.create(ADA, wish())
        assert launch.state is LaunchState.CHOOSING
        await house.launches.replace(ADA, launch.id, None)
        (await house.builder.next()).end(image())
        assert (await settled(house, launch)).state is LaunchState.RUNNING


async def test_a_choice_between_things_that_have_changed_meanwhile_is_refused(store: Store) -> None:
    async with a_house(store) as house:
        first = await running(house, ADA)
        second = await house.launches.create(ADA, wish("second"))
        third = await house.launches.create(ADA, wish("third"))
        await house.launches.replace(ADA, second.id, first.id)
        with pytest.raises(Conflict, match="Something else has taken your server meanwhile"):
            await house.launches.replace(ADA, third.id, first.id)
        assert (await house.launches.get(ADA, third.id)).state is LaunchState.CHOOSING


async def test_a_server_that_is_just_starting_is_not_replaced_and_nothing_is_given_up(store: Store) -> None:
    async with a_house(store) as house:
        house.hub.messages = []
        launch = await house.launches.create(ADA, wish())
        (await house.builder.next()).end(image())
        await house.hub.was_asked.wait()
        other = await house.launches.create(ADA, wish("other"))
        with pytest.raises(Conflict, match="just starting"):
            await house.launches.replace(ADA, other.id, launch.id)
        holder = await store.holder("ada", "")
        assert holder is not None
        assert holder.id == launch.id


@pytest.mark.parametrize("was", ["a launch's", "an ordinary one"])
async def test_a_launch_while_the_last_server_is_stopping_waits_for_that_and_asks_nothing(
    store: Store, was: str
) -> None:
    async with a_house(store) as house:
        first = await running(house, ADA) if was == "a launch's" else None
        stopping = Server(ServerStatus.STOPPING, "/user/ada/", first and first.id)
        house.hub.servers["ada", ""] = stopping
        second = await house.launches.create(ADA, wish("other"))
        assert second.state is LaunchState.BUILDING
        (await house.builder.next(2 if first else 1)).end(image("other"))
        looks = iter([False, False, True])
        house.hub.when_looked_at = lambda: house.hub.servers.clear() if next(looks, False) else None
        assert "Waiting for your last server to stop." in await house.texts(launch_stream(second.id))
        assert (await settled(house, second)).state is LaunchState.RUNNING
        assert house.hub.stops == 0
        if first is not None:
            assert (await house.launches.get(ADA, first.id)).state is LaunchState.ENDED


async def test_a_choice_waits_for_a_start_that_came_in_between(store: Store) -> None:
    """The launch that is replaced had asked the hub in the same moment."""
    async with a_house(store) as house:
        first = await running(house, ADA)
        second = await house.launches.create(ADA, wish("other"))
        ready, looks = house.hub.servers["ada", ""], 0

        def while_looked_at() -> None:
            nonlocal looks
            looks += 1
            if looks == 2:
                house.hub.servers["ada", ""] = replace(ready, status=ServerStatus.STARTING)
            if looks == 5:
                house.hub.servers["ada", ""] = ready

        house.hub.when_looked_at = while_looked_at
        await house.launches.replace(ADA, second.id, first.id)
        (await house.builder.next(2)).end(image("other"))
        assert (await settled(house, second)).state is LaunchState.RUNNING
        assert looks >= 5
        assert house.hub.stops == 1


async def test_replacing_a_launch_ends_its_build_where_nobody_else_waits(store: Store) -> None:
    async with a_house(store) as house:
        first = await house.launches.create(ADA, wish())
        build = await house.builder.next()
        async for _ in house.feed.follow(launch_stream(first.id)):
            break
        other = await house.launches.create(ADA, wish("other"))
        await house.launches.replace(ADA, other.id, first.id)
        assert build.result is not None


async def test_a_build_is_cancelled_by_who_waits_for_it_alone(store: Store) -> None:
    async with a_house(store) as house:
        found = [await house.launches.create(person, wish()) for person in (ADA, BORIS)]
        build = await house.builder.next()
        for launch in found:
            async for _ in house.feed.follow(launch_stream(launch.id)):
                break
        await house.launches.give_up(ADA, found[0].id)
        assert build.result is None
        await house.launches.give_up(BORIS, found[1].id)
        assert build.result is not None
        ended = [await settled(house, launch) for launch in found]
        assert {launch.state for launch in ended} == {LaunchState.ENDED}
        assert ended[0].build_id is not None
        assert (await house.builds.finished(ended[0].build_id)).status is BuildStatus.CANCELLED


WAITS = "Your launch waits for its build."


async def waiting_for_a_build(house: House, launch: Launch, times: int = 1) -> None:
    """Until it is on record so often that the launch waits: for one build after the other."""
    seen = 0
    async for frames in house.feed.follow(launch_stream(launch.id)):
        seen += sum(frame.endswith(WAITS.encode()) for frame in frames)
        if seen >= times:
            return


async def test_a_launch_that_joined_a_build_which_another_cancels_gets_one_of_its_own(store: Store) -> None:
    async with a_house(store) as house:
        first = await house.launches.create(ADA, wish())
        build = await house.builder.next()
        await waiting_for_a_build(house, first)
        second = await house.launches.create(BORIS, wish())
        await waiting_for_a_build(house, second)
        # The first person's giving up was decided before the second had come.
        await build.cancel()
        again = await house.builder.next(2)
        # Not before it has joined: with an image that is there it need not wait.
        await waiting_for_a_build(house, second, times=2)
        again.end(image())
        assert (await settled(house, second)).state is LaunchState.RUNNING
        assert (await house.texts(launch_stream(second.id))).count(WAITS) == 2
        found = await store.get_launch(second.id)
        assert found is not None
        assert found.build_id == house.builder.jobs[1].build_id


async def test_a_launch_whose_builds_are_all_cancelled_fails_in_the_end(store: Store) -> None:
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, wish())
        for count in range(awaiting_module.MOST_BUILDS):
            await (await house.builder.next(count + 1)).cancel()
        found = await settled(house, launch)
        assert (found.state, found.failure) == (LaunchState.FAILED, CANCELLED.message)
        assert len(house.builder.jobs) == awaiting_module.MOST_BUILDS


async def test_one_who_is_about_to_join_a_build_keeps_it_alive(store: Store) -> None:
    async with a_house(store) as house:
        first = await house.launches.create(ADA, wish())
        build = await house.builder.next()
        await waiting_for_a_build(house, first)
        # On record, and not yet with the build that it will wait for.
        await store.create_launch(replace(first, id=LaunchId("b" * 32), user="boris", build_id=None))
        await house.launches.give_up(ADA, first.id)
        assert build.result is None


async def test_a_service_that_ends_its_builds_begins_no_other(store: Store) -> None:
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, wish())
        await house.builder.next()
        await waiting_for_a_build(house, launch)
        await house.builds.cancel_all()
        assert (await settled(house, launch)).failure == CANCELLED.message
        refused = await house.launches.create(BORIS, wish())
        assert "is just ending" in ((await settled(house, refused)).failure or "")
        assert len(house.builder.jobs) == 1


async def test_a_launch_given_up_at_once_leaves_no_build_behind(store: Store) -> None:
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, wish())
        await house.launches.give_up(ADA, launch.id)
        assert (await settled(house, launch)).state is LaunchState.ENDED
        for task in asyncio.all_tasks():
            if task.get_name() == f"launch {launch.id}":
                await task
        for build in await store.unfinished_builds():
            assert (await house.builds.finished(build.id)).status is BuildStatus.CANCELLED
        assert house.hub.starts == []


async def test_giving_up_a_running_launch_stops_its_server(store: Store) -> None:
    async with a_house(store) as house:
        launch = await running(house, ADA)
        await house.launches.give_up(ADA, launch.id)
        assert house.hub.servers == {}
        assert (await settled(house, launch)).state is LaunchState.ENDED
        await house.launches.give_up(ADA, launch.id)


async def test_somebody_elses_launch_looks_as_if_it_never_was(store: Store) -> None:
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, wish())
        for launch_id in (launch.id, LaunchId("0" * 32)):
            for attempt in (house.launches.get, house.launches.give_up):
                with pytest.raises(NotFound, match="There is no such launch of yours"):
                    await attempt(BORIS, launch_id)
            with pytest.raises(NotFound):
                await house.launches.replace(BORIS, launch_id, None)


# the plan, for the spawner


async def a_starting_launch(house: House, **changes: Any) -> Launch:
    """One that is on record and whose start nobody follows."""
    launch = await house.launches.create(ADA, wish())
    (await house.builder.next()).end(image())
    done = await settled(house, launch)
    made = replace(
        done,
        id=LaunchId("f" * 32),
        user="carol",
        state=LaunchState.STARTING,
        consumed_at=None,
        created_at=datetime.now(UTC),
    )
    return await house.store.create_launch(replace(made, **changes))


async def test_a_plan_is_had_once_by_its_person_for_their_server(store: Store) -> None:
    async with a_house(store) as house:
        launch = await a_starting_launch(house)
        for user, server_name in (("ada", ""), ("carol", "other")):
            with pytest.raises(NotFound, match="There is no such launch of yours"):
                await house.launches.plan(launch.id, user, server_name)
        with pytest.raises(NotFound):
            await house.launches.plan(LaunchId("0" * 32), "carol", "")
        planned = await house.launches.plan(launch.id, "carol", "")
        assert (planned.launch.id, planned.image, planned.policy.vo) == (launch.id, image(), "vo.one")
        with pytest.raises(Conflict, match="was used already, or it waited too long"):
            await house.launches.plan(launch.id, "carol", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"created_at": datetime.now(UTC) - launches_module.FRESH - timedelta(seconds=1)},
        {"state": LaunchState.BUILDING},
        {"state": LaunchState.CHOOSING},
        {"state": LaunchState.FAILED},
        {"consumed_at": datetime.now(UTC)},
    ],
)
async def test_a_launch_that_is_not_fresh_has_no_plan(store: Store, changes: dict[str, Any]) -> None:
    async with a_house(store) as house:
        launch = await a_starting_launch(house, **changes)
        with pytest.raises(Conflict):
            await house.launches.plan(launch.id, "carol", "")


async def test_a_vo_that_has_lost_its_policy_has_no_plan(store: Store) -> None:
    async with a_house(store) as house:
        launch = await a_starting_launch(house, vo="vo.gone")
        with pytest.raises(NotPermitted):
            await house.launches.plan(launch.id, "carol", "")


async def test_a_spawn_that_names_a_repository_needs_its_image(store: Store) -> None:
    async with a_house(store) as house:
        with pytest.raises(Conflict, match="not built yet"):
            await house.launches.create_now(ADA, wish())
        assert await store.recent_launches("ada") == []
        await running(house, BORIS)
        house.hub.servers["ada", ""] = Server(ServerStatus.STARTING, "/user/ada/", None)
        planned = await house.launches.create_now(ADA, wish())
        house.hub.servers["ada", ""] = Server(ServerStatus.STARTING, "/user/ada/", planned.launch.id)
        assert (await settled(house, planned.launch)).state is LaunchState.RUNNING


async def test_a_spawn_that_names_a_repository_waits_for_no_choice(store: Store) -> None:
    async with a_house(store) as house:
        await running(house, BORIS)
        await house.launches.create(ADA, wish("other"))
        with pytest.raises(Conflict, match="Another launch of yours is on its way"):
            await house.launches.create_now(ADA, wish())
        assert await store.launches_in({LaunchState.CHOOSING}) == []


async def test_a_progress_that_breaks_under_such_a_spawn_ends_the_launch_and_not_the_service(store: Store) -> None:
    async with a_house(store) as house:
        await running(house, BORIS)
        house.hub.servers["ada", ""] = Server(ServerStatus.STARTING, "/user/ada/", None)
        house.hub.faults["progress"] = [HUB_FAULT] * 10
        planned = await house.launches.create_now(ADA, wish())
        house.hub.servers["ada", ""] = Server(ServerStatus.STARTING, "/user/ada/", planned.launch.id)
        found = await settled(house, planned.launch)
        assert (found.state, found.failure) == (LaunchState.FAILED, HUB_FAULT.sentence)


# a hub that fails

Faults = dict[str, list[Exception]]


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ({"server": [HUB_FAULT]}, HUB_FAULT.sentence),
        ({"start": [HUB_FAULT]}, HUB_FAULT.sentence),
        ({"start": [Conflict("The hub did not start your server: too many.")]}, "The hub did not start your server: too many."),
        ({"start": [RuntimeError("a fault of ours")]}, "Something went wrong in Replay itself."),
        ({"progress": [HUB_FAULT] * 5}, HUB_FAULT.sentence),
        ({"progress": [Conflict("The hub is not starting your server: no room.")] * 2}, "no room."),
    ],
)  # fmt: skip
async def test_each_fault_of_the_hub_ends_the_launch_with_a_sentence(
    store: Store, faults: Faults, sentence: str
) -> None:
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, wish())
        house.hub.faults = faults
        (await house.builder.next()).end(image())
        found = await settled(house, launch)
        assert found.state is LaunchState.FAILED
        assert sentence in (found.failure or "")
        assert (await house.texts(launch_stream(launch.id)))[-1] == found.failure


async def test_why_a_start_failed_is_asked_again_once_what_failed_is_gone(store: Store) -> None:
    """JupyterHub answers 400 “is not starting” while it removes what failed, and has the reason after that."""
    async with a_house(store) as house:
        looks = 0

        def remove_slowly() -> None:
            nonlocal looks
            for key, server in tuple(house.hub.servers.items()):
                if server.status is ServerStatus.STOPPING:
                    looks += 1
                    if looks == 3:
                        del house.hub.servers[key]

        house.hub.when_looked_at = remove_slowly
        house.hub.becomes = lambda server: replace(server, status=ServerStatus.STOPPING)
        house.hub.faults["progress"] = [Conflict("The hub is not starting your server: ada is not starting...")]
        house.hub.messages = [StartProgress("Spawn failed: the image is damaged.", failed=True)]
        launch = await house.launches.create(ADA, wish())
        (await house.builder.next()).end(image())
        found = await settled(house, launch)
        assert (found.state, found.failure) == (LaunchState.FAILED, "Spawn failed: the image is damaged.")
        assert looks == 3


async def test_progress_that_breaks_off_is_followed_again(store: Store) -> None:
    async with a_house(store) as house:
        house.hub.faults["progress"] = [HUB_FAULT, HUB_FAULT]
        assert (await running(house, ADA)).state is LaunchState.RUNNING


@pytest.mark.parametrize(
    ("becomes", "sentence"),
    [
        (lambda server: replace(server, launch_id=LaunchId("0" * 32)), "Another server of yours was started meanwhile."),
        (lambda server: replace(server, launch_id=None), "Another server of yours was started meanwhile."),
        (lambda server: replace(server, status=ServerStatus.ABSENT), "stopped before it was ready"),
        (lambda server: replace(server, status=ServerStatus.STOPPING), "stopped before it was ready"),
    ],
)  # fmt: skip
async def test_a_server_that_became_something_else_is_told(store: Store, becomes: Any, sentence: str) -> None:
    async with a_house(store) as house:
        house.hub.becomes = becomes
        house.hub.messages = []
        launch = await house.launches.create(ADA, wish())
        (await house.builder.next()).end(image())
        found = await settled(house, launch)
        assert found.state is LaunchState.FAILED
        assert sentence in (found.failure or "")


async def test_a_start_that_the_hub_reports_as_failed_is_told_in_its_words(store: Store) -> None:
    async with a_house(store) as house:
        house.hub.messages = [StartProgress("There is no room for you.", failed=True)]
        launch = await house.launches.create(ADA, wish())
        (await house.builder.next()).end(image())
        assert (await settled(house, launch)).failure == "There is no room for you."


async def test_a_start_that_the_hub_dropped_for_another_one_that_failed_is_asked_for_again(store: Store) -> None:
    async with a_house(store) as house:
        hub, progress = house.hub, house.hub.progress

        async def spawn(user: str, server_name: str, launch_id: LaunchId) -> None:
            if hub.starts == [launch_id]:
                # The hub answers as always, and the start under way is not of this launch.
                hub.servers[user, server_name] = Server(ServerStatus.STARTING, "/user/ada/")
            else:
                await house.launches.plan(launch_id, user, server_name)

        async def fails(user: str, server_name: str) -> AsyncIterator[StartProgress]:
            hub.progress = progress  # type: ignore[method-assign]
            hub.servers.clear()
            yield StartProgress("What was started before has failed.", failed=True)

        hub.spawn, hub.progress = spawn, fails  # type: ignore[method-assign]
        launch = await house.launches.create(ADA, wish())
        (await house.builder.next()).end(image())
        assert (await settled(house, launch)).state is LaunchState.RUNNING
        assert hub.starts == [launch.id, launch.id]


async def test_what_was_refused_is_not_asked_for_again(store: Store) -> None:
    """JupyterHub 5 counts each failed start towards its own end."""
    async with a_house(store) as house:

        async def refuses(user: str, server_name: str, launch_id: LaunchId) -> None:
            house.hub.messages = [StartProgress("You are in no VO any more.", failed=True)]

        house.hub.spawn = refuses
        launch = await house.launches.create(ADA, wish())
        (await house.builder.next()).end(image())
        assert (await settled(house, launch)).failure == "You are in no VO any more."
        assert house.hub.starts == [launch.id]


async def test_a_hub_that_was_asked_twice_has_not_refused(store: Store) -> None:
    """The first answer was lost on its way, and the second says that the server is there."""
    async with a_house(store) as house:
        start = house.hub.start

        async def asked_twice(user: str, server_name: str, launch_id: LaunchId) -> None:
            await start(user, server_name, launch_id)
            raise Conflict("The hub did not start your server: ada is already running")

        house.hub.start = asked_twice  # type: ignore[method-assign]
        assert (await running(house, ADA)).state is LaunchState.RUNNING


@pytest.mark.parametrize(
    ("server", "told"),
    [
        (Server(ServerStatus.STARTING, "/user/ada/"), "Another server of yours was started meanwhile."),
        (None, "The hub did not start your server: Internal Server Error"),
    ],
)
async def test_a_hub_that_refuses_since_another_server_starts_is_told_as_that(
    store: Store, server: Server | None, told: str
) -> None:
    async with a_house(store) as house:

        async def refuses(user: str, server_name: str, launch_id: LaunchId) -> None:
            if server is not None:
                house.hub.servers[user, server_name] = server
            raise Conflict("The hub did not start your server: Internal Server Error")

        house.hub.start = refuses  # type: ignore[method-assign]
        launch = await house.launches.create(ADA, wish())
        (await house.builder.next()).end(image())
        assert ((await settled(house, launch)).failure or "").startswith(told)


async def test_an_image_of_which_no_server_could_be_started_is_looked_at_before_the_next(store: Store) -> None:
    async with a_house(store) as house:
        await running(house, ADA)
        house.hub.messages = [StartProgress("The image is damaged.", failed=True)]
        house.builder.damaged.add(image())
        assert (await settled(house, await house.launches.create(BORIS, wish()))).failure == "The image is damaged."
        house.hub.servers.clear()
        assert (await house.launches.create(BORIS, wish())).state is LaunchState.BUILDING


async def test_a_server_that_does_not_stop_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts_module, "STOP_SECONDS", 0.05)
    async with a_house(store) as house:
        launch = await running(house, ADA)

        async def never(user: str, server_name: str) -> None:
            pass

        monkeypatch.setattr(house.hub, "stop", never)
        with pytest.raises(SourceFault, match="did not stop within"):
            await house.launches.stop_server(ADA)
        assert (await house.launches.get(ADA, launch.id)).state is LaunchState.RUNNING


async def test_a_database_that_fails_while_a_launch_fails_does_not_end_the_service(store: Store) -> None:
    failing = FailingStore(store)
    async with a_house(failing) as house:
        launch = await house.launches.create(ADA, wish())
        build = await house.builder.next()
        async for _ in house.feed.follow(launch_stream(launch.id)):
            break
        failing.fails = {"move_launch"}
        build.end(image())
        for _ in range(3):
            await failing.failed.wait()
            failing.failed.clear()
        failing.fails = set()
        found = await settled(house, launch)
        assert found.state is LaunchState.FAILED
        assert f"tell the administrators the launch's number, {launch.id}." in (found.failure or "")


# a service that died


@pytest.mark.parametrize("when", ["building", "built", "failed", "starting", "ready", "stopped"])
async def test_a_launch_is_gone_on_with_after_the_death_of_the_service(tmp_path: Path, when: str) -> None:
    builder, hub = FakeBuilder(), FakeHub()
    hub.messages = []
    async with a_store(tmp_path) as store, a_house(store, builder, hub) as house:
        launch = await house.launches.create(ADA, wish())
        build = await builder.next()
        async for _ in house.feed.follow(launch_stream(launch.id)):
            break
        if when in {"starting", "ready", "stopped"}:
            build.end(image())
            await hub.was_asked.wait()
    match when:
        case "built":
            build.end(image())
        case "failed":
            build.end(BROKEN)
        case "ready":
            server = hub.servers["ada", ""]
            hub.servers["ada", ""] = replace(server, status=ServerStatus.READY)
        case "stopped":
            hub.servers.clear()
        case _:
            pass
    hub.messages = [StartProgress("", ready=True)]
    async with a_store(tmp_path) as store, a_house(store, builder, hub) as house:
        await house.builds.recover()
        await house.launches.recover()
        if when == "building":
            build.end(image())
        found = await settled(house, launch)
        if when == "failed":
            assert (found.state, found.failure) == (LaunchState.FAILED, BROKEN.message)
        elif when == "stopped":
            assert found.state is LaunchState.FAILED
            assert "stopped before it was ready" in (found.failure or "")
        else:
            assert found.state is LaunchState.RUNNING
        assert len(hub.starts) <= 1
    assert len(builder.jobs) == 1


async def test_a_build_that_failed_before_its_launch_knew_is_not_run_again(tmp_path: Path) -> None:
    builder, hub = FakeBuilder(), FakeHub()
    async with a_store(tmp_path) as store, a_house(store, builder, hub) as house:
        launch = await house.launches.create(ADA, wish())
        await builder.next()
        async for _ in house.feed.follow(launch_stream(launch.id)):
            break
    async with a_store(tmp_path) as store:
        (build,) = await store.unfinished_builds()
        await store.finish_build(build.id, BROKEN, BROKEN.message)
    async with a_store(tmp_path) as store, a_house(store, builder, hub) as house:
        await house.builds.recover()
        await house.launches.recover()
        assert (await settled(house, launch)).failure == BROKEN.message
    assert len(builder.jobs) == 1
