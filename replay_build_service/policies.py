"""What each VO may run, with how much, and why. Pure: who asks for what in, a decision with its reasons out.

One list of rules decides, whether somebody launches (`Decision.permit` raises) or asks what would happen (`Explanation`
tells each). What is counted at a launch is counted again where that is stored; the sentences are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Self

from replay_build_service.domain import Person
from replay_build_service.errors import BadLink, NotPermitted, ReplayError, TermsNotAgreed
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.policy_values import (
    BuildCeiling,
    Counts,
    Limited,
    RepositoryPattern,
    Resources,
    VOPolicy,
    limit_reached,
)
from replay_build_service.rulings import Terms, VORulings


class Outcome(StrEnum):
    """What a rule says."""

    PASSES = "passes"
    REFUSES = "refuses"
    NOT_REACHED = "not reached"
    """Another one had refused before."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as it was applied."""

    name: str
    outcome: Outcome
    sentence: str
    error: ReplayError | None = None
    """What a launch is refused with."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would happen, by which rule."""

    vo: str | None
    """For which VO it would run; none where that is what is missing."""
    rules: tuple[Rule, ...]
    """In the order in which they are asked."""

    @property
    def is_allowed(self) -> bool:
        return all(rule.outcome is Outcome.PASSES for rule in self.rules)

    @property
    def deciding(self) -> Rule:
        """The one that refuses, or else the last of those that let it pass."""
        refusing = (rule for rule in self.rules if rule.outcome is Outcome.REFUSES)
        return next(refusing, self.rules[-1])


@dataclass(frozen=True, slots=True)
class Question:
    """Somebody wants to run something for a VO: all that the rules look at beside policy and rulings."""

    person: Person
    repository: Repository
    agreed: str | None = None
    """The version of the VO's terms that they agree or have agreed to."""
    counts: Counts | None = None
    """What there is now; none where it is not counted: then limits do not refuse."""
    at: datetime | None = None
    """When; now where it is not said."""


class PolicySet:
    """The policies of a service, by VO. No policy, no launch."""

    def __init__(self, policies: Sequence[VOPolicy]) -> None:
        self._by_vo: Mapping[str, VOPolicy] = {policy.vo: policy for policy in policies}

    @classmethod
    def alike(cls, vos: Mapping[str, str], resources: Resources) -> Self:
        """The same resources for every VO; ``vos`` maps a VO's name to where one enrols in it (may be empty)."""
        return cls([VOPolicy(vo, resources, url or None) for vo, url in vos.items()])

    @property
    def vos(self) -> Sequence[str]:
        """The VOs that have a policy, sorted."""
        return sorted(self._by_vo)

    def of(self, vo: str) -> VOPolicy | None:
        return self._by_vo.get(vo)

    def build_ceiling(self, vo: str) -> BuildCeiling | None:
        """How many builds one person may have under way, by that VO's policy; none where it does not say."""
        policy = self.of(vo)
        most = None if policy is None else policy.limits.builds_per_person
        return None if most is None else BuildCeiling(most, vo)

    def permitted(self, person: Person) -> Sequence[VOPolicy]:
        """The policies that this person may choose from, by name of the VO.

        Raises `NotPermitted` where there is none.
        """
        found = [self._by_vo[group] for group in sorted(person.groups) if group in self._by_vo]
        if not found:
            names = ", ".join(sorted(self._by_vo)) or "none"
            raise NotPermitted(
                f"You are in no virtual organisation that may launch here. These may: {names}. "
                "Join one of them, then log out and in again.",
                tuple((name, self._by_vo[name].enrolment_url) for name in sorted(self._by_vo)),
            )
        return found

    def choose(self, person: Person, vo: str | None) -> VOPolicy:
        """The policy for the VO that the person named, or their only one.

        Raises `NotPermitted` where they are not in it, have none, or must say which.
        """
        permitted = self.permitted(person)
        if vo is None and len(permitted) == 1:
            return permitted[0]
        for policy in permitted:
            if policy.vo == vo:
                return policy
        names = ", ".join(policy.vo for policy in permitted)
        if vo is None:
            raise NotPermitted(f"You are in several virtual organisations. Say for which one this runs: {names}.")
        raise NotPermitted(f"You are not in {vo}, or it may not launch here. You can launch for: {names}.")

    def explain(self, question: Question, vo: str | None, rulings: Mapping[str, VORulings]) -> Explanation:
        """What a launch would come to, with every rule. ``rulings`` are those of each VO in question; none decided nothing."""
        try:
            policy = self.choose(question.person, vo)
        except NotPermitted as error:
            refusing = Rule(MEMBERSHIP, Outcome.REFUSES, error.sentence, error)
            later = tuple(Rule(name, Outcome.NOT_REACHED, "") for name in _LATER)
            return Explanation(None, (refusing, *later))
        return decide(question, policy, rulings.get(policy.vo, VORulings()))


MEMBERSHIP = "membership"
BLOCKS = "blocks by managers"
DENIED = "repositories that the policy denies"
ALLOWED = "repositories that the policy allows"
RULINGS = "repositories that managers deny"
TERMS = "terms of use"
LIMITS = "limits"

_LATER = (BLOCKS, DENIED, ALLOWED, RULINGS, TERMS, LIMITS)


def decide(question: Question, policy: VOPolicy, rulings: VORulings) -> Explanation:
    """All rules for a member of the policy's VO, in their order."""
    rules = [Rule(MEMBERSHIP, Outcome.PASSES, f"{question.person.name} is in {policy.vo}, which may launch here.")]
    for name, answer in zip(_LATER, _answers(question, policy, rulings), strict=True):
        if any(rule.outcome is Outcome.REFUSES for rule in rules):
            rules.append(Rule(name, Outcome.NOT_REACHED, ""))
        elif isinstance(answer, ReplayError):
            rules.append(Rule(name, Outcome.REFUSES, answer.sentence, answer))
        else:
            rules.append(Rule(name, Outcome.PASSES, answer))
    return Explanation(policy.vo, tuple(rules))


def permit(question: Question, policy: VOPolicy, rulings: VORulings) -> None:
    """Raises what the deciding rule refuses with."""
    for answer in _answers(question, policy, rulings):
        if isinstance(answer, ReplayError):
            raise answer


def refusal_before_terms(question: Question, policy: VOPolicy, rulings: VORulings) -> ReplayError | None:
    """What would refuse it whatever is agreed to, and whatever else runs; none where nothing would."""
    for name, answer in zip(_LATER, _answers(question, policy, rulings), strict=True):
        if name == TERMS:
            break
        if isinstance(answer, ReplayError):
            return answer
    return None


def terms_of(policy: VOPolicy, rulings: VORulings) -> Terms | None:
    """The terms of use that hold for a VO now; an empty text asks for nothing."""
    terms = rulings.terms or policy.terms
    return terms if terms is not None and terms.text.strip() else None


def banner_of(policy: VOPolicy, rulings: VORulings) -> str:
    """What is shown to a VO's members now; may be empty."""
    return policy.banner if rulings.banner is None else rulings.banner


def is_prepared(rulings: VORulings, repository: Repository, now: datetime) -> bool:
    """Whether an event of this repository is on: its people are exempt from limits of rates."""
    return any(
        event.starts_at <= now < event.ends_at and _repository_of(event.repo) == repository for event in rulings.events
    )


def _repository_of(repo: str) -> Repository | None:
    try:
        return Repository.of_url(RepoSpec.parse(repo).url)
    except BadLink:
        # It was a link when managers stored it. Where it is none any more, nobody is exempt by it.
        return None


def _answers(question: Question, policy: VOPolicy, rulings: VORulings) -> Iterator[str | ReplayError]:
    """One after the other, as in `_LATER`: why it passes, or what it is refused with."""
    yield _by_blocks(question, policy, rulings)
    yield _by_denials(question.repository, policy)
    yield _by_allowance(question.repository, policy)
    yield _by_rulings(question.repository, policy, rulings)
    yield _by_terms(question, policy, rulings)
    yield _by_limits(question, policy)


def _by_blocks(question: Question, policy: VOPolicy, rulings: VORulings) -> str | ReplayError:
    now = question.at or datetime.now(UTC)
    for block in rulings.blocks:
        # The hub's names are in lower case, unless its authenticator has a rule of its own.
        if block.user.lower() == question.person.name.lower() and (block.until is None or now < block.until):
            ends = f"until {block.until:%d %B %Y, %H:%M} UTC" if block.until else "until they lift it"
            return NotPermitted(
                f"The managers of {policy.vo} have blocked launches of {block.user}, {ends}. Their reason: {_ended(block.reason)} "
                f"If that is a mistake, write to a manager of {policy.vo}."
            )
    return f"{question.person.name} is not blocked for {policy.vo}."


def _by_denials(repository: Repository, policy: VOPolicy) -> str | ReplayError:
    if found := _first(policy.denied, repository, any_case=True):
        return NotPermitted(
            f"The policy of {policy.vo} denies {repository.short} (by “{found.text}”). The administrators can change that."
        )
    return f"The policy of {policy.vo} denies {_counted(policy.denied)}, and {repository.short} is not among them."


def _by_allowance(repository: Repository, policy: VOPolicy) -> str | ReplayError:
    if not policy.allowed:
        return f"The policy of {policy.vo} allows all repositories that it does not deny."
    if found := _first(policy.allowed, repository):
        return f"The policy of {policy.vo} allows {repository.short} (by “{found.text}”)."
    return NotPermitted(
        f"The policy of {policy.vo} allows {_counted(policy.allowed)}, and {repository.short} is not among them. "
        "The administrators can change that."
    )


def _by_rulings(repository: Repository, policy: VOPolicy, rulings: VORulings) -> str | ReplayError:
    if not (denied := _first(_patterns(rulings.denied), repository, any_case=True)):
        return f"No manager of {policy.vo} denies {repository.short}."
    if exempt := _first(_patterns(rulings.allowed), repository):
        return f"Managers of {policy.vo} deny “{denied.text}”, and exempt “{exempt.text}” from that."
    return NotPermitted(
        f"The managers of {policy.vo} deny {repository.short} (by “{denied.text}”). If you need it, write to one of them."
    )


def _by_terms(question: Question, policy: VOPolicy, rulings: VORulings) -> str | ReplayError:
    terms = terms_of(policy, rulings)
    if terms is None:
        return f"{policy.vo} has no terms of use to agree to."
    if question.agreed == terms.version:
        return f"{question.person.name} agrees to version {terms.version} of the terms of use of {policy.vo}."
    return TermsNotAgreed(
        f"{policy.vo} asks for agreement to version {terms.version} of its terms of use first. Read them on the page of the link and "
        f"tick that you agree, which is asked once; a program sends “terms”: “{terms.version}” to the service's api/launches.",
        policy.vo,
        terms.version,
        terms.text,
    )


def _by_limits(question: Question, policy: VOPolicy) -> str | ReplayError:
    ceilings, counts = policy.limits.ceilings(question.repository), question.counts
    passed: list[str] = []
    for limited in Limited:
        most = ceilings.of(limited)
        if most is None:
            continue
        if counts is None:
            passed.append(f"{limited}: at most {most}, not counted")
        elif counts.of(limited) >= most:
            return limit_reached(limited, most, counts.of(limited), policy.vo, question.repository)
        else:
            passed.append(f"{limited}: {counts.of(limited)} of {most}")
    return f"Within the limits of {policy.vo}: {'; '.join(passed)}."


def _first(
    patterns: Sequence[RepositoryPattern], repository: Repository, *, any_case: bool = False
) -> RepositoryPattern | None:
    return next(
        (one for one in patterns if (one.matches_any_case if any_case else one.matches)(repository)),
        None,
    )


def _patterns(texts: Sequence[str]) -> Sequence[RepositoryPattern]:
    return [_pattern(text) for text in texts]


@lru_cache(maxsize=20_000)
def _pattern(text: str) -> RepositoryPattern:
    try:
        return RepositoryPattern.parse(text)
    except BadLink:
        return RepositoryPattern(text)


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _counted(patterns: Sequence[RepositoryPattern]) -> str:
    return f"{len(patterns) or 'no'} pattern{'' if len(patterns) == 1 else 's'}"
