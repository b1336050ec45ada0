"""Limits are exact: counted in the transaction that takes the server, whoever else takes one in that moment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from replay_build_service.db import Store
from replay_build_service.domain import (
    EventKind,
    Launch,
    LaunchId,
    LaunchState,
    NewEvent,
    Phase,
    ResolvedRef,
)
from replay_build_service.errors import LimitReached
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.policy_values import (
    BuildCeiling,
    Ceilings,
    Counts,
    GPUs,
    Limits,
    RepositoryPattern,
    Resources,
)
from tests.unit.core_fakes import a_job_of, a_store, image, ref

pytestmark = pytest.mark.hub_independent

LAST = NewEvent(EventKind.PHASE, Phase.FAILED, "You launched something else instead.", datetime.now(UTC))
_T = TypeVar("_T")


@pytest.fixture
async def other(store: Store, tmp_path: Path) -> AsyncIterator[Store]:
    """The same file, opened again as another process would."""
    async with a_store(tmp_path) as opened:
        yield opened


def a_launch(user: str, name: str = "hello", vo: str = "vo.one", server_name: str = "", **changes: object) -> Launch:
    job = a_job_of("0", name)
    launch = Launch(
        id=LaunchId(f"{user}-{name}-{server_name}"[:32]),
        user=user,
        server_name=server_name,
        resolved=ref(name),
        image_name=job.image_name,
        vo=vo,
        urlpath="",
        state=LaunchState.STARTING,
        created_at=datetime.now(UTC),
        image=image(name),
    )
    return replace(launch, **changes)  # pyright: ignore[reportArgumentType]


async def outcomes(attempts: list[Awaitable[_T]]) -> tuple[list[_T], list[LimitReached]]:
    """All at once: what came of them, and the refusals."""
    found = await asyncio.gather(*attempts, return_exceptions=True)
    refused = [one for one in found if isinstance(one, LimitReached)]
    done = [one for one in found if not isinstance(one, BaseException)]
    assert len(refused) + len(done) == len(found), found
    return done, refused


async def test_thirty_at_once_take_exactly_as_many_servers_of_a_repository_as_there_may_be(
    store: Store, other: Store
) -> None:
    done, refused = await outcomes(
        [(store, other)[n % 2].create_launch(a_launch(f"p{n}"), Ceilings(repository=7)) for n in range(30)]
    )
    assert len(done) == 7
    assert len(refused) == 23
    assert {(one.most, one.count) for one in refused} == {(7, 7)}
    assert len(await store.launches_in(set(LaunchState))) == 7, "who is refused leaves nothing"


@pytest.mark.parametrize(
    "spelled",
    [
        "https://Git.Example.org/Course/X",
        "https://git.example.org/course/x.git",
        "https://git.example.org/course/x.GIT",
        "https://git.example.org/course/x.git/.git",
        "https://git.example.org/course//X/",
        "http://git.example.org/course/x",
    ],
)
async def test_no_spelling_of_a_repository_has_a_number_of_its_own(store: Store, spelled: str) -> None:
    def of(url: str) -> ResolvedRef:
        return ResolvedRef(Repository.of_url(url), RepoSpec("git", url, "HEAD"), url, "a" * 40)

    own = Limits(servers_of_repositories=((RepositoryPattern.parse("git.example.org/course/x"), 1),))
    first, other = of("https://git.example.org/course/x"), of(spelled)
    await store.create_launch(a_launch("ada", resolved=first), own.ceilings(first.repository))
    with pytest.raises(LimitReached):
        await store.create_launch(a_launch("boris", resolved=other), own.ceilings(other.repository))
    another = of(f"{spelled.rstrip('/')}2")
    await store.create_launch(a_launch("boris", resolved=another), own.ceilings(another.repository))


async def test_a_repositorys_servers_count_for_whichever_vo_they_run(store: Store) -> None:
    await store.create_launch(a_launch("ada", vo="vo.one"), Ceilings(repository=1))
    with pytest.raises(LimitReached, match=r"has 1 server, on their way or running, and vo\.two allows at most 1"):
        await store.create_launch(a_launch("boris", vo="vo.two"), Ceilings(repository=1))
    await store.create_launch(a_launch("boris", "another", vo="vo.two"), Ceilings(repository=1))


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        (LaunchState.BUILDING, True),
        (LaunchState.STARTING, True),
        (LaunchState.RUNNING, True),
        (LaunchState.CHOOSING, False),
        (LaunchState.ENDED, False),
        (LaunchState.FAILED, False),
    ],
)
async def test_what_runs_or_is_on_its_way_counts(store: Store, state: LaunchState, counts: bool) -> None:
    first = await store.create_launch(a_launch("ada"))
    if state is LaunchState.CHOOSING:
        await store.move_launch(first.id, {first.state}, LaunchState.ENDED)
        await store.create_launch(a_launch("ada", state=state, id=LaunchId("choosing")))
    else:
        await store.move_launch(first.id, {first.state}, state)
    assert (await store.counts(a_launch("boris"))).repository == int(counts)


async def test_servers_of_a_vo_and_of_a_person_are_counted_for_that_vo(store: Store, other: Store) -> None:
    done, _ = await outcomes(
        [(store, other)[n % 2].create_launch(a_launch(f"p{n}", f"r{n}"), Ceilings(vo=5)) for n in range(30)]
    )
    assert len(done) == 5
    done, _ = await outcomes(
        [
            (store, other)[n % 2].create_launch(
                a_launch("ada", f"r{n}", "vo.two", f"server-{n}"), Ceilings(vo=100, person=3)
            )
            for n in range(30)
        ]
    )
    assert len(done) == 3
    assert await store.counts(a_launch("ada", "x", "vo.two")) == Counts(person=3, vo=3)
    assert await store.counts(a_launch("ada", "x", "vo.one")) == Counts(person=0, vo=5)


async def test_who_replaces_their_own_server_needs_no_room_for_another(store: Store) -> None:
    tight = Ceilings(person=1, vo=1, repository=1)
    held = await store.create_launch(a_launch("ada"), tight)
    choosing = await store.create_launch(a_launch("ada", id=LaunchId("again"), urlpath="x"), tight)
    assert choosing.state is LaunchState.CHOOSING
    assert await store.take_server(choosing, held.id, LaunchState.BUILDING, LAST, tight)
    with pytest.raises(LimitReached):
        await store.create_launch(a_launch("boris"), tight)


async def test_a_refused_replacement_leaves_what_runs(store: Store) -> None:
    held = await store.create_launch(a_launch("ada", "other"))
    choosing = await store.create_launch(a_launch("ada"))
    await store.create_launch(a_launch("boris"))
    with pytest.raises(LimitReached):
        await store.take_server(choosing, held.id, LaunchState.BUILDING, LAST, Ceilings(repository=1))
    now = await store.holder("ada", "")
    assert now is not None
    assert (now.id, now.state) == (held.id, LaunchState.STARTING)
    kept = await store.get_launch(choosing.id)
    assert kept is not None
    assert kept.state is LaunchState.CHOOSING


async def test_replacements_at_once_are_counted_too(store: Store, other: Store) -> None:
    held = [await store.create_launch(a_launch(f"p{n}", f"r{n}")) for n in range(12)]
    choosing = [await store.create_launch(a_launch(f"p{n}")) for n in range(12)]
    done, refused = await outcomes(
        [
            (store, other)[n % 2].take_server(
                choosing[n], held[n].id, LaunchState.BUILDING, LAST, Ceilings(repository=5)
            )
            for n in range(12)
        ]
    )
    assert done == [True] * 5
    assert len(refused) == 7


async def test_a_persons_builds_are_counted_where_a_build_begins(store: Store, other: Store) -> None:
    ceiling = BuildCeiling(2, "vo.one")
    done, refused = await outcomes(
        [(store, other)[n % 2].join_build(a_job_of(f"b{n}", f"r{n}"), "ada", ceiling) for n in range(30)]
    )
    assert len(done) == 2
    assert {(one.most, one.count) for one in refused} == {(2, 2)}
    # Who joins a build that runs begins none, and each has their own number.
    (running, *_) = await store.unfinished_builds()
    name = running.job.resolved.repository.short.rpartition("/")[2]
    assert await store.join_build(a_job_of("again", name), "ada", ceiling) is not None
    assert await store.join_build(a_job_of("boris", "hers"), "boris", ceiling) is not None
    waiting = a_launch("ada", "third", state=LaunchState.BUILDING, image=None)
    with pytest.raises(LimitReached, match="2 builds that you asked for are under way"):
        await store.create_launch(waiting, Ceilings(builds=2))
    await store.create_launch(a_launch("ada", "third"), Ceilings(builds=2))  # is built


async def test_a_launch_keeps_what_its_server_got(store: Store) -> None:
    await store.create_launch(a_launch("ada", features=("token",)))
    got = Resources(2 << 30, 4 << 30, None, 2.0, GPUs("nvidia.com/gpu", 3))
    used = await store.consume_launch(LaunchId("ada-hello-"), "ada", "", timedelta(minutes=1), got, timedelta(hours=8))
    assert used is not None
    assert (used.features, used.maximum_age) == (("token",), timedelta(hours=8))
    assert used.ends_by is None, "it does not run yet"
    await store.move_launch(used.id, {LaunchState.STARTING}, LaunchState.RUNNING)
    session = await store.session("vo.one", used.id)
    assert session is not None
    assert (session.memory, session.cores, session.gpus) == (2 << 30, 2.0, 3)
    running = session.launch
    assert running.running_at is not None
    assert running.ends_by == running.running_at + timedelta(hours=8)


async def test_the_vo_chosen_last_and_the_terms_agreed_to_are_kept(store: Store, other: Store) -> None:
    assert await store.chosen_vo("ada") is None
    await store.choose_vo("ada", "vo.one")
    await store.choose_vo("ada", "vo.two")
    assert await other.chosen_vo("ada") == "vo.two"
    assert await other.agreed_at("ada", "vo.one", "1") is None
    before = datetime.now(UTC)
    await store.agree("ada", "vo.one", "1")
    first = await other.agreed_at("ada", "vo.one", "1")
    assert first is not None
    assert before <= first <= datetime.now(UTC)
    await asyncio.gather(*((store, other)[n % 2].agree("ada", "vo.one", "1") for n in range(10)))
    assert await store.agreed_at("ada", "vo.one", "1") == first, "the first time counts"
    assert await store.agreed_at("ada", "vo.one", "2") is None
    assert await store.agreed_at("boris", "vo.one", "1") is None
    assert await store.agreed_at("ada", "vo.two", "1") is None
