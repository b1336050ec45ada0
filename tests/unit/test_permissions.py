"""Policies and rulings where they count: at the consent, when a launch is stored, and when its server starts."""

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from replay_build_service import lifetimes as lifetimes_module
from replay_build_service import starts as starts_module
from replay_build_service.db import Store
from replay_build_service.domain import (
    Launch,
    LaunchId,
    LaunchState,
    Person,
    Server,
    ServerStatus,
    launch_stream,
)
from replay_build_service.errors import BadLink, LimitReached, NotPermitted, SourceFault, TermsNotAgreed
from replay_build_service.lifetimes import in_words
from replay_build_service.policy_values import Feature, FeatureState, Limits, RepositoryPattern, Resources, VOPolicy
from replay_build_service.records import Action, Decision, Effect, RepositoryRule, StandingEvent
from replay_build_service.rulings import Block, PreparedEvent, Terms
from replay_build_service.wishes import Wish
from tests.unit.core_fakes import FakeHub, House, a_house, image

pytestmark = pytest.mark.usefixtures("quick_starts")

ADA = Person("ada", frozenset({"vo.one"}))
BORIS = Person("boris", frozenset({"vo.one"}))
IN_BOTH = Person("ada", frozenset({"vo.one", "vo.two"}))
REPO = "git/https%3A%2F%2Fgit.example.org%2Fhello/HEAD"
TERMS = Terms("1", "Be kind.")
TOKEN, DATAHUB = Feature("token", "An access token"), Feature("datahub", "Your spaces")


def policy(vo: str = "vo.one", **changes: Any) -> VOPolicy:
    return replace(VOPolicy(vo, Resources()), **changes)


def wish(name: str = "hello", **more: Any) -> Wish:
    return Wish(f"git/https%3A%2F%2Fgit.example.org%2F{name}/HEAD", **more)


def decision(vo: str = "vo.one") -> Decision:
    return Decision(vo, "mona", Action.DENY_REPOSITORY, "x")


async def block(store: Store, user: str) -> None:
    assert await store.put_block(Block(user, "Mining"), decision(), 10)


async def deny(store: Store, pattern: str) -> None:
    rule = RepositoryRule("1", pattern, Effect.DENY, "", "mona", datetime.now(UTC))
    assert await store.add_rule(rule, decision(), 10)


async def running(house: House, person: Person = ADA, name: str = "hello") -> Launch:
    """A launch that has become a server."""
    launch = await house.launches.create(person, wish(name))
    if launch.state is LaunchState.BUILDING:
        (await house.builder.next(len(house.builder.jobs) or 1)).end(image(name))
    await house.texts(launch_stream(launch.id))
    found = await house.store.get_launch(launch.id)
    assert found is not None
    assert found.state is LaunchState.RUNNING, found.failure
    return found


# repositories and people


@pytest.mark.parametrize("pattern", ["git.example.org/hello", "GIT.example.org/HELLO.git/", "git.example.org/**", "**"])
async def test_what_a_policy_denies_is_not_launched_however_it_is_spelled(store: Store, pattern: str) -> None:
    denied = (RepositoryPattern.parse(pattern),)
    async with a_house(store, policies=[policy(denied=denied)]) as house:
        for repo in (REPO, REPO.replace("hello", "hello.git"), REPO.replace("git.example", "GIT.example")):
            with pytest.raises(NotPermitted, match=r"The policy of vo\.one denies git\.example\.org/hello"):
                await house.launches.create(ADA, Wish(repo))
            consent = await house.launches.consent(ADA, repo)
            assert "The policy of vo.one denies" in consent.offers[0].refusal
        assert await store.recent_launches("ada") == []
        assert house.builder.jobs == []


async def test_what_managers_decide_counts_at_once_and_for_their_vo_alone(store: Store) -> None:
    async with a_house(store) as house:
        await deny(store, "git.example.org/hello")
        with pytest.raises(NotPermitted, match=r"The managers of vo\.one deny"):
            await house.launches.create(ADA, wish())
        consent = await house.launches.consent(IN_BOTH, REPO)
        assert [bool(offer.refusal) for offer in consent.offers] == [True, False]
        assert consent.chosen == "vo.two", "what cannot be had is not ticked"
        assert (await house.launches.create(IN_BOTH, wish(vo="vo.two"))).vo == "vo.two"
        await block(store, "boris")
        with pytest.raises(
            NotPermitted, match=r"blocked launches of boris, until they lift it\. Their reason: Mining\."
        ):
            await house.launches.create(BORIS, wish("another"))


@pytest.mark.parametrize("lost", ["block", "denial", "membership"])
async def test_a_server_does_not_start_of_what_is_not_allowed_any_more(store: Store, lost: str) -> None:
    """Between the consent and the start lies a build: half an hour, in which managers and Check-in may decide otherwise."""
    async with a_house(store) as house:
        launch = await house.launches.create(ADA, wish())
        build = await house.builder.next()
        groups = ADA.groups
        match lost:
            case "block":
                await block(store, "ada")
            case "denial":
                await deny(store, "git.example.org/*")
            case _:
                groups = frozenset({"another"})

        async def spawn(user: str, server_name: str, launch_id: LaunchId) -> None:
            with pytest.raises(NotPermitted) as refused:
                await house.launches.plan(launch_id, user, server_name, groups)
            house.hub.servers.clear()
            house.hub.messages = [starts_module.StartProgress(refused.value.sentence, failed=True)]

        house.hub.spawn = spawn
        build.end(image())
        await house.texts(launch_stream(launch.id))
        ended = await store.get_launch(launch.id)
        assert ended is not None
        assert (ended.state, ended.consumed_at) == (LaunchState.FAILED, None)
        assert ended.failure is not None
        assert re.search("blocked launches|managers of vo.one deny|in no virtual organisation", ended.failure)


# the VO


async def test_the_choice_of_a_vo_is_remembered_and_is_in_the_record(store: Store) -> None:
    async with a_house(store) as house:
        assert (await house.launches.consent(IN_BOTH, REPO)).chosen == "vo.one"
        launch = await house.launches.create(IN_BOTH, wish(vo="vo.two"))
        assert (await house.launches.consent(IN_BOTH, REPO)).chosen == "vo.two"
        assert (await house.launches.permissions.notices(IN_BOTH))[0].vo == "vo.two"
        kept = await store.get_launch(launch.id)
        assert kept is not None
        assert kept.vo == "vo.two"
        # Whoever is not in it any more is not offered it.
        assert (await house.launches.consent(ADA, REPO)).chosen == "vo.one"


# terms of use


async def test_terms_are_asked_for_once_per_version_and_stored_before_the_launch(store: Store) -> None:
    async with a_house(store, policies=[policy(terms=TERMS)]) as house:
        assert (await house.launches.consent(ADA, REPO)).offers[0].terms == TERMS
        for agreed in (None, "", "0", "2", "Be kind."):
            with pytest.raises(TermsNotAgreed) as asked:
                await house.launches.create(ADA, wish(terms=agreed))
            assert (asked.value.version, asked.value.text) == ("1", "Be kind.")
        assert await store.recent_launches("ada") == []
        launch = await house.launches.create(ADA, wish(terms="1"))
        agreed_at = await store.agreed_at("ada", "vo.one", "1")
        assert agreed_at is not None
        assert agreed_at <= launch.created_at
        assert (await house.launches.consent(ADA, REPO)).offers[0].terms is None
        (await house.builder.next()).end(image())
        await house.texts(launch_stream(launch.id))
        await house.launches.stop_server(ADA)
        await house.launches.create(ADA, wish())
    async with a_house(store, policies=[policy(terms=Terms("2", "Be kind. Cite us."))]) as house:
        offer = (await house.launches.consent(ADA, REPO)).offers[0]
        assert offer.terms is not None
        assert offer.terms.version == "2"


async def test_a_spawn_that_names_a_repository_agrees_to_nothing(store: Store) -> None:
    async with a_house(store, policies=[policy(terms=TERMS)]) as house:
        with pytest.raises(TermsNotAgreed):
            await house.launches.create_now(ADA, wish())


# features


async def test_features_are_what_the_policy_offers_and_the_person_chose(store: Store) -> None:
    states = {"token": FeatureState.PRESELECTED, "datahub": FeatureState.FORBIDDEN}
    async with a_house(store, policies=[policy(features=states)], features=(TOKEN, DATAHUB)) as house:
        offer = (await house.launches.consent(ADA, REPO)).offers[0]
        assert offer.features == ((TOKEN, True),)
        with pytest.raises(NotPermitted, match=r"The policy of vo\.one forbids “Your spaces”\. Launch without it\."):
            await house.launches.create(ADA, wish(features=("datahub",)))
        with pytest.raises(BadLink, match=r"no feature “root”\. These there are: datahub, token\."):
            await house.launches.create(ADA, wish(features=("root",)))
        launch = await house.launches.create(ADA, wish(features=("token", "token")))
        assert launch.features == ("token",)
        kept = await store.get_launch(launch.id)
        assert kept is not None
        assert kept.features == ("token",)


async def test_what_a_policy_does_not_name_is_offered_and_not_ticked(store: Store) -> None:
    async with a_house(store, features=(TOKEN,)) as house:
        assert (await house.launches.consent(ADA, REPO)).offers[0].features == ((TOKEN, False),)


# limits


async def test_a_limit_counts_what_there_is_and_not_what_the_record_still_has(store: Store) -> None:
    """A server that a culler ended says nothing to the service: it must not keep others out."""
    async with a_house(store, policies=[policy(limits=Limits(servers_per_repository=1))]) as house:
        first = await running(house)
        with pytest.raises(LimitReached, match=r"has 1 server, on their way or running, and vo\.one allows at most 1"):
            await house.launches.create(BORIS, wish())
        house.hub.servers.clear()
        house.launches.lifetimes._tidied.clear()  # pyright: ignore[reportPrivateUsage] - as if seconds had gone by
        assert (await house.launches.create(BORIS, wish())).state is LaunchState.STARTING
        ended = await store.get_launch(first.id)
        assert ended is not None
        assert ended.state is LaunchState.ENDED


async def test_a_full_vo_does_not_make_the_hub_answer_for_each_who_asks(store: Store) -> None:
    class Counting(FakeHub):
        asked = 0

        async def server(self, user: str, server_name: str) -> Server:
            self.asked += user == "ada"
            return await super().server(user, server_name)

    hub = Counting()
    async with a_house(store, hub=hub, policies=[policy(limits=Limits(servers=1))]) as house:
        await running(house)
        hub.asked = 0
        people = [Person(f"p{number}", frozenset({"vo.one"})) for number in range(20)]
        answers = await asyncio.gather(
            *(house.launches.create(person, wish()) for person in people), return_exceptions=True
        )
        assert all(isinstance(answer, LimitReached) for answer in answers)
        assert hub.asked == 1


async def test_a_hub_that_does_not_answer_frees_nobodys_place(store: Store) -> None:
    async with a_house(store, policies=[policy(limits=Limits(servers_per_repository=1))]) as house:
        first = await running(house)
        house.hub.faults["server"] = [SourceFault("The hub does not answer."), SourceFault("The hub does not answer.")]
        with pytest.raises(SourceFault):
            await house.launches.create(BORIS, wish())
        kept = await store.get_launch(first.id)
        assert kept is not None
        assert kept.state is LaunchState.RUNNING


async def test_builds_of_a_person_are_limited_by_the_policy(store: Store) -> None:
    async with a_house(store, policies=[policy(limits=Limits(builds_per_person=1))], at_once=5) as house:
        first = await house.launches.create(ADA, wish("one"))
        await house.builder.next()
        second = await house.launches.create(ADA, wish("two"))
        assert second.state is LaunchState.CHOOSING, "it begins no build yet"
        with pytest.raises(LimitReached, match="1 build that you asked for is under way"):
            await house.launches.replace(ADA, second.id, first.id)
        kept = await store.get_launch(first.id)
        assert kept is not None
        assert kept.state is LaunchState.BUILDING


# events


@pytest.mark.parametrize(
    ("groups", "repo", "is_exempt"),
    [
        ({"vo.one"}, REPO, True),
        ({"vo.one"}, REPO.replace("hello", "hello.git"), True),
        ({"vo.two"}, REPO, False),
        ({"vo.one"}, REPO.replace("hello", "another"), False),
        ({"vo.one"}, "no link", False),
        ({"vo.three"}, REPO, False),
    ],
)
async def test_people_of_an_event_are_exempt_from_limits_of_rates(
    store: Store, groups: set[str], repo: str, is_exempt: bool
) -> None:
    now = datetime.now(UTC)
    event = PreparedEvent("1", "Course", REPO, now - timedelta(hours=1), now + timedelta(hours=1), 30)
    assert await store.add_event(StandingEvent(event, "", "mona", now), decision(), 10)
    async with a_house(store) as house:
        person = Person("ada", frozenset(groups))
        assert await house.launches.permissions.is_prepared_for(person, repo) is is_exempt
        assert not await house.launches.permissions.is_prepared_for(person, repo, "gh/somebody/else/HEAD")


# ages


async def test_a_session_that_is_too_old_is_stopped_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_house(store, policies=[policy(maximum_age=timedelta(hours=8))]) as house:
        launch = await running(house)
        assert launch.ends_by is not None
        await house.launches.lifetimes.look()
        assert house.hub.stops == 0
        monkeypatch.setattr(lifetimes_module, "datetime", _Later)
        await house.launches.lifetimes.look()
        assert house.hub.stops == 1
        ended = await store.get_launch(launch.id)
        assert ended is not None
        assert ended.state is LaunchState.ENDED
        assert ended.failure == (
            "The session was stopped: vo.one lets a session run for 8 hours at most. You can launch the same again."
        )


class _Later(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + timedelta(hours=8, minutes=1)


async def test_a_session_without_an_age_and_another_persons_server_are_left_alone(store: Store) -> None:
    async with a_house(store) as house:
        launch = await running(house)
        assert launch.ends_by is None
        await house.launches.lifetimes.look(everything=True)
        assert house.hub.stops == 0
        house.hub.servers["ada", ""] = Server(ServerStatus.READY, "/user/ada/")  # an ordinary one, meanwhile
        await house.launches.lifetimes.look(everything=True)
        assert house.hub.stops == 0
        ended = await store.get_launch(launch.id)
        assert ended is not None
        assert ended.state is LaunchState.ENDED


async def test_a_hub_that_does_not_answer_is_asked_again_later(store: Store) -> None:
    async with a_house(store, policies=[policy(maximum_age=timedelta(microseconds=1))]) as house:
        launch = await running(house)
        house.hub.faults["server"] = [SourceFault("The hub does not answer.")]
        await house.launches.lifetimes.look()
        kept = await store.get_launch(launch.id)
        assert kept is not None
        assert kept.state is LaunchState.RUNNING
        await house.launches.lifetimes.look()
        assert house.hub.stops == 1


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(hours=8), "8 hours"),
        (timedelta(minutes=90), "1 hour and 30 minutes"),
        (timedelta(days=2, seconds=3), "2 days and 3 seconds"),
        (timedelta(days=1, hours=2, minutes=3), "1 day and 2 hours"),
        (timedelta(0), "0 seconds"),
    ],
)
def test_a_span_in_words(span: timedelta, words: str) -> None:
    assert in_words(span) == words


# explanations


async def test_an_explanation_is_what_a_launch_comes_to(store: Store) -> None:
    policies = [policy(terms=TERMS, limits=Limits(servers_per_repository=1)), policy("vo.two")]
    async with a_house(store, policies=policies) as house:
        explain = house.launches.permissions.explain
        assert (await explain(ADA, REPO)).deciding.name == "terms of use"
        await store.agree("ada", "vo.one", "1")
        await store.agree("boris", "vo.one", "1")
        assert (await explain(ADA, REPO)).is_allowed
        await running(house)
        assert (await explain(BORIS, REPO)).deciding.name == "limits"
        assert (await explain(ADA, REPO)).is_allowed, "hers would go for it"
        await block(store, "boris")
        assert (await explain(BORIS, REPO)).deciding.name == "blocks by managers"
        assert (await explain(IN_BOTH, REPO)).vo is None
        assert (await explain(IN_BOTH, REPO, "vo.two")).is_allowed
        with pytest.raises(BadLink):
            await explain(ADA, "no link")
