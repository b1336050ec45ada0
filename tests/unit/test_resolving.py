"""What a link leads to while its source does not answer: what is offered, to whom, and what never is."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from replay_build_service.db import Store
from replay_build_service.domain import (
    BuildId,
    BuildJob,
    BuildRecipe,
    ImageName,
    LaunchState,
    Person,
    ResolvedRef,
)
from replay_build_service.errors import (
    BadLink,
    NotFound,
    NotPermitted,
    OriginRefused,
    RefNotFound,
    ReplayError,
    RepositoryNotFound,
    SourceFault,
)
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.policy_values import RepositoryPattern, Resources, VOPolicy
from replay_build_service.wishes import Wish
from tests.unit.core_fakes import FakeBuilder, FakeProvider, House, a_house, image
from tests.unit.test_launches import ADA, BORIS, running, settled, wish

pytestmark = pytest.mark.hub_independent

GONE = RepositoryNotFound("There is no public repository at git.example.org/hello. It is gone, private or misspelt.")
SILENT = SourceFault("git.example.org could not be asked. Try again later.")
OLD, NEW = "a" * 40, "b" * 40
LINK = "git/https%3A%2F%2Fgit.example.org%2Fhello"


async def built(house: House, provider: FakeProvider, fault: ReplayError | None) -> None:
    """One session of it has been, and from then on its source says that."""
    await running(house, BORIS)
    provider.fault = fault


@pytest.mark.parametrize(("fault", "is_gone"), [(GONE, True), (SILENT, False)])
async def test_what_was_built_is_offered_by_name_and_runs_once_that_is_agreed_to(
    store: Store, fault: ReplayError, is_gone: bool
) -> None:
    provider = FakeProvider()
    async with a_house(store, provider=provider) as house:
        before = datetime.now(UTC)
        await built(house, provider, fault)
        consent = await house.launches.consent(ADA, f"{LINK}/HEAD")
        assert consent.unanswered is not None
        assert (consent.unanswered.error, consent.unanswered.is_gone) == (fault, is_gone)
        assert before <= consent.unanswered.last_at <= datetime.now(UTC)
        assert (consent.is_built, consent.resolved.version, consent.resolved.spec.ref) == (True, OLD, "HEAD")
        launch = await house.launches.create(ADA, wish(version=OLD))
        assert (launch.resolved.version, launch.resolved.spec.ref, launch.image) == (OLD, "HEAD", image())
        assert (await settled(house, launch)).state is LaunchState.RUNNING
        assert len(house.builder.jobs) == 1


async def test_a_source_that_answers_is_believed_and_nothing_is_said(store: Store) -> None:
    provider = FakeProvider()
    async with a_house(store, provider=provider) as house:
        await built(house, provider, SILENT)
        provider.fault, provider.branches["HEAD"] = None, NEW
        consent = await house.launches.consent(ADA, f"{LINK}/HEAD")
        assert (consent.unanswered, consent.resolved.version, consent.is_built) == (None, NEW, False)


async def test_nobody_gets_an_old_commit_who_has_not_named_it(store: Store) -> None:
    provider = FakeProvider()
    async with a_house(store, provider=provider) as house:
        await built(house, provider, GONE)
        for version in (None, "HEAD"):
            with pytest.raises(RepositoryNotFound, match="gone, private"):
                await house.launches.create(ADA, wish(version=version))
            with pytest.raises(RepositoryNotFound, match="gone, private"):
                await house.launches.create_now(ADA, wish(version=version))
        with pytest.raises(RepositoryNotFound):
            await house.launches.create(ADA, wish(version=NEW))
        assert await store.recent_launches("ada") == []


async def test_a_link_that_names_a_commit_for_good_needs_no_source_to_say_so(store: Store) -> None:
    provider = FakeProvider()
    async with a_house(store, provider=provider) as house:
        await built(house, provider, GONE)
        assert (await house.launches.consent(ADA, f"{LINK}/{OLD}")).unanswered is not None
        planned = await house.launches.create_now(ADA, Wish(f"{LINK}/{OLD}"))
        assert (planned.image, planned.launch.resolved.spec.ref) == (image(), OLD)


@pytest.mark.parametrize(
    "answer",
    [
        RefNotFound("hello has no branch, tag or commit “HEAD”. Did you mean main?", ("main",)),
        OriginRefused("git.example.org is not among the hosts that this Replay fetches from."),
        BadLink("The address is not a URL."),
    ],
    ids=["the branch was deleted", "the host may not be asked any more", "no link"],
)
async def test_what_is_so_is_told_and_nothing_takes_its_place(store: Store, answer: ReplayError) -> None:
    provider = FakeProvider()
    async with a_house(store, provider=provider) as house:
        await built(house, provider, answer)
        with pytest.raises(type(answer)) as caught:
            await house.launches.consent(ADA, f"{LINK}/HEAD")
        assert caught.value is answer
        with pytest.raises(type(answer)):
            await house.launches.create(ADA, wish(version=OLD))


@pytest.mark.parametrize("link", [f"{LINK}/main", "git/https%3A%2F%2Fgit.example.org%2Fother/HEAD", f"{LINK}/{NEW}"])
async def test_another_link_has_led_nowhere_yet(store: Store, link: str) -> None:
    provider = FakeProvider()
    async with a_house(store, provider=provider) as house:
        await built(house, provider, GONE)
        with pytest.raises(RepositoryNotFound):
            await house.launches.consent(ADA, link)


@pytest.mark.parametrize("ref", ["HEAD", "c" * 40], ids=["a branch", "a commit"])
@pytest.mark.parametrize("is_silent_already", [False, True])
async def test_a_commit_that_somebody_chose_is_not_what_a_link_led_to(
    store: Store, ref: str, is_silent_already: bool
) -> None:
    """Hosts serve commits of forks under a repository's name, so a stranger could choose one of their own."""
    provider = FakeProvider()
    async with a_house(store, provider=provider) as house:
        if is_silent_already:
            await a_build(store, 1, NEW, NEW)
            provider.fault = SILENT
        launch = await house.launches.create(BORIS, Wish(f"{LINK}/{ref}", version=NEW))
        assert (launch.resolved.version, launch.resolved.spec.ref) == (NEW, NEW)
        if not is_silent_already:
            (await house.builder.next()).end(image())
        assert (await settled(house, launch)).state is LaunchState.RUNNING
        provider.fault = GONE
        with pytest.raises(RepositoryNotFound):
            await house.launches.consent(ADA, f"{LINK}/{ref}")
        assert (await house.launches.consent(ADA, f"{LINK}/{NEW}")).resolved.version == NEW


async def test_a_version_that_is_named_and_is_the_links_own_stays_under_it(store: Store) -> None:
    """Over the API, without a look at the page before."""
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, wish(version=OLD))
        assert (launch.resolved.version, launch.resolved.spec.ref) == (OLD, "HEAD")


async def test_an_image_that_is_gone_too_is_not_offered_and_not_built(store: Store) -> None:
    provider, builder = FakeProvider(), FakeBuilder()
    async with a_house(store, builder, provider=provider) as house:
        await built(house, provider, GONE)
        builder.gone.add(image())
        with pytest.raises(RepositoryNotFound):
            await house.launches.consent(ADA, f"{LINK}/HEAD")
        with pytest.raises(RepositoryNotFound):
            await house.launches.create(ADA, wish(version=OLD))
        assert len(builder.jobs) == 1


async def test_what_an_earlier_recipe_made_runs_and_what_another_builder_made_does_not(store: Store) -> None:
    provider, builder = FakeProvider(), FakeBuilder()
    async with a_house(store, builder, provider=provider) as house:
        await built(house, provider, GONE)
        builder.recipe = BuildRecipe("fake", (("base_image", "newer"),))
        launch = await house.launches.create(ADA, wish(version=OLD))
        assert (launch.image, launch.image_name.tag.endswith(BuildRecipe("fake").digest[:12])) == (image(), True)
        assert (await settled(house, launch)).state is LaunchState.RUNNING
        builder.recipe = BuildRecipe("another")
        with pytest.raises(RepositoryNotFound):
            await house.launches.consent(ADA, f"{LINK}/HEAD")


async def test_a_policy_holds_whether_the_source_answers_or_not(store: Store) -> None:
    provider = FakeProvider()
    denied = VOPolicy("vo.one", Resources(), denied=(RepositoryPattern.parse("git.example.org/hello"),))
    async with a_house(store, provider=provider) as house:
        await built(house, provider, GONE)
    async with a_house(store, provider=provider, policies=[denied]) as house:
        consent = await house.launches.consent(ADA, f"{LINK}/HEAD")
        assert [bool(offer.refusal) for offer in consent.offers] == [True]
        with pytest.raises(NotPermitted):
            await house.launches.create(ADA, wish(version=OLD))
        with pytest.raises(NotPermitted):
            await house.launches.create(ADA, Wish(f"{LINK}/{OLD}"))


# Software Heritage


class FakeArchive:
    """Has one commit."""

    name = "swh"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.has: str | None = NEW

    async def resolve(self, spec: RepoSpec) -> ResolvedRef:
        self.asked.append(spec.locator)
        if spec.locator != f"swh:1:rev:{self.has}":
            raise RepositoryNotFound("Software Heritage does not have that.")
        return ResolvedRef(Repository(spec.url), spec, f"swh+{spec.url}", "c" * 40)


MISSING = RefNotFound(f"The repository hello has no such commit as {NEW}.", ("main",))


@pytest.mark.parametrize("fault", [GONE, MISSING], ids=["the repository is gone", "the commit is gone"])
async def test_a_missing_commit_is_named_where_it_is_archived(store: Store, fault: ReplayError) -> None:
    provider, archive = FakeProvider(), FakeArchive()
    async with a_house(store, provider=provider, archive=archive) as house:
        await built(house, provider, fault)
        for sha in (NEW, NEW.upper()):
            with pytest.raises(type(fault), match=re.escape(str(fault))) as caught:
                await house.launches.consent(ADA, f"{LINK}/{sha}")
            assert isinstance(caught.value, NotFound)
            assert caught.value.elsewhere == f"swh/swh:1:rev:{NEW}"
            assert getattr(caught.value, "nearest", ()) == getattr(fault, "nearest", ())
        assert (await house.launches.consent(ADA, caught.value.elsewhere)).resolved.spec.provider == "swh"
        assert getattr(fault, "elsewhere", "") == "", "what the provider keeps is as it was"
        assert len(house.builder.jobs) == 1, "nothing is built before somebody agrees"


async def test_the_archive_is_asked_for_commits_that_are_missing_and_for_nothing_else(store: Store) -> None:
    provider, archive = FakeProvider(), FakeArchive()
    async with a_house(store, provider=provider, archive=archive) as house:
        await built(house, provider, None)
        await house.launches.consent(ADA, f"{LINK}/{NEW}")
        for fault, link in [(MISSING, f"{LINK}/HEAD"), (SILENT, f"{LINK}/{NEW}"), (GONE, f"{LINK}/main")]:
            provider.fault = fault
            with pytest.raises(type(fault)):
                await house.launches.consent(ADA, link)
        provider.fault = GONE
        await house.launches.consent(ADA, f"{LINK}/{OLD}")
        with pytest.raises(RepositoryNotFound):
            await house.launches.create(ADA, Wish(f"{LINK}/{NEW}"))
        assert archive.asked == []
        archive.has = None
        with pytest.raises(RepositoryNotFound) as caught:
            await house.launches.consent(ADA, f"{LINK}/{NEW}")
        assert (caught.value, len(archive.asked)) == (GONE, 1)


# which version is the last


async def a_build(store: Store, number: int, version: str, ref: str = "HEAD", **more: Any) -> None:
    """An image that somebody had built ahead: no launch is of it."""
    spec, recipe = RepoSpec("git", "https://git.example.org/hello", ref), BuildRecipe("fake")
    resolved = ResolvedRef(Repository(spec.locator), spec, spec.locator, version)
    job = BuildJob(BuildId(f"{number}"), ImageName.of(resolved, recipe), resolved, recipe)
    assert await store.join_build(job, "ada") is not None
    assert await store.finish_build(job.build_id, more.get("outcome", image(f"{number}")), "It ended.")


async def test_the_last_is_what_was_launched_or_built_last_and_has_an_image(store: Store) -> None:
    spec = RepoSpec("git", "https://git.example.org/hello", "HEAD")
    assert await store.last_built(spec, "fake") is None
    await a_build(store, 1, OLD)
    await a_build(store, 2, "c" * 40, "main")
    first = await store.last_built(spec, "fake")
    assert first is not None
    assert (first[0].version, first[1].tag[:40]) == (OLD, OLD)
    assert abs(datetime.now(UTC) - first[2]) < timedelta(minutes=1)
    await a_build(store, 3, NEW)
    second = await store.last_built(spec, "fake")
    assert second is not None
    assert second[0].version == NEW
    provider = FakeProvider()
    async with a_house(store, provider=provider) as house:
        # The branch was moved back: the newest build is not what the link led to last.
        await house.launches.create(Person("cleo", frozenset({"vo.one"})), wish())
    third = await store.last_built(spec, "fake")
    assert third is not None
    assert third[0].version == OLD
    assert await store.last_built(RepoSpec(spec.provider, spec.locator, NEW), "fake") == second
    await store.forget_image(third[1], image("1"))
    assert await store.last_built(spec, "fake") == second
