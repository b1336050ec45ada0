"""The rules, each in its place: what passes, what refuses, and what an explanation tells of it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from replay_build_service.domain import Person
from replay_build_service.errors import LimitReached, NotPermitted, ReplayError, TermsNotAgreed
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.policies import (
    LIMITS,
    MEMBERSHIP,
    Explanation,
    Outcome,
    PolicySet,
    Question,
    banner_of,
    decide,
    is_prepared,
    permit,
    refusal_before_terms,
    terms_of,
)
from replay_build_service.policy_values import Counts, Limits, RepositoryPattern, Resources, VOPolicy
from replay_build_service.rulings import Block, PreparedEvent, Terms, VORulings

pytestmark = pytest.mark.hub_independent

NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)
HELLO = Repository.of_url("https://github.com/octocat/hello")
ADA = Person("ada", frozenset({"vo.one", "some-group"}))
TERMS = Terms("2", "Be kind.")


def patterns(*texts: str) -> tuple[RepositoryPattern, ...]:
    return tuple(RepositoryPattern.parse(text) for text in texts)


def policy(**changes: Any) -> VOPolicy:
    return replace(VOPolicy("vo.one", Resources()), **changes)


def question(**changes: Any) -> Question:
    return replace(Question(ADA, HELLO, at=NOW), **changes)


CASES: dict[str, tuple[VOPolicy, VORulings, Question, str | None, str]] = {
    # policy, rulings, question → the rule that refuses, and something of its sentence
    "nothing said": (policy(), VORulings(), question(), None, ""),
    "denied": (
        policy(denied=patterns("github.com/octocat/*")),
        VORulings(),
        question(),
        "repositories that the policy denies",
        "The policy of vo.one denies github.com/octocat/hello (by “github.com/octocat/*”). The administrators can",
    ),
    "denied, by a manager's exemption all the same": (
        policy(denied=patterns("github.com/octocat/*")),
        VORulings(allowed=("github.com/octocat/hello",)),
        question(),
        "repositories that the policy denies",
        "The policy of vo.one denies",
    ),
    "another is denied": (policy(denied=patterns("github.com/evil/**")), VORulings(), question(), None, ""),
    "allowed": (policy(allowed=patterns("gh/OctoCat/Hello")), VORulings(), question(), None, ""),
    "not among the allowed": (
        policy(allowed=patterns("github.com/egi-federation/*")),
        VORulings(),
        question(),
        "repositories that the policy allows",
        "The policy of vo.one allows 1 pattern, and github.com/octocat/hello is not among them.",
    ),
    "not allowed, by a manager's exemption all the same": (
        policy(allowed=patterns("github.com/egi-federation/*")),
        VORulings(allowed=("github.com/octocat/hello",)),
        question(),
        "repositories that the policy allows",
        "is not among them",
    ),
    "managers deny": (
        policy(allowed=patterns("**")),
        VORulings(denied=("https://github.com/OctoCat/Hello.git",)),
        question(),
        "repositories that managers deny",
        "The managers of vo.one deny github.com/octocat/hello",
    ),
    "managers deny and exempt": (
        policy(),
        VORulings(denied=("github.com/octocat/*",), allowed=("github.com/octocat/hello",)),
        question(),
        None,
        "",
    ),
    "blocked until": (
        policy(),
        VORulings(blocks=(Block("ada", "Mining", NOW + timedelta(hours=1)),)),
        question(),
        "blocks by managers",
        "blocked launches of ada, until 26 November 2026, 10:00 UTC. Their reason: Mining. If that is a mistake",
    ),
    "blocked until it is lifted": (
        policy(),
        VORulings(blocks=(Block("ada", "Mining."),)),
        question(),
        "blocks by managers",
        "until they lift it. Their reason: Mining. If that",
    ),
    "a block that is over": (policy(), VORulings(blocks=(Block("ada", "Mining", NOW),)), question(), None, ""),
    "somebody else is blocked": (policy(), VORulings(blocks=(Block("adam", "Mining"),)), question(), None, ""),
    "terms": (
        policy(terms=TERMS),
        VORulings(),
        question(),
        "terms of use",
        "vo.one asks for agreement to version 2 of its terms of use first.",
    ),
    "terms agreed to": (policy(terms=TERMS), VORulings(), question(agreed="2"), None, ""),
    "older terms agreed to": (policy(terms=TERMS), VORulings(), question(agreed="1"), "terms of use", "version 2"),
    "the managers' terms": (
        policy(terms=TERMS),
        VORulings(terms=Terms("2026-1", "Cite us.")),
        question(agreed="2"),
        "terms of use",
        "version 2026-1",
    ),
    "servers of a person": (
        policy(limits=Limits(servers_per_person=1)),
        VORulings(),
        question(counts=Counts(person=1)),
        "limits",
        "vo.one allows each person 1 at once",
    ),
    "servers of the VO": (
        policy(limits=Limits(servers=5)),
        VORulings(),
        question(counts=Counts(vo=6)),
        "limits",
        "vo.one has 6 servers, on their way or running, and 5 is all",
    ),
    "servers of the repository": (
        policy(),
        VORulings(),
        question(counts=Counts(repository=100)),
        "limits",
        "github.com/octocat/hello has 100 servers",
    ),
    "builds of a person": (
        policy(limits=Limits(builds_per_person=2)),
        VORulings(),
        question(counts=Counts(builds=2)),
        "limits",
        "2 builds that you asked for are under way",
    ),
    "limits that are not counted": (policy(limits=Limits(servers=1)), VORulings(), question(), None, ""),
    "the first of several rules": (
        policy(denied=patterns("**"), terms=TERMS),
        VORulings(blocks=(Block("ada", "Mining"),)),
        question(),
        "blocks by managers",
        "Mining",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_decides_and_the_explanation_is_what_a_launch_would_be_told(name: str) -> None:
    of, rulings, asked, refusing, sentence = CASES[name]
    explanation = decide(asked, of, rulings)
    assert explanation.is_allowed is (refusing is None)
    if refusing is None:
        permit(asked, of, rulings)
        assert explanation.deciding.name == LIMITS
        return
    assert explanation.deciding.name == refusing
    assert sentence in explanation.deciding.sentence
    with pytest.raises(ReplayError) as raised:
        permit(asked, of, rulings)
    assert raised.value.sentence == explanation.deciding.sentence
    outcomes = [rule.outcome for rule in explanation.rules]
    at = outcomes.index(Outcome.REFUSES)
    assert set(outcomes[:at]) <= {Outcome.PASSES}
    assert set(outcomes[at + 1 :]) <= {Outcome.NOT_REACHED}


@pytest.mark.parametrize("name", CASES)
def test_every_explanation_has_the_same_rules_each_with_a_sentence_where_it_was_reached(name: str) -> None:
    of, rulings, asked, _, _ = CASES[name]
    explanation = decide(asked, of, rulings)
    assert [rule.name for rule in explanation.rules] == [
        rule.name for rule in decide(question(), policy(), VORulings()).rules
    ]
    for rule in explanation.rules:
        assert bool(rule.sentence) is (rule.outcome is not Outcome.NOT_REACHED)


@pytest.mark.parametrize(("blocked", "asks"), [("ADA@egi.eu", "ada@egi.eu"), ("ada@egi.eu", "Ada@egi.eu")])
def test_a_block_holds_however_a_hub_writes_names(blocked: str, asks: str) -> None:
    rulings = VORulings(blocks=(Block(blocked, "Mining"),))
    asked = question(person=Person(asks, frozenset({"vo.one"})))
    assert decide(asked, policy(), rulings).deciding.name == "blocks by managers"


def test_what_is_before_the_terms_is_told_without_an_agreement() -> None:
    assert refusal_before_terms(question(), policy(terms=TERMS), VORulings()) is None
    full = question(counts=Counts(repository=1000))
    assert refusal_before_terms(full, policy(), VORulings()) is None
    denied = refusal_before_terms(question(), policy(denied=patterns("**"), terms=TERMS), VORulings())
    assert isinstance(denied, NotPermitted)


def test_the_errors_are_of_the_kind_that_a_page_and_a_program_need() -> None:
    with pytest.raises(TermsNotAgreed) as terms:
        permit(question(), policy(terms=TERMS), VORulings())
    assert (terms.value.vo, terms.value.version, terms.value.text) == ("vo.one", "2", "Be kind.")
    with pytest.raises(LimitReached) as limit:
        permit(question(counts=Counts(vo=6)), policy(limits=Limits(servers=5)), VORulings())
    assert (limit.value.most, limit.value.count) == (5, 6)


def explained(person: Person, vo: str | None = None) -> Explanation:
    policies = PolicySet([policy(), policy(vo="vo.two", denied=patterns("**"))])
    return policies.explain(replace(question(), person=person), vo, {})


@pytest.mark.parametrize(
    ("groups", "vo", "allowed", "of", "sentence"),
    [
        ({"vo.one"}, None, True, "vo.one", ""),
        ({"vo.one", "vo.two"}, "vo.one", True, "vo.one", ""),
        ({"vo.two"}, None, False, "vo.two", "The policy of vo.two denies"),
        ({"vo.one", "vo.two"}, None, False, None, "Say for which one this runs: vo.one, vo.two."),
        ({"vo.one"}, "vo.two", False, None, "You are not in vo.two"),
        ({"vo.one.evil.org", "xvo.one", "VO.ONE", "vo.one:managers"}, None, False, None, "You are in no virtual"),
        (set[str](), None, False, None, "These may: vo.one, vo.two."),
    ],
)
def test_without_a_vo_of_ones_own_no_policy_matches_and_nothing_launches(
    groups: set[str], vo: str | None, allowed: bool, of: str | None, sentence: str
) -> None:
    found = explained(Person("ada", frozenset(groups)), vo)
    assert (found.is_allowed, found.vo) == (allowed, of)
    assert sentence in found.deciding.sentence
    if of is None:
        assert found.deciding.name == MEMBERSHIP
        assert {rule.outcome for rule in found.rules[1:]} == {Outcome.NOT_REACHED}


def test_managers_say_banner_and_terms_in_place_of_the_policys() -> None:
    of = policy(banner="Hello", terms=TERMS)
    assert banner_of(of, VORulings()) == "Hello"
    assert banner_of(of, VORulings(banner="Bye")) == "Bye"
    assert banner_of(of, VORulings(banner="")) == ""
    assert terms_of(of, VORulings()) == TERMS
    assert terms_of(of, VORulings(terms=Terms("3", " "))) is None


@pytest.mark.parametrize(
    ("repo", "starts", "ends", "is_on"),
    [
        ("gh/octocat/hello/HEAD", -1, 1, True),
        ("git/https%3A%2F%2FGitHub.com%2FOctoCat%2FHello.git/main", -1, 1, True),
        ("gh/octocat/hello/HEAD", 0, 1, True),
        ("gh/octocat/hello/HEAD", 1, 2, False),
        ("gh/octocat/hello/HEAD", -2, 0, False),
        ("gh/octocat/another/HEAD", -1, 1, False),
        ("no link", -1, 1, False),
    ],
)
def test_an_event_is_on_from_its_start_to_its_end_for_its_repository(
    repo: str, starts: int, ends: int, is_on: bool
) -> None:
    event = PreparedEvent("1", "Course", repo, NOW + timedelta(hours=starts), NOW + timedelta(hours=ends), 30)
    assert is_prepared(VORulings(events=(event,)), HELLO, NOW) is is_on


@pytest.mark.parametrize(
    ("repo", "opened"),
    [
        ("zenodo/10.5281/zenodo.3242074", "doi/10.5281/ZENODO.3242074"),
        ("figshare/10.6084/m9.figshare.9782777.v1", "doi/10.6084/m9.figshare.9782777"),
        ("hydroshare/0123456789abcdef0123456789abcdef", "doi/10.4211/hs.0123456789abcdef0123456789abcdef"),
        ("osf/abcde", "doi/10.17605/OSF.IO/ABCDE"),
    ],
)
def test_an_event_of_a_record_is_on_by_whichever_name_it_is_opened(repo: str, opened: str) -> None:
    event = PreparedEvent("1", "Course", repo, NOW - timedelta(hours=1), NOW + timedelta(hours=1), 30)
    assert is_prepared(VORulings(events=(event,)), Repository.of_url(RepoSpec.parse(opened).url), NOW)
