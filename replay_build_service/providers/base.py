"""The seam between launches and providers: from a link's spec to a resolved ref."""

from typing import Protocol

from replay_build_service.domain import ResolvedRef
from replay_build_service.links import RepoSpec


class RepoProvider(Protocol):
    """One source of repositories."""

    @property
    def name(self) -> str:
        """As it stands in links: ``gh``, ``git``."""
        ...

    async def resolve(self, spec: RepoSpec) -> ResolvedRef:
        """What the spec means right now.

        Raises `BadLink`, `OriginRefused`, `RepositoryNotFound`, `RefNotFound` (with the nearest that exist) or
        `SourceFault`. Answers are cached for as long as they can be true: a full SHA for good, anything else for a minute.
        """
        ...
