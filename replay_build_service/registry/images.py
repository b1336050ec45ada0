"""The few questions that a builder has, by repository and digest alone."""

from __future__ import annotations

from replay_build_service.domain import ImageConfiguration, InlineCache
from replay_build_service.registry.client import Registry


class Images:
    """The images of one registry. Each method raises `RegistryFault` where the answer cannot be known now."""

    def __init__(self, registry: Registry, host: str) -> None:
        """``host`` is what the names of its images begin with."""
        self._registry = registry
        self._host = host

    @property
    def host(self) -> str:
        return self._host

    async def exists(self, repository: str, reference: str) -> bool:
        """Whether there is an image or an index of that tag or digest."""
        return await self._registry.exists(repository, reference)

    async def digest(self, repository: str, reference: str) -> str | None:
        """What a tag stands for now, an index where it is one; ``None`` where there is none."""
        manifest = await self._registry.manifest(repository, reference)
        return None if manifest is None else manifest.index_digest or manifest.digest

    async def is_whole(self, repository: str, digest: str) -> bool:
        """Whether the image is there with all its parts."""
        manifest = await self._registry.manifest(repository, digest)
        return manifest is not None and not await self._registry.missing_blobs(repository, manifest)

    async def image_configuration(self, repository: str, digest: str) -> ImageConfiguration | None:
        """How the image wants to be run; ``None`` where there is none."""
        manifest = await self._registry.manifest(repository, digest)
        return None if manifest is None else await self._registry.configuration(repository, manifest)

    async def inline_cache(self, repository: str, digest: str) -> InlineCache | None:
        """What builds can take over from the image; ``None`` where there is none."""
        manifest = await self._registry.manifest(repository, digest)
        return None if manifest is None else await self._registry.inline_cache(repository, manifest)

    async def delete(self, repository: str, digest: str) -> bool:
        """Delete it, with its tags; false where it was not there."""
        return await self._registry.delete(repository, digest)
