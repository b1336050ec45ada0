"""What would happen if a member of a VO opened a link, and which rule decides: the launch's own rules, asked by a manager."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from replay_build_service.domain import (
    BuildRecipe,
    ImageName,
    Launch,
    LaunchId,
    LaunchState,
    Person,
    ResolvedRef,
    RunnableImage,
)
from replay_build_service.errors import NotPermitted
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.managing import texts
from replay_build_service.managing.admission import Manager
from replay_build_service.policies import Explanation, PolicySet, Question, permit, terms_of
from replay_build_service.policy_values import Counts, VOPolicy
from replay_build_service.rulings import VORulings


class ExplainStore(Protocol):
    """See `replay_build_service.db.Store`."""

    async def rulings_of(self, vo: str) -> VORulings: ...
    async def agreed_at(self, user: str, vo: str, version: str) -> datetime | None: ...
    async def counts(self, launch: Launch) -> Counts: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a manager asked, and what it comes to."""

    user: str
    repository: Repository
    explanation: Explanation


class Explaining:
    """Asks the rules that hold now."""

    def __init__(self, store: ExplainStore, policies: PolicySet) -> None:
        self._store = store
        self._policies = policies

    def policy(self, manager: Manager) -> VOPolicy:
        """The administrators' ceiling. Raises `NotPermitted` where the VO has none."""
        found = self._policies.of(manager.vo)
        if found is None:
            raise NotPermitted(f"{manager.vo} has no policy here, so nobody may launch for it.")
        return found

    async def explain(self, manager: Manager, user: str, repo: str) -> Answer:
        """For a member of the manager's VO, whether this person is one or not: who is a member is asked of Check-in at their login.

        The link is read and nobody is asked for the repository. Raises `BadLink`.
        """
        name = texts.line(user, "The person’s name", 255)
        spec = RepoSpec.parse(repo)
        repository = Repository.of_url(spec.url)
        rulings = await self._store.rulings_of(manager.vo)
        terms = terms_of(self.policy(manager), rulings)
        has_agreed = terms is not None and await self._store.agreed_at(name, manager.vo, terms.version) is not None
        question = Question(
            Person(name, frozenset({manager.vo})),
            repository,
            agreed=terms.version if terms and has_agreed else None,
            counts=await self._store.counts(_as_if_built(name, manager.vo, repository, spec)),
        )
        return Answer(name, repository, self._policies.explain(question, manager.vo, {manager.vo: rulings}))

    async def refuse_denied(self, vo: str, repository: Repository) -> None:
        """Raises `NotPermitted` where no member of the VO may launch that repository, whoever they are."""
        policy = self._policies.of(vo)
        if policy is None:
            raise NotPermitted(f"{vo} has no policy here, so nobody may launch for it.")
        rulings = await self._store.rulings_of(vo)
        terms = terms_of(policy, rulings)
        permit(Question(Person(""), repository, agreed=terms and terms.version), policy, rulings)


def _as_if_built(user: str, vo: str, repository: Repository, spec: RepoSpec) -> Launch:
    """The launch that it would be if its environment were there: what is counted at a launch is counted for it."""
    resolved = ResolvedRef(repository, spec, spec.url, spec.ref)
    return Launch(
        id=LaunchId(""),
        user=user,
        server_name="",
        resolved=resolved,
        image_name=ImageName.of(resolved, BuildRecipe("")),
        vo=vo,
        urlpath="",
        state=LaunchState.STARTING,
        created_at=datetime.now(UTC),
        image=RunnableImage("", ""),
    )
