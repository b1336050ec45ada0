"""From what somebody pasted to its link: read alone where the text tells all, and with the repository's refs where it does not.

Knows providers by their protocols.
"""

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

from replay_build_service.domain import Person
from replay_build_service.errors import RepositoryNotFound, SourceFault, UnknownProvider
from replay_build_service.links import RepoSpec
from replay_build_service.pasting import Pasted, decide, read
from replay_build_service.policies import PolicySet
from replay_build_service.providers.base import RepoProvider


@runtime_checkable
class TellsRefs(Protocol):
    """A provider of repositories that have branches and tags."""

    async def refs(self, spec: RepoSpec) -> Collection[str]:
        """Their names in full. Raises as `RepoProvider.resolve`."""
        ...


class PastedLinks:
    """Pasted texts of one service."""

    def __init__(self, providers: Mapping[str, RepoProvider], policies: PolicySet) -> None:
        self._providers = providers
        self._policies = policies

    async def find(self, person: Person, text: str) -> Pasted:
        """What a person pasted, decided. Nobody outside is asked but for an address whose branch may have slashes.

        Raises `BadLink`, `UnknownProvider` where this service lacks that provider, `OriginRefused`, and `NotPermitted` where Replay
        would have to ask and the person may launch nothing.
        """
        pasted = read(text)
        provider = self._providers.get(pasted.spec.provider)
        if provider is None:
            raise UnknownProvider(
                f"That is {pasted.spec.url}, and this Replay has no provider “{pasted.spec.provider}”, which could get it."
            )
        if not pasted.undecided or not isinstance(provider, TellsRefs):
            return decide(pasted, ())
        self._policies.permitted(person)
        try:
            refs = await provider.refs(pasted.spec)
        except (RepositoryNotFound, SourceFault) as error:
            # Its image may be there all the same; the link's own page says what is.
            return decide(pasted, ()).noting(
                f"{error.sentence} So it is not known where the branch’s name ends; “{pasted.spec.ref}” was taken for it."
            )
        return decide(pasted, refs)
