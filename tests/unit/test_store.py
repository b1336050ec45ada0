"""The database: what two callers of one moment get, what is on disk when a method returns, and how its schema changes."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from replay_build_service.db import OldSchema, Store, open_database, personal, upgrade
from replay_build_service.db.tables import Base, Personal
from replay_build_service.domain import (
    BuildFailure,
    BuildId,
    BuildJob,
    BuildRecipe,
    BuildStatus,
    EventKind,
    FailureReason,
    ImageName,
    Launch,
    LaunchId,
    LaunchState,
    NewEvent,
    Phase,
    build_stream,
    launch_stream,
)
from tests.requirements import ROOT
from tests.unit.core_fakes import BROKEN, a_store, image, ref

MINUTE = timedelta(minutes=1)
RECIPE = BuildRecipe("fake", (("uv", "1"),))
LAST = NewEvent(EventKind.PHASE, Phase.FAILED, "You launched something else instead.", datetime.now(UTC))

_T = TypeVar("_T")


@pytest.fixture
async def other(store: Store, tmp_path: Path) -> AsyncIterator[Store]:
    """The same file, opened again as another process would: it sees what is stored, and nothing else."""
    async with a_store(tmp_path) as opened:
        yield opened


def a_job(build_id: str, name: str = "hello") -> BuildJob:
    resolved = ref(name)
    return BuildJob(BuildId(build_id), ImageName.of(resolved, RECIPE), resolved, RECIPE)


def a_launch(launch_id: str, **changes: object) -> Launch:
    resolved = ref()
    launch = Launch(
        id=LaunchId(launch_id),
        user="ada",
        server_name="",
        resolved=resolved,
        image_name=ImageName.of(resolved, RECIPE),
        vo="vo.one",
        urlpath="",
        state=LaunchState.STARTING,
        created_at=datetime.now(UTC),
        image=image(),
    )
    return replace(launch, **changes)  # pyright: ignore[reportArgumentType]


def line(text: str) -> NewEvent:
    return NewEvent(EventKind.LINE, Phase.BUILDING, text, datetime.now(UTC))


async def joined(store: Store, build_id: str = "one") -> BuildJob:
    assert await store.join_build(a_job(build_id), "ada") is not None
    return a_job(build_id)


async def texts(store: Store, stream: str) -> list[str]:
    page = await store.read_events(stream, 0, 1000)
    assert [event.sequence for event in page.events] == list(range(1, len(page.events) + 1))
    return [event.text for event in page.events]


async def at_once(calls: list[Awaitable[_T]]) -> list[_T]:
    return list(await asyncio.gather(*calls))


# builds


async def test_fifty_who_ask_at_once_get_one_build(store: Store, other: Store) -> None:
    found = await at_once([(store, other)[n % 2].join_build(a_job(f"build-{n}"), f"person-{n}") for n in range(50)])
    answers = [answer for answer in found if answer is not None]
    assert len(answers) == 50
    assert len({build.id for build, _ in answers}) == 1
    assert [is_new for _, is_new in answers].count(True) == 1
    assert len(await other.unfinished_builds()) == 1


async def test_other_images_have_builds_of_their_own(store: Store) -> None:
    await at_once([store.join_build(a_job(name, name), "ada") for name in ("one", "two")])
    assert {build.id for build in await store.unfinished_builds()} == {"one", "two"}


async def test_a_new_build_comes_after_a_failed_one_and_none_after_an_image(store: Store) -> None:
    job = await joined(store)
    assert await store.finish_build(job.build_id, BROKEN, "no")
    again = await store.join_build(a_job("two"), "ada")
    assert again is not None
    assert (again[0].id, again[1]) == ("two", True)
    assert await store.finish_build(BuildId("two"), image(), "yes")
    assert await store.join_build(a_job("three"), "ada") is None
    await store.forget_image(job.image_name, image("another"))
    assert await store.find_image(job.image_name) == image()
    await store.forget_image(job.image_name, image())
    assert await store.join_build(a_job("four"), "ada") is not None


async def test_a_lease_is_its_owners_until_it_runs_out(store: Store, other: Store) -> None:
    job = await joined(store)
    assert await store.lease_build(job.build_id, "here", MINUTE)
    assert await store.lease_build(job.build_id, "here", MINUTE), "renewed"
    assert not await other.lease_build(job.build_id, "elsewhere", MINUTE)
    assert await store.lease_build(job.build_id, "here", -MINUTE), "run out"
    assert await other.lease_build(job.build_id, "elsewhere", MINUTE)
    assert not await store.lease_build(job.build_id, "here", MINUTE)
    await store.finish_build(job.build_id, BROKEN, "no")
    assert not await other.lease_build(job.build_id, "elsewhere", MINUTE), "a build that has ended is nobody's"
    assert not await store.lease_build(BuildId("never"), "here", MINUTE)


async def test_of_many_who_take_a_lease_at_once_one_has_it(store: Store, other: Store) -> None:
    job = await joined(store)
    won = await at_once([(store, other)[n % 2].lease_build(job.build_id, f"owner-{n}", MINUTE) for n in range(20)])
    assert won.count(True) == 1


async def test_a_piece_of_a_log_is_stored_once(store: Store, other: Store) -> None:
    job = await joined(store)
    stream = build_stream(job.build_id)
    won = await at_once([(store, other)[n % 2].append_log(stream, [line("a"), line("b")], 0, 10) for n in range(20)])
    assert won.count(True) == 1
    assert await store.append_log(stream, [], 10, 15), "a piece without a record moves the position too"
    assert not await store.append_log(stream, [line("late")], 10, 20)
    assert await store.append_log(stream, [line("c")], 15, 20)
    assert (await texts(other, stream), await other.stream_position(stream)) == (["a", "b", "c"], 20)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (image(), BuildStatus.SUCCEEDED),
        (BROKEN, BuildStatus.FAILED),
        (BuildFailure(FailureReason.CANCELLED, "gone"), BuildStatus.CANCELLED),
    ],
)
async def test_a_build_ends_once_together_with_its_last_event(
    store: Store, other: Store, outcome: object, status: BuildStatus
) -> None:
    job = await joined(store)
    won = await at_once([(store, other)[n % 2].finish_build(job.build_id, outcome, "the end") for n in range(20)])  # pyright: ignore[reportArgumentType]
    assert won.count(True) == 1
    build = await other.get_build(job.build_id)
    assert build is not None
    assert (build.status, build.image or build.failure) == (status, outcome)
    stream = build_stream(job.build_id)
    assert (await other.read_events(stream, 0, 10)).finished
    await store.append_events(stream, [line("too late")])
    assert not await store.append_log(stream, [line("too late")], 0, 1)
    assert await texts(other, stream) == ["the end"]
    assert await other.find_image(job.image_name) == build.image
    assert await other.kept_build_ids() == ({job.build_id} if build.image else frozenset())


async def test_events_of_many_writers_have_no_gap_and_no_repeat(store: Store, other: Store) -> None:
    stream = build_stream((await joined(store)).build_id)
    await at_once([(store, other)[n % 2].append_events(stream, [line(f"{n}a"), line(f"{n}b")]) for n in range(30)])
    found = await texts(other, stream)
    assert sorted(found) == sorted(f"{n}{part}" for n in range(30) for part in "ab")
    assert all(found[at][:-1] == found[at + 1][:-1] for at in range(0, 60, 2)), "what came together stays together"


# launches


async def test_a_launch_holds_a_free_server_and_the_next_ones_join_or_choose(store: Store) -> None:
    first = await store.create_launch(a_launch("first"))
    assert first.state is LaunchState.STARTING
    assert (await store.create_launch(a_launch("same"))).id == "first"
    assert await store.get_launch(LaunchId("same")) is None
    for name, changes in {
        "path": {"urlpath": "lab"},
        "image": {"image_name": ImageName("replay/other", "tag")},
    }.items():
        assert (await store.create_launch(a_launch(name, **changes))).state is LaunchState.CHOOSING
    assert (await store.create_launch(a_launch("beside", server_name="second"))).state is LaunchState.STARTING
    assert (await store.create_launch(a_launch("boris", user="boris"))).state is LaunchState.STARTING
    await store.move_launch(LaunchId("first"), {LaunchState.STARTING}, LaunchState.RUNNING)
    assert (await store.create_launch(a_launch("afresh"))).state is LaunchState.CHOOSING
    await store.move_launch(LaunchId("first"), {LaunchState.RUNNING}, LaunchState.ENDED)
    assert await store.holder("ada", "") is None
    assert (await store.create_launch(a_launch("next"))).state is LaunchState.STARTING
    holder = await store.holder("ada", "")
    assert holder is not None
    assert holder.id == "next"


async def test_of_many_launches_of_one_moment_one_holds_the_server(store: Store, other: Store) -> None:
    made = [a_launch(f"launch-{n}", urlpath=str(n)) for n in range(20)]
    found = await at_once([(store, other)[n % 2].create_launch(launch) for n, launch in enumerate(made)])
    states = [launch.state for launch in found]
    assert (states.count(LaunchState.STARTING), states.count(LaunchState.CHOOSING)) == (1, 19)


async def test_one_of_those_who_choose_takes_the_server_from_the_launch_that_it_saw(store: Store, other: Store) -> None:
    await store.create_launch(a_launch("first"))
    choosing = [await store.create_launch(a_launch(f"next-{n}", urlpath=str(n))) for n in range(10)]
    won = await at_once(
        [
            (store, other)[n % 2].take_server(launch, LaunchId("first"), LaunchState.BUILDING, LAST)
            for n, launch in enumerate(choosing)
        ]
    )
    assert won.count(True) == 1
    first = await other.get_launch(LaunchId("first"))
    assert first is not None
    assert first.state is LaunchState.ENDED
    page = await other.read_events(launch_stream(first.id), 0, 10)
    assert ([event.text for event in page.events], page.finished) == ([LAST.text], True)
    holder = await other.holder("ada", "")
    assert holder is not None
    assert (holder.id, holder.state) == (choosing[won.index(True)].id, LaunchState.BUILDING)
    assert not await store.take_server(choosing[won.index(False)], None, LaunchState.BUILDING, LAST)


async def test_a_launch_is_used_by_one_of_fifty(store: Store, other: Store) -> None:
    await store.create_launch(a_launch("first"))
    found = await at_once(
        [(store, other)[n % 2].consume_launch(LaunchId("first"), "ada", "", MINUTE) for n in range(50)]
    )
    (used,) = [launch for launch in found if launch is not None]
    stored = await other.get_launch(LaunchId("first"))
    assert stored is not None
    assert used.consumed_at is not None
    assert stored.consumed_at == used.consumed_at


@pytest.mark.parametrize(
    ("changes", "user", "server_name"),
    [
        ({}, "boris", ""),
        ({}, "ada", "another"),
        ({"created_at": datetime.now(UTC) - 2 * MINUTE}, "ada", ""),
        ({"state": LaunchState.BUILDING}, "ada", ""),
        ({"state": LaunchState.RUNNING}, "ada", ""),
        ({"state": LaunchState.CHOOSING}, "ada", ""),
        ({"state": LaunchState.FAILED}, "ada", ""),
    ],
)
async def test_what_is_not_a_persons_fresh_launch_is_not_used(
    store: Store, changes: dict[str, object], user: str, server_name: str
) -> None:
    await store.create_launch(a_launch("first", **changes))
    assert await store.consume_launch(LaunchId("first"), user, server_name, MINUTE) is None
    assert await store.consume_launch(LaunchId("never"), "ada", "", MINUTE) is None


async def test_a_launch_is_fresh_from_when_its_image_is_there(store: Store) -> None:
    long_ago = datetime.now(UTC) - 60 * MINUTE
    await store.create_launch(a_launch("first", state=LaunchState.BUILDING, created_at=long_ago))
    assert await store.move_launch(LaunchId("first"), {LaunchState.BUILDING}, LaunchState.STARTING, image=image())
    used = await store.consume_launch(LaunchId("first"), "ada", "", MINUTE)
    assert used is not None
    assert used.image == image()


async def test_a_state_changes_once_and_is_told_in_the_same_moment(store: Store, other: Store) -> None:
    await store.create_launch(a_launch("first"))
    starting = {LaunchState.STARTING}
    won = await at_once(
        [
            (store, other)[n % 2].move_launch(
                LaunchId("first"), starting, LaunchState.FAILED, failure=str(n), event=LAST
            )
            for n in range(20)
        ]
    )
    assert won.count(True) == 1
    stored = await other.get_launch(LaunchId("first"))
    assert stored is not None
    assert stored.failure == str(won.index(True))
    page = await other.read_events(launch_stream(stored.id), 0, 10)
    assert ([event.text for event in page.events], page.finished) == ([LAST.text], True)


async def test_what_is_stored_comes_back_as_it_was(store: Store, other: Store) -> None:
    launch = a_launch("first", urlpath="lab/tree/a b.ipynb?x=“y”", build_id=BuildId("one"), failure="no")
    await store.create_launch(launch)
    assert await other.get_launch(launch.id) == launch
    assert [one.id for one in await other.recent_launches("ada")] == ["first"]
    assert await other.launches_in({LaunchState.STARTING}) == [launch]
    job = await joined(store)
    build = await other.get_build(job.build_id)
    assert build is not None
    assert (build.job, build.requested_by, build.status) == (job, "ada", BuildStatus.QUEUED)


# the schema


def test_migrations_make_what_the_tables_say(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new.sqlite'}"
    assert upgrade(url) == "The database went from revision none to 0005."
    assert re.fullmatch(r"The database is at revision 0005 already\.", upgrade(url))
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


async def test_a_database_of_another_revision_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    file = tmp_path / "old.sqlite"
    url = f"sqlite:///{file}"
    with closing(sqlite3.connect(file)) as old:
        old.execute("create table precious (word text)")
        old.execute("insert into precious values ('kept')")
        old.commit()
    with pytest.raises(
        OldSchema, match=r"is at revision none and this version wants 0005\. .*replay-build-service upgrade-db"
    ):
        async with open_database(url):
            pass
    assert not list(tmp_path.glob("*.backup")), "looking changes nothing"
    told = upgrade(url)
    (backup,) = tmp_path.glob("old.sqlite.*.backup")
    assert str(backup) in told
    with closing(sqlite3.connect(backup)) as kept:
        assert kept.execute("select * from precious").fetchall() == [("kept",)]
    async with open_database(url) as engine:
        assert await Store(engine).unfinished_builds() == []


# personal data


async def test_every_field_that_holds_a_person_says_what_for_and_how_long(store: Store, tmp_path: Path) -> None:
    who = "somebody-7f3a"
    await store.join_build(a_job("one"), who)
    await store.create_launch(a_launch("first", user=who, server_name=f"{who}-server", urlpath=f"{who}.ipynb"))
    ready = NewEvent(EventKind.PHASE, Phase.READY, f"/user/{who}/lab", datetime.now(UTC))
    await store.move_launch(LaunchId("first"), {LaunchState.STARTING}, LaunchState.RUNNING, event=ready)
    found = set()
    with closing(sqlite3.connect(tmp_path / "replay.sqlite")) as database:
        for table in Base.metadata.tables.values():
            for column in table.columns:
                rows = database.execute(f'select 1 from "{table.name}" where "{column.name}" like ?', [f"%{who}%"])
                if rows.fetchone():
                    found.add(f"{table.name}.{column.name}")
                    assert isinstance(column.info.get("personal"), Personal), f"{table.name}.{column.name}"
    assert found == {
        "active_servers.server_name", "active_servers.user", "builds.requested_by", "events.text",
        "launches.server_name", "launches.urlpath", "launches.user",
    }  # fmt: skip


def test_the_page_about_personal_data_is_what_the_tables_say() -> None:
    assert (ROOT / "docs" / "personal-data.md").read_text() == personal.render()
