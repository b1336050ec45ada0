"""One build per image: joined, driven, cancelled and found again, over the real store."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from replay_build_service import builds as builds_module
from replay_build_service import events as events_module
from replay_build_service.db import Store
from replay_build_service.domain import (
    Build,
    BuildId,
    BuildStatus,
    FailureReason,
    ImageName,
    RunnableImage,
    build_stream,
)
from replay_build_service.errors import SourceFault
from tests.unit.core_fakes import BROKEN, FailingStore, FakeBuilder, a_house, a_store, image, ref


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds_module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(events_module, "POLL_SECONDS", 0.01)


def a_build(found: RunnableImage | Build) -> Build:
    assert isinstance(found, Build)
    return found


async def test_all_who_ask_for_one_image_get_one_build(store: Store) -> None:
    async with a_house(store) as house:
        found = await asyncio.gather(*(house.builds.ensure(ref(), f"person-{n}") for n in range(100)))
        (build_id,) = {a_build(build).id for build in found}
        running = await house.builder.next()
        running.say("one line")
        running.end(image())
        finished = await asyncio.gather(*(house.builds.finished(build_id) for _ in range(100)))
        assert {build.image for build in finished} == {image()}
        assert len(house.builder.jobs) == 1
        assert await house.builds.ensure(ref(), "late") == image()
        assert await house.texts(build_stream(build_id)) == ["one line", "The environment is built."]
        assert (await house.builds.finished(build_id)).requested_by.startswith("person-")


async def test_who_asks_while_the_build_ends_gets_its_image_and_no_second_build(store: Store) -> None:
    async with a_house(store) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        running = await house.builder.next()
        find_image, has_looked, may_go_on = store.find_image, asyncio.Event(), asyncio.Event()

        async def slow(name: ImageName) -> RunnableImage | None:
            found = await find_image(name)
            has_looked.set()
            await may_go_on.wait()
            return found

        store.find_image = slow  # pyright: ignore[reportAttributeAccessIssue]
        asking = asyncio.create_task(house.builds.ensure(ref(), "boris"))
        await has_looked.wait()
        running.end(image())
        await house.builds.finished(build.id)
        may_go_on.set()
        assert await asking == image()
        assert len(house.builder.jobs) == 1


async def test_the_leaving_of_all_watchers_does_not_end_a_build(store: Store) -> None:
    async with a_house(store) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        running = await house.builder.next()
        watchers = [asyncio.create_task(house.texts(build_stream(build.id))) for _ in range(5)]
        waiters = [asyncio.create_task(house.builds.finished(build.id)) for _ in range(5)]
        running.say("seen")
        await asyncio.sleep(0)
        for task in [*watchers, *waiters]:
            task.cancel()
        await asyncio.gather(*watchers, *waiters, return_exceptions=True)
        running.say("unseen")
        running.end(image())
        assert (await house.builds.finished(build.id)).status is BuildStatus.SUCCEEDED
        assert await house.texts(build_stream(build.id)) == ["seen", "unseen", "The environment is built."]


async def test_a_build_that_cannot_start_fails_with_a_sentence(store: Store) -> None:
    async with a_house(store) as house:
        house.builder.error = OSError(28, "No space left on device")
        build = a_build(await house.builds.ensure(ref(), "ada"))
        finished = await house.builds.finished(build.id)
        assert finished.failure is not None
        assert finished.failure.reason is FailureReason.INTERNAL
        assert "tell the administrators the build's number" in finished.failure.message
        assert await house.texts(build_stream(build.id)) == [finished.failure.message]
        # The next who asks gets a new one.
        house.builder.error = None
        assert a_build(await house.builds.ensure(ref(), "ada")).id != build.id


async def test_a_builder_that_breaks_again_and_again_ends_its_build(store: Store) -> None:
    async with a_house(store) as house:
        house.builder.error = RuntimeError("a fault of ours")
        build = a_build(await house.builds.ensure(ref(), "ada"))
        finished = await house.builds.finished(build.id)
        assert finished.failure is not None
        assert finished.failure.reason is FailureReason.INTERNAL


async def test_what_a_failed_build_left_is_removed_once_its_end_is_on_record(store: Store) -> None:
    async with a_house(store) as house:
        order: list[str] = []
        discard = house.builder.discard

        async def watched(job: object) -> None:
            stored = await store.get_build(build.id)
            assert stored is not None
            order.append(stored.status)
            await discard(job)  # pyright: ignore[reportArgumentType]

        house.builder.discard = watched
        build = a_build(await house.builds.ensure(ref(), "ada"))
        (await house.builder.next()).end(BROKEN)
        assert (await house.builds.finished(build.id)).failure == BROKEN
        await house.builds.cancel_all()
        assert (order, house.builder.discarded) == (["failed"], [build.id])
        assert await house.texts(build_stream(build.id)) == [BROKEN.message]


async def test_a_cancelled_build_really_ends(store: Store) -> None:
    async with a_house(store) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        running = await house.builder.next()
        await house.builds.cancel(build.id)
        finished = await house.builds.finished(build.id)
        assert finished.status is BuildStatus.CANCELLED
        assert running.result is not None
        await house.builds.cancel(build.id)


async def test_a_cancelled_build_that_waits_for_another_need_not_wait_for_its_end(store: Store) -> None:
    async with a_house(store, at_once=1) as house:
        await house.builds.ensure(ref("first"), "ada")
        await house.builder.next()
        second = a_build(await house.builds.ensure(ref("second"), "boris"))
        watching = asyncio.create_task(house.texts(build_stream(second.id)))
        await house.builds.cancel(second.id)
        assert (await house.builds.finished(second.id)).status is BuildStatus.CANCELLED
        assert len(house.builder.jobs) == 1
        assert (await watching)[-1] == "The build was cancelled before it began. Open the link again."


async def test_only_so_many_builds_run_at_once_and_the_others_say_that_they_wait(store: Store) -> None:
    async with a_house(store, at_once=2) as house:
        found = [a_build(await house.builds.ensure(ref(f"r{n}"), "ada")) for n in range(4)]
        await house.builder.next(2)
        started = {job.build_id for job in house.builder.jobs}
        for build in found:
            if build.id not in started:
                async for frames in house.feed.follow(build_stream(build.id)):
                    assert frames == [b"1:Waiting for another build to end."]
                    break
        for count in range(1, 5):
            running = await house.builder.next(count)
            assert len([one for one in house.builder.running.values() if one.result is None]) <= 2
            running.end(image(f"r{count}"))
        texts = [await house.texts(build_stream(build.id)) for build in found]
        assert sorted(len(text) for text in texts) == [1, 1, 2, 2]


async def test_a_build_is_found_again_after_the_death_of_the_service(tmp_path: Path) -> None:
    builder = FakeBuilder()
    async with a_store(tmp_path) as store, a_house(store, builder) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        running = await builder.next()
        running.say("line one")
        async for frames in house.feed.follow(build_stream(build.id)):
            assert frames == [b"1:line one"]
            break
    running.say("line two, unseen")
    async with a_store(tmp_path) as store, a_house(store, builder) as house:
        await house.builds.recover()
        running.say("line three")
        running.end(image())
        assert (await house.builds.finished(build.id)).image == image()
        told = ["line one", "line two, unseen", "line three", "The environment is built."]
        assert await house.texts(build_stream(build.id)) == told
    assert (len(builder.jobs), builder.attached) == (1, [build.id])
    assert running.followed_from == [0, 1]
    assert builder.swept_but == {build.id}


async def test_what_cannot_be_swept_up_does_not_keep_the_service_from_starting(store: Store) -> None:
    async def breaks(known: object) -> list[BuildId]:
        raise RecursionError("maximum recursion depth exceeded")

    async with a_house(store) as house:
        house.builder.sweep = breaks  # pyright: ignore[reportAttributeAccessIssue]
        await house.builds.recover()
        build = a_build(await house.builds.ensure(ref(), "ada"))
        (await house.builder.next()).end(image())
        assert (await house.builds.finished(build.id)).image == image()


async def test_builds_that_run_already_are_followed_whatever_else_waits(tmp_path: Path) -> None:
    builder = FakeBuilder()
    async with a_store(tmp_path) as store, a_house(store, builder, at_once=1) as house:
        first = a_build(await house.builds.ensure(ref("first"), "ada"))
        await builder.next()
        second = a_build(await house.builds.ensure(ref("second"), "ada"))
        await house.builds.ensure(ref("second"), "boris")
    async with a_store(tmp_path) as store, a_house(store, builder, at_once=1) as house:
        await house.builds.recover()
        (await builder.next(1)).end(image("first"))
        (await builder.next(2)).end(image("second"))
        assert (await house.builds.finished(first.id)).image == image("first")
        assert (await house.builds.finished(second.id)).image == image("second")


async def test_a_database_that_fails_for_a_while_does_not_end_a_build(store: Store) -> None:
    failing = FailingStore(store)
    async with a_house(failing) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        running = await house.builder.next()
        # More outages than faults in a row are borne, each met by a line that cannot be stored.
        for outage in range(builds_module.MOST_FAULTS + 3):
            failing.failed.clear()
            failing.is_down = True
            running.say(f"line {outage}")
            await failing.failed.wait()
            failing.is_down = False
            async for frames in house.feed.follow(build_stream(build.id), outage):
                assert frames == [f"{outage + 1}:line {outage}".encode()]
                break
        running.end(image())
        assert (await house.builds.finished(build.id)).status is BuildStatus.SUCCEEDED
        texts = await house.texts(build_stream(build.id))
        assert texts == [*(f"line {n}" for n in range(builds_module.MOST_FAULTS + 3)), "The environment is built."]
    assert len(house.builder.jobs) == 1


async def test_a_database_that_fails_at_the_very_end_hears_of_it_later(store: Store) -> None:
    failing = FailingStore(store)
    async with a_house(failing) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        running = await house.builder.next()
        failing.fails = {"finish_build"}
        running.end(BROKEN)
        for _ in range(2):
            await failing.failed.wait()
            failing.failed.clear()
        failing.fails = set()
        finished = await house.builds.finished(build.id)
        assert finished.failure == BROKEN


async def test_a_build_whose_driver_died_is_driven_by_who_asks_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds_module, "LEASE", timedelta(seconds=0.3))
    builder = FakeBuilder()
    async with a_store(tmp_path) as store:
        async with a_house(store, builder) as first:
            build = a_build(await first.builds.ensure(ref(), "ada"))
            await builder.next()
        async with a_house(store, builder) as other:
            other.builds._owner = "elsewhere"
            joined = a_build(await other.builds.ensure(ref(), "boris"))
            (await builder.next()).end(image())
            assert joined.id == build.id
            assert (await other.builds.finished(build.id)).image == image()


async def test_the_service_waits_for_the_end_of_the_builds_that_it_cancels(store: Store) -> None:
    async with a_house(store, at_once=2) as house:
        found = [a_build(await house.builds.ensure(ref(f"r{n}"), "ada")) for n in range(3)]
        await house.builder.next(2)
        await house.builds.cancel_all()
        stored = [await store.get_build(build.id) for build in found]
        assert {build.status for build in stored if build} == {BuildStatus.CANCELLED}
        assert set(house.builder.discarded) == {build.id for build in found}


async def test_an_image_that_has_vanished_is_built_again(store: Store) -> None:
    async with a_house(store) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        (await house.builder.next()).end(image())
        await house.builds.finished(build.id)
        house.builder.gone.add(image())
        again = a_build(await house.builds.ensure(ref(), "ada"))
        (await house.builder.next(2)).end(image("again"))
        await house.builds.finished(again.id)
        assert await house.builds.ensure(ref(), "ada") == image("again")


async def test_a_build_may_use_again_what_the_repositorys_last_images_have(store: Store) -> None:
    async with a_house(store) as house:
        for number, version in enumerate("ab", start=1):
            build = a_build(await house.builds.ensure(ref(version=version * 40), "ada"))
            (await house.builder.next(number)).end(image(version))
            await house.builds.finished(build.id)
        await house.builds.ensure(ref(version="c" * 40), "ada")
        await house.builder.next(3)
        await house.builds.ensure(ref("other"), "ada")
        await house.builder.next(4)
        assert house.builder.cached_from == [[], [image("a")], [image("b"), image("a")], []]


async def test_a_build_that_made_its_image_is_tidied_up_after(store: Store) -> None:
    async with a_house(store) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        (await house.builder.next()).end(image())
        await house.builds.finished(build.id)
        await house.builds.cancel_all()  # returns when nothing is left to do
        assert (house.builder.tidied, house.builder.discarded) == ([build.id], [])


async def test_a_registry_that_cannot_say_what_came_of_a_build_is_asked_again(store: Store) -> None:
    async with a_house(store) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        running = await house.builder.next()
        running.faults = [SourceFault("The registry does not answer.")] * 3
        running.end(image())
        assert (await house.builds.finished(build.id)).image == image()


async def test_one_that_never_says_ends_the_build_with_its_own_words(store: Store) -> None:
    async with a_house(store) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        running = await house.builder.next()
        running.faults = [SourceFault("The registry does not answer.")] * 99
        running.end(image())
        failure = (await house.builds.finished(build.id)).failure
        assert failure is not None
        assert (failure.reason, failure.message) == (FailureReason.INTERNAL, "The registry does not answer.")


async def test_a_doubted_image_is_looked_at_thoroughly_once(store: Store) -> None:
    async with a_house(store) as house:
        build = a_build(await house.builds.ensure(ref(), "ada"))
        (await house.builder.next()).end(image())
        await house.builds.finished(build.id)
        house.builder.damaged.add(image())
        assert await house.builds.ensure(ref(), "ada") == image(), "nobody has complained"
        house.builds.doubt(image())
        again = a_build(await house.builds.ensure(ref(), "ada"))
        (await house.builder.next(2)).end(image("mended"))
        assert (await house.builds.finished(again.id)).image == image("mended")
        house.builds.doubt(image("mended"))
        assert await house.builds.ensure(ref(), "ada") == image("mended"), "it is whole"
