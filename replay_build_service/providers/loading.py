"""Providers of other packages, made and watched: what they answer is looked at before anything is built from it.

They run in this process and are trusted with it, as every package that an administrator installs. But what a provider promises (a version
that cannot change, an address that may be asked, errors with a sentence) everything behind it counts on, so it is held to it here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import cast

from replay_build_service.errors import BadLink, ReplayError, SourceFault
from replay_build_service.git import FULL_SHA
from replay_build_service.installed import InstalledProvider
from replay_build_service.links import Repository, RepoSpec, ResolvedRef
from replay_build_service.outgoing import OutgoingRules, admit
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.context import ProviderContext

__all__ = ["UnusableProvider", "WatchedProvider", "make_installed"]

logger = logging.getLogger(__name__)


class UnusableProvider(Exception):
    """A package's provider cannot be made. The message is a sentence for an administrator."""


def make_installed(installed: Sequence[InstalledProvider], context: ProviderContext) -> list[RepoProvider]:
    """Each of them, watched. Raises `UnusableProvider`."""
    return [WatchedProvider(_made(one, context), context.rules) for one in installed]


def _made(one: InstalledProvider, context: ProviderContext) -> RepoProvider:
    try:
        provider = one.factory(context)
    except Exception as error:  # It is somebody else's program: it may raise whatever there is.
        logger.exception("making the provider %s of %s failed", one.name, one.package)
        raise UnusableProvider(
            f"The provider “{one.name}” of {one.package} cannot be made: {type(error).__name__}: {error}."
        ) from error
    if getattr(provider, "name", None) != one.name or not callable(getattr(provider, "resolve", None)):
        raise UnusableProvider(
            f"The provider “{one.name}” of {one.package} cannot be used: what its factory makes is no RepoProvider of that name."
        )
    return cast("RepoProvider", provider)


class WatchedProvider:
    """A provider of another package. Implements `RepoProvider`: nothing leaves it but our errors and what can be fetched for good."""

    def __init__(self, provider: RepoProvider, rules: OutgoingRules) -> None:
        self._provider = provider
        self._rules = rules

    @property
    def name(self) -> str:
        """As it stands in links."""
        return self._provider.name

    async def resolve(self, spec: RepoSpec) -> ResolvedRef:
        """See `RepoProvider.resolve`. An answer that breaks the promise is a `SourceFault`, and the log says how."""
        try:
            resolved = await self._provider.resolve(spec)
        except ReplayError:
            raise
        except Exception as error:  # A mistake of that package is no reason to lose the service's own manners.
            logger.exception("the provider %s failed at %s", self.name, spec.text)
            raise self._fault() from error
        broken = _broken_promise(resolved, spec)
        if broken is not None:
            logger.error("the provider %s resolved %s to what %s: %r", self.name, spec.text, broken, resolved)
            raise self._fault()
        if resolved.is_commit:
            admit(resolved.fetch_url, self._rules)
        return resolved

    def _fault(self) -> SourceFault:
        return SourceFault(
            f"The part of this hub that understands “{self.name}” links made a mistake. Tell those who run it."
        )


def _broken_promise(resolved: object, spec: RepoSpec) -> str | None:
    """What is wrong with an answer, in words that follow “what”; ``None`` where nothing is."""
    if not isinstance(resolved, ResolvedRef):
        return "is no ResolvedRef"
    if resolved.spec != spec:
        return "is of another spec"
    try:
        if Repository.of_url(resolved.repository.url) != resolved.repository:
            return "has a repository that is not spelled as Repository.of_url does it"
        spec.pinned_to(resolved.version)
    except BadLink:
        return "has no address of a repository, or no version that a link could pin"
    if resolved.is_commit and not FULL_SHA.fullmatch(resolved.version):
        return "is pinned to no full SHA"
    asked = spec.ref.lower() if FULL_SHA.fullmatch(spec.ref.lower()) else spec.ref if spec.is_pinned_record else None
    if asked is not None and resolved.version != asked and not resolved.version.startswith(f"{asked}-"):
        return "is another version than the link pins"
    return None
