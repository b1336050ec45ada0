"""A second repository whose files a session gets: resolved, permitted, pinned, on record, and brought before the server starts."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import stamina

from replay_build_service import awaiting as awaiting_module
from replay_build_service.db import Store
from replay_build_service.domain import Launch, LaunchState, Person, launch_stream
from replay_build_service.errors import BadLink, NotFound, NotPermitted, RefNotFound, SourceFault
from replay_build_service.links import Repository
from replay_build_service.pasting import content_of, read
from replay_build_service.policy_values import RepositoryPattern, Resources, VOPolicy
from replay_build_service.records import Action, Decision, Effect, RepositoryRule
from replay_build_service.web.share import link_to, share_links
from replay_build_service.wishes import Wish
from tests.unit.core_fakes import FakeContents, FakeProvider, House, a_house, image, ref

pytestmark = pytest.mark.usefixtures("quick_starts")

ADA = Person("ada", frozenset({"vo.one"}))
ENVIRONMENT = "git/https%3A%2F%2Fgit.example.org%2Fhello/HEAD"
NOTES = "git/https%3A%2F%2Fgit.example.org%2Fnotes/HEAD"
NEW = "b" * 40


async def finished(house: House, **more: Any) -> Launch:
    """A launch of both at its end."""
    launch = await house.launches.create(ADA, Wish(ENVIRONMENT, **{"content": NOTES, **more}))
    if launch.state is LaunchState.BUILDING:
        (await house.builder.next()).end(image())
    await house.texts(launch_stream(launch.id))
    found = await house.store.get_launch(launch.id)
    assert found is not None
    return found


async def test_its_files_are_brought_before_the_server_starts_and_both_versions_are_on_record(store: Store) -> None:
    contents = FakeContents()
    async with a_house(store, contents=contents) as house:
        launch = await finished(house)
        assert launch.state is LaunchState.RUNNING
        assert [(one.repository.url, one.version) for one in contents.asked] == [
            ("https://git.example.org/notes", "a" * 40)
        ]
        assert launch.content == contents.asked[0]
        assert launch.urlpath == "lab/tree/notes", "its folder is what opens"
        texts = await house.texts(launch_stream(launch.id))
        fetched = f"Fetching git.example.org/notes at {'a' * 12}, which goes into a folder of your session."
        assert texts.index(fetched) < texts.index("Starting your server.")


async def test_a_new_commit_of_it_needs_no_build(store: Store) -> None:
    provider, contents = FakeProvider(), FakeContents()
    async with a_house(store, provider=provider, contents=contents) as house:
        await finished(house)
        await house.launches.stop_server(ADA)
        launch = await finished(house, content=NOTES.replace("HEAD", NEW))
        assert launch.state is LaunchState.RUNNING
        assert [one.version for one in contents.asked] == ["a" * 40, NEW]
        assert len(house.builder.jobs) == 1, "the environment was built once"


async def test_what_cannot_be_brought_ends_the_launch_with_the_reason(store: Store) -> None:
    contents = FakeContents(fault=SourceFault("git.example.org does not answer now."))
    async with a_house(store, contents=contents) as house:
        launch = await finished(house)
        assert (launch.state, launch.failure) == (LaunchState.FAILED, "git.example.org does not answer now.")
        assert house.hub.starts == [], "no server was asked for"


async def test_a_launch_that_is_given_up_meanwhile_ends_its_fetch_and_asks_for_no_server(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting_module, "LOOK_SECONDS", 0.01)
    contents = FakeContents(is_slow=True)
    async with a_house(store, contents=contents) as house:
        launch = await house.launches.create(ADA, Wish(ENVIRONMENT, content=NOTES))
        (await house.builder.next()).end(image())
        async with asyncio.timeout(10):
            await contents.was_asked.wait()
            await house.launches.give_up(ADA, launch.id)
            await contents.was_given_up.wait()
        found = await house.store.get_launch(launch.id)
        assert found is not None
        assert found.state is LaunchState.ENDED
        assert house.hub.starts == []


async def test_what_could_not_be_brought_says_nothing_against_the_image(store: Store) -> None:
    contents = FakeContents(fault=SourceFault("git.example.org does not answer now."))
    async with a_house(store, contents=contents) as house:
        await finished(house)
        house.builder.damaged.add(image())
        assert (await house.launches.consent(ADA, ENVIRONMENT)).is_built, "it is not looked at thoroughly"


async def test_a_server_that_starts_already_is_not_fetched_for_again_after_a_restart(
    store: Store, tmp_path: Path
) -> None:
    contents = FakeContents()
    async with a_house(store, contents=contents) as house:
        launch = await finished(house)
    with closing(sqlite3.connect(tmp_path / "replay.sqlite")) as database, database:
        database.execute("UPDATE launches SET state = 'starting' WHERE id = ?", [launch.id])
    async with a_house(store, contents=contents, hub=house.hub) as again:
        await again.launches.recover()
        async for attempt in stamina.retry_context(on=AssertionError, timeout=10, wait_max=0.05, attempts=None):
            with attempt:
                assert (await again.launches.get(ADA, launch.id)).state is LaunchState.RUNNING
    assert len(contents.asked) == 1


async def test_the_version_that_the_person_saw_is_what_comes(store: Store) -> None:
    provider, contents = FakeProvider(), FakeContents()
    async with a_house(store, provider=provider, contents=contents) as house:
        consent = await house.launches.consent(ADA, ENVIRONMENT, NOTES)
        assert consent.content is not None
        seen = consent.content.version
        assert seen == "a" * 40
        provider.branches["HEAD"] = NEW
        launch = await finished(house, version=consent.resolved.version, content_version=seen)
        assert launch.content is not None
        assert launch.content.version == seen
        assert launch.content.spec.ref == seen, "the link leads elsewhere by now, so it is on record by its version"
        with pytest.raises(BadLink, match="full SHA"):
            await house.launches.create(ADA, Wish(ENVIRONMENT, content=NOTES, content_version="main"))


async def test_other_content_is_another_launch_and_the_same_is_the_same(store: Store) -> None:
    async with a_house(store) as house:
        first = await house.launches.create(ADA, Wish(ENVIRONMENT, content=NOTES))
        again = await house.launches.create(ADA, Wish(ENVIRONMENT, content=NOTES))
        assert again.id == first.id
        alone = await house.launches.create(ADA, Wish(ENVIRONMENT, urlpath=first.urlpath))
        assert (alone.id != first.id, alone.state) == (True, LaunchState.CHOOSING)
        assert (await house.launches.consent(ADA, ENVIRONMENT, NOTES)).same_image
        assert not (await house.launches.consent(ADA, ENVIRONMENT)).same_image
        (await house.builder.next()).end(image())
        await house.texts(launch_stream(first.id))


async def test_policies_and_managers_rule_over_it_as_over_the_environment(store: Store) -> None:
    policy = VOPolicy("vo.one", Resources(), denied=(RepositoryPattern.parse("git.example.org/secret"),))
    secret = NOTES.replace("notes", "secret")
    async with a_house(store, policies=[policy]) as house:
        with pytest.raises(NotPermitted, match=r"denies git\.example\.org/secret"):
            await house.launches.create(ADA, Wish(ENVIRONMENT, content=secret))
        assert (
            "denies git.example.org/secret"
            in (await house.launches.consent(ADA, ENVIRONMENT, secret)).offers[0].refusal
        )
        launch = await house.launches.create(ADA, Wish(ENVIRONMENT, content=NOTES))
        rule = RepositoryRule("1", "git.example.org/notes", Effect.DENY, "", "mona", datetime.now(UTC))
        assert await store.add_rule(rule, Decision("vo.one", "mona", Action.DENY_REPOSITORY, "x"), 10)
        (await house.builder.next()).end(image())
        texts = await house.texts(launch_stream(launch.id))
        assert "The managers of vo.one deny git.example.org/notes" in texts[-1], "also when that is decided meanwhile"


async def test_what_is_missing_is_told_of_the_content(store: Store) -> None:
    provider = FakeProvider()
    provider.fault = RefNotFound("There is no branch “x”.", ("main",))
    async with a_house(store, provider=provider) as house:
        with pytest.raises(
            NotFound, match=r"^The second repository that this link names, after “content=”: There is no"
        ):
            await house.launches.resolving.content(NOTES)


# links


@pytest.mark.parametrize(
    ("query", "meant"),
    [
        ("content=gh/ada/notes/HEAD", "gh/ada/notes/HEAD"),
        ("content=gh%2Fada%2Fnotes%2FHEAD&urlpath=lab", "gh/ada/notes/HEAD"),
        ("urlpath=lab&content=zenodo/10.5281/zenodo.7", "zenodo/10.5281/zenodo.7"),
        # An address in it, encoded once or twice.
        ("content=git/https%3A%2F%2Fgit.example.org%2Fnotes/HEAD", NOTES),
        ("content=git/https%253A%252F%252Fgit.example.org%252Fnotes/HEAD", NOTES),
        ("content=git%2Fhttps%253A%252F%252Fgit.example.org%252Fnotes%2FHEAD", NOTES),
        ("content=", ""),
        ("contents=gh/ada/notes/HEAD", ""),
        ("", ""),
    ],
)
def test_what_a_link_names_as_its_content(query: str, meant: str) -> None:
    assert content_of(query) == meant


@pytest.mark.parametrize(
    "query",
    [
        "content=svn/x/y/z",
        "content=gh/ada",
        "content=gh/ada/notes/HEAD&content=gh/o/r/HEAD",
        "content=%FF",
        "content=gh/a/b/-x",
    ],
)
def test_what_is_no_content_says_so(query: str) -> None:
    with pytest.raises(BadLink, match="content="):
        content_of(query)


def test_a_link_with_content_is_pasted_and_shared_with_it() -> None:
    pasted = read(f"https://hub.example.org/v2/{ENVIRONMENT}?content=gh/ada/notes/main&urlpath=lab/tree/notes/a.ipynb")
    assert pasted.link == f"/v2/{ENVIRONMENT}?content=gh/ada/notes/main&urlpath=lab/tree/notes/a.ipynb"
    environment, notes = ref("hello"), ref("notes", NEW)
    link = link_to(environment, notes)
    assert link == f"/v2/{ENVIRONMENT}?content=git/https%253A%252F%252Fgit.example.org%252Fnotes/HEAD"
    assert content_of(link.partition("?")[2]) == NOTES, "what is shared means the same"
    asked, exact = share_links("https://hub.example.org", environment, "", notes)
    assert asked.url == f"https://hub.example.org{link}"
    assert exact.url.count("a" * 40) == exact.url.count(NEW) == 1


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://github.com/ada/rainfall-2", "rainfall-2"),
        ("https://doi.org/10.5281/zenodo.7", "zenodo.7"),
        ("https://git.example.org/a/%2E%2E%20b", "b"),
        ("https://git.example.org/%F0%9F%8C%A7", "repository"),
        ("https://git.example.org/" + "x" * 300, "x" * 100),
    ],
)
def test_what_its_folder_is_called(url: str, name: str) -> None:
    assert Repository(url).folder_name == name
    assert replace(ref(), repository=Repository(url)).repository.folder_name == name
