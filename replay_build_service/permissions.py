"""Who may launch what for which VO: policies, what managers decided, what people agreed to and what there is already, together.

`policies` decides; here is what it has to know. Rulings are asked for at each decision, so that they count at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from replay_build_service.domain import ImageName, Launch, LaunchId, LaunchState, Person, ResolvedRef
from replay_build_service.errors import BadLink, NotPermitted
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.policies import (
    Explanation,
    PolicySet,
    Question,
    banner_of,
    is_prepared,
    permit,
    refusal_before_terms,
    terms_of,
)
from replay_build_service.policy_values import (
    Ceilings,
    Community,
    Counts,
    Feature,
    FeatureState,
    Offer,
    VOPolicy,
)
from replay_build_service.rulings import Rulings, Terms
from replay_build_service.wishes import Wish


class ChoiceStore(Protocol):
    """What permissions ask of the database; see `replay_build_service.db.Store`."""

    async def chosen_vo(self, user: str) -> str | None: ...
    async def choose_vo(self, user: str, vo: str) -> None: ...
    async def agreed_at(self, user: str, vo: str, version: str) -> datetime | None: ...
    async def agree(self, user: str, vo: str, version: str) -> None: ...
    async def counts(self, launch: Launch) -> Counts: ...


@dataclass(frozen=True, slots=True)
class Permit:
    """What a launch may have, once all rules but the counted ones have let it pass."""

    policy: VOPolicy
    ceilings: Ceilings
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a VO has to say to its members on every page."""

    vo: str
    banner: str
    community: Community | None


class Permissions:
    """The decisions about one service's launches."""

    def __init__(
        self, policies: PolicySet, rulings: Rulings, store: ChoiceStore, features: Sequence[Feature] = ()
    ) -> None:
        self.policies = policies
        self._rulings = rulings
        self._store = store
        self._features = features

    async def offers(
        self, person: Person, repository: Repository, content: Repository | None = None
    ) -> tuple[Sequence[Offer], str]:
        """What the person may have for each of their VOs, and which of these they chose last.

        ``content`` is a second repository whose code would run, too: here and in what follows it has to be permitted like the first.

        Raises `NotPermitted` where there is none.
        """
        policies = self.policies.permitted(person)
        offers = await asyncio.gather(*(self._offer(person, _both(repository, content), policy) for policy in policies))
        chosen = await self._store.chosen_vo(person.name)
        usable = [offer.policy.vo for offer in offers if not offer.refusal]
        return offers, chosen if chosen in usable else next(iter(usable), offers[0].policy.vo)

    async def _offer(self, person: Person, repositories: Sequence[Repository], policy: VOPolicy) -> Offer:
        rulings = await self._rulings.rulings_of(policy.vo)
        terms = terms_of(policy, rulings)
        has_agreed = terms is None or await self._has_agreed(person, policy.vo, terms)
        refusals = (refusal_before_terms(Question(person, one), policy, rulings) for one in repositories)
        refusal = next((one for one in refusals if one), None)
        return Offer(
            policy=policy,
            banner=banner_of(policy, rulings),
            terms=None if has_agreed else terms,
            features=tuple(
                (feature, policy.state_of(feature) is FeatureState.PRESELECTED)
                for feature in self._features
                if policy.state_of(feature) is not FeatureState.FORBIDDEN
            ),
            refusal=refusal.sentence if refusal else "",
        )

    async def permit(
        self,
        person: Person,
        wish: Wish,
        policy: VOPolicy,
        repository: Repository,
        content: Repository | None = None,
    ) -> Permit:
        """Apply all rules to a wish that came in for the VO of this policy; what is agreed to with it is stored.

        Raises `NotPermitted`, `TermsNotAgreed` and `BadLink`. What is limited is counted where the launch is stored.
        """
        rulings = await self._rulings.rulings_of(policy.vo)
        terms = terms_of(policy, rulings)
        agreed = await self._agreed(person, policy.vo, terms, wish.terms)
        for one in _both(repository, content):
            permit(Question(person, one, agreed), policy, rulings)
        features = self._permitted_features(wish, policy)
        if terms is not None and wish.terms == terms.version:
            await self._store.agree(person.name, policy.vo, terms.version)
        return Permit(policy, policy.limits.ceilings(repository), features)

    def _permitted_features(self, wish: Wish, policy: VOPolicy) -> tuple[str, ...]:
        known = {feature.name: feature for feature in self._features}
        for name in wish.features:
            if name not in known:
                names = ", ".join(sorted(known)) or "none"
                raise BadLink(f"Sessions here have no feature “{name[:80]}”. These there are: {names}.")
            if policy.state_of(known[name]) is FeatureState.FORBIDDEN:
                raise NotPermitted(f"The policy of {policy.vo} forbids “{known[name].title}”. Launch without it.")
        return tuple(sorted(set(wish.features)))

    async def remember(self, person: Person, vo: str) -> None:
        """The person chose this VO: it is offered first next time."""
        if await self._store.chosen_vo(person.name) != vo:
            await self._store.choose_vo(person.name, vo)

    async def at_start(self, launch: Launch, groups: frozenset[str] | None) -> VOPolicy:
        """The policy for a server that is about to start: what was allowed at the consent may not be any more.

        ``groups`` are the person's at the hub now, where they are known. Raises `NotPermitted` and `TermsNotAgreed`.
        """
        person = Person(launch.user, frozenset({launch.vo}) if groups is None else groups)
        policy = self.policies.choose(person, launch.vo)
        rulings = await self._rulings.rulings_of(policy.vo)
        for one in _both(launch.resolved.repository, launch.content and launch.content.repository):
            if refusal := refusal_before_terms(Question(person, one), policy, rulings):
                raise refusal
        return policy

    async def ceilings(self, launch: Launch) -> Ceilings:
        """The limits of a launch that was permitted before and takes a server now. Raises as `at_start`."""
        policy = await self.at_start(launch, None)
        return policy.limits.ceilings(launch.resolved.repository)

    async def notices(self, person: Person) -> Sequence[Notice]:
        """What the person's VOs have to say, the one that they chose last first; nothing for who is in none."""
        policies = [policy for vo in sorted(person.groups) if (policy := self.policies.of(vo)) is not None]
        chosen = await self._store.chosen_vo(person.name) if len(policies) > 1 else None
        policies.sort(key=lambda policy: policy.vo != chosen)
        return await asyncio.gather(*(self._notice(policy) for policy in policies))

    async def notice(self, vo: str) -> Notice | None:
        """What one VO has to say; none where it has no policy any more."""
        policy = self.policies.of(vo)
        return None if policy is None else await self._notice(policy)

    async def _notice(self, policy: VOPolicy) -> Notice:
        rulings = await self._rulings.rulings_of(policy.vo)
        return Notice(policy.vo, banner_of(policy, rulings), policy.community)

    async def is_prepared_for(self, person: Person, repo: str, content: str | None = None) -> bool:
        """Whether a manager of one of the person's VOs has prepared an event that is on now, with this very repository.

        With another one's files in it (``content``) it is not what was prepared.
        """
        if content:
            return False
        try:
            repository = Repository.of_url(RepoSpec.parse(repo).url)
        except BadLink:
            return False
        now = datetime.now(UTC)
        vos = [vo for vo in person.groups if self.policies.of(vo) is not None]
        for vo in vos:
            if is_prepared(await self._rulings.rulings_of(vo), repository, now):
                return True
        return False

    async def explain(self, person: Person, repo: str, vo: str | None = None) -> Explanation:
        """What a launch of that repository by that person would come to. ``repo`` as in a link; nothing is fetched.

        Raises `BadLink` for what is no link.
        """
        spec = RepoSpec.parse(repo)
        repository = Repository.of_url(spec.url)
        try:
            policy = self.policies.choose(person, vo)
        except NotPermitted:
            return self.policies.explain(Question(person, repository), vo, {})
        rulings = await self._rulings.rulings_of(policy.vo)
        agreed = await self._agreed(person, policy.vo, terms_of(policy, rulings), None)
        counts = await self._store.counts(_imagined(person, policy.vo, ResolvedRef(repository, spec, spec.url, "")))
        return self.policies.explain(Question(person, repository, agreed, counts), policy.vo, {policy.vo: rulings})

    async def _agreed(self, person: Person, vo: str, terms: Terms | None, now: str | None) -> str | None:
        """The version that they agree to now, or have agreed to before."""
        if terms is None or now == terms.version:
            return now
        return terms.version if await self._has_agreed(person, vo, terms) else now

    async def _has_agreed(self, person: Person, vo: str, terms: Terms) -> bool:
        return await self._store.agreed_at(person.name, vo, terms.version) is not None


def _both(repository: Repository, content: Repository | None) -> Sequence[Repository]:
    return (repository,) if content is None else (repository, content)


def _imagined(person: Person, vo: str, resolved: ResolvedRef) -> Launch:
    """A launch to count the others by; it is never stored."""
    return Launch(
        id=LaunchId(""),
        user=person.name,
        server_name="",
        resolved=resolved,
        image_name=ImageName("", ""),
        vo=vo,
        urlpath="",
        state=LaunchState.BUILDING,
        created_at=datetime.now(UTC),
    )
