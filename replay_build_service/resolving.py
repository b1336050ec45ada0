"""From a link to what runs: what its provider says, or, where the source says nothing, what the link led to last.

A source that is gone, or that does not answer now, takes no image with it. What was built of the same link is offered then, and the
person is told so before they agree. A source that answers and has no such branch has said what is so: nothing is started in
its place. Policies and limits see the repository that the image was made from, as in any other launch.

Knows providers, builds and the store by their protocols.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cachetools import TTLCache

from replay_build_service.builds import Builds
from replay_build_service.domain import ImageName, ResolvedRef
from replay_build_service.errors import RefNotFound, ReplayError, RepositoryNotFound, SourceFault, UnknownProvider
from replay_build_service.links import RepoSpec
from replay_build_service.providers.base import RepoProvider
from replay_build_service.wishes import Unanswered, Wish

_ARCHIVE = "swh"
"""The provider that archives what others publish, and names a commit by the same SHA (https://docs.softwareheritage.org/devel/swh-model/persistent-identifiers.html)."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OF_CONTENT = "The second repository that this link names, after “content=”:"
_SHOWN_KEPT = 3600.0
"""Seconds for which it is remembered where a link led: between a look at the page and its button."""
_MOST_SHOWN = 5_000


class ResolvingStore(Protocol):
    """What resolving asks of the database; see `replay_build_service.db.Store`."""

    async def last_built(self, spec: RepoSpec, builder: str) -> tuple[ResolvedRef, ImageName, datetime] | None: ...


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a link leads to."""

    resolved: ResolvedRef
    image_name: ImageName
    unanswered: Unanswered | None = None
    """Where this is what it led to last, and the image was there a moment ago."""


class Resolving:
    """Links of one service."""

    def __init__(self, store: ResolvingStore, providers: Mapping[str, RepoProvider], builds: Builds) -> None:
        self._store = store
        self._providers = providers
        self._builds = builds
        self._shown: TTLCache[tuple[str, str], None] = TTLCache(_MOST_SHOWN, _SHOWN_KEPT)

    async def resolve(self, spec: RepoSpec) -> ResolvedRef:
        """What the source says now. Raises `UnknownProvider`, and as `RepoProvider.resolve`."""
        provider = self._providers.get(spec.provider)
        if provider is None:
            raise UnknownProvider(f"There is no provider “{spec.provider}” here.")
        return await provider.resolve(spec)

    async def offered(self, spec: RepoSpec) -> Meaning:
        """What a person is shown before they agree. Raises as `resolve` where there is nothing to offer.

        A commit that is missing is looked for in Software Heritage: `NotFound.elsewhere` of what is raised is a link to it there.
        """
        try:
            return await self._meaning(spec)
        except (RepositoryNotFound, RefNotFound) as error:
            archived = await self._archived(spec)
            if archived is None:
                raise
            # The provider keeps its error for others, so that one is left as it is.
            is_ref = isinstance(error, RefNotFound)
            told = RefNotFound(error.sentence, error.nearest) if is_ref else RepositoryNotFound(error.sentence)
            told.elsewhere = archived.text
            raise told from error

    async def _archived(self, spec: RepoSpec) -> RepoSpec | None:
        """Where Software Heritage has the commit that a link names by its full SHA; none where that is not known."""
        if not _COMMIT.fullmatch(spec.ref.lower()) or _ARCHIVE not in self._providers:
            return None
        archived = RepoSpec(_ARCHIVE, f"swh:1:rev:{spec.ref.lower()}", "")
        try:
            await self.resolve(archived)
        except ReplayError:  # Whatever is wrong there, what is told is that the commit is missing where it should be.
            return None
        return archived

    async def _meaning(self, spec: RepoSpec) -> Meaning:
        try:
            resolved = await self.resolve(spec)
        except (RepositoryNotFound, SourceFault) as error:
            meaning = await self.last_known(spec, error)
            if meaning is None:
                raise
        else:
            meaning = Meaning(resolved, self._builds.name_of(resolved))
        self._shown[spec.text, meaning.resolved.version] = None
        return meaning

    async def agreed(self, wish: Wish) -> Meaning:
        """What a person has agreed to: the version that they saw. Raises as `resolve`, and `BadLink`.

        Who names no version has agreed to what the source says, and not to what it said once. A version to which the link does not
        lead goes on record under its own link: else whoever chose it would choose what others are offered in the name of this one.
        """
        spec = RepoSpec.parse(wish.repo)
        is_as_linked = wish.version is None or wish.version == spec.ref
        asked = spec if is_as_linked else spec.pinned_to(wish.version or "")
        found = await self._meaning(asked)
        if found.unanswered is not None and found.resolved.version != (wish.version or spec.ref):
            raise found.unanswered.error
        named = spec if is_as_linked or await self._leads_to(spec, found.resolved.version) else asked
        return dataclasses.replace(found, resolved=dataclasses.replace(found.resolved, spec=named))

    async def _leads_to(self, spec: RepoSpec, version: str) -> bool:
        """Whether a link leads there, or did when somebody was last shown where it leads."""
        if (spec.text, version) in self._shown:
            return True
        try:
            return (await self._meaning(spec)).resolved.version == version
        except ReplayError:  # Where that cannot be known now, it is not so.
            return False

    async def content(self, text: str | None, version: str | None = None) -> ResolvedRef | None:
        """What a link's ``content`` names; none where it names none. ``version`` is the one that the person saw and agreed to.

        Raises as `resolve`, and `BadLink`; the sentence says that it is about the content.
        """
        if not text:
            return None
        spec = RepoSpec.parse(text)
        try:
            if version is None or version == spec.ref:
                return await self.resolve(spec)
            pinned = spec.pinned_to(version)
            found = await self.resolve(pinned)
        except RefNotFound as error:
            raise RefNotFound(f"{_OF_CONTENT} {error.sentence}") from error
        except RepositoryNotFound as error:
            raise RepositoryNotFound(f"{_OF_CONTENT} {error.sentence}") from error
        return dataclasses.replace(found, spec=spec) if await self._leads_to(spec, version) else found

    async def last_known(self, spec: RepoSpec, error: RepositoryNotFound | SourceFault) -> Meaning | None:
        """What the link led to when it was last launched or built, if that image is still there; ``error`` is why that is asked.

        Raises `SourceFault` where it cannot be known now whether the image is there.
        """
        last = await self._store.last_built(spec, self._builds.builder)
        if last is None:
            return None
        was, image_name, at = last
        resolved = dataclasses.replace(was, spec=spec)
        # What an earlier recipe made is better than nothing, since it cannot be made anew.
        for name in dict.fromkeys((self._builds.name_of(resolved), image_name)):
            if await self._builds.find(name) is not None:
                return Meaning(resolved, name, Unanswered(error, at))
        return None
