"""Images that are kept in a registry, as every builder that pushes knows them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from replay_build_service.domain import (
    BuildFailure,
    BuildJob,
    FailureReason,
    ImageConfiguration,
    ImageName,
    InlineCache,
    RunnableImage,
)
from replay_build_service.errors import SourceFault

log = logging.getLogger(__name__)

_MOST_CONFIGURATIONS = 1000
_MOST_CACHES = 4


NOT_THERE = (
    "The image was built, but {where} of this site has it not. Open the link again; if that does not help, "
    "tell those who run the site."
)


class ImageRegistry(Protocol):
    """What builders ask of a registry. Each raises `SourceFault` where that cannot be known now."""

    @property
    def host(self) -> str:
        """What the names of its images begin with."""
        ...

    async def exists(self, repository: str, reference: str) -> bool: ...
    async def is_whole(self, repository: str, digest: str) -> bool:
        """Whether the image is there with all its parts."""
        ...

    async def image_configuration(self, repository: str, digest: str) -> ImageConfiguration | None: ...
    async def inline_cache(self, repository: str, digest: str) -> InlineCache | None: ...
    async def delete(self, repository: str, digest: str) -> bool: ...


def refusal(configuration: ImageConfiguration) -> BuildFailure | None:
    """Why sessions of this image are refused before anybody waits for one; ``None`` where they may be tried. Pure."""
    name = configuration.user.partition(":")[0].strip()
    # What is a number to the engine must be one that an account can have. Names are looked up where a session starts.
    is_number = re.fullmatch(r"[+-]?[0-9]+", name) is not None
    if name in {"", "root"} or (is_number and not (len(name) < 20 and 0 < int(name) < 2**31)):
        return BuildFailure(
            FailureReason.CANNOT_BUILD,
            "The image would run as root, which is not allowed here. End its Dockerfile with a user of its own, such as "
            "“USER 1000”, who owns the folder that the notebook works in.",
        )
    return None


class KnownConfigurations:
    """Configurations of images by reference, which always means the same image; the latest used are kept."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, ImageConfiguration] = OrderedDict()

    def get(self, reference: str) -> ImageConfiguration | None:
        """What is known of it."""
        if reference in self._kept:
            self._kept.move_to_end(reference)
        return self._kept.get(reference)

    def keep(self, reference: str, configuration: ImageConfiguration) -> None:
        """Know it from now on."""
        self._kept[reference] = configuration
        if len(self._kept) > _MOST_CONFIGURATIONS:
            self._kept.popitem(last=False)


class RegistryImages:
    """The images of one registry below one prefix."""

    def __init__(self, registry: ImageRegistry, prefix: str) -> None:
        """``prefix`` is what repositories begin with, behind the host; it may be empty."""
        self._registry = registry
        self._prefix = prefix.strip("/")
        self._known = KnownConfigurations()

    def repository(self, name: ImageName) -> str:
        """Within the registry."""
        return f"{self._prefix}/{name.repository}" if self._prefix else name.repository

    def full_name(self, name: ImageName) -> str:
        """``registry/prefix/repository:tag``."""
        return f"{self._registry.host}/{self.repository(name)}:{name.tag}"

    def made(self, name: ImageName, digest: str) -> RunnableImage:
        """What a build pushed, by its digest."""
        location = f"{self._registry.host}/{self.repository(name)}@{digest}"
        return RunnableImage(location, location)

    def place_of(self, image: RunnableImage) -> tuple[str, str] | None:
        """Repository and digest of an image here; ``None`` for another registry's, one that was configured before."""
        name, _, digest = image.location.partition("@")
        host = f"{self._registry.host}/"
        return (name.removeprefix(host), digest) if name.startswith(host) else None

    async def exists(self, image: RunnableImage, *, thoroughly: bool = False) -> bool:
        """See `Builder.exists`."""
        place = self.place_of(image)
        if place is None:
            return False
        return await (self._registry.is_whole(*place) if thoroughly else self._registry.exists(*place))

    async def configuration(self, image: RunnableImage) -> ImageConfiguration | None:
        """How it wants to be run; ``None`` where it is not here. Raises `SourceFault`."""
        if (known := self._known.get(image.reference)) is not None:
            return known
        place = self.place_of(image)
        found = None if place is None else await self._registry.image_configuration(*place)
        if found is not None:
            self._known.keep(image.reference, found)
        return found

    async def outcome(self, job: BuildJob, digest: str) -> RunnableImage | BuildFailure:
        """What a build that pushed this has made. Raises `SourceFault` where the registry cannot say."""
        image = self.made(job.image_name, digest)
        configuration = await self.configuration(image)
        if configuration is None:
            return BuildFailure(FailureReason.REGISTRY, NOT_THERE.format(where="the registry"))
        failure = refusal(configuration)
        if failure is not None:
            await self._forget(job, digest)
        return failure or image

    async def _forget(self, job: BuildJob, digest: str) -> None:
        try:
            await self._registry.delete(self.repository(job.image_name), digest)
        except SourceFault as error:
            # Many registries allow no deletes; what lies there is used by nobody.
            log.info("The refused image %s stays in the registry: %s", job.image_name, error)

    async def caches(self, images: Sequence[RunnableImage]) -> list[str]:
        """The newest of the images, and of the older ones those that have what it took over itself and so cannot give."""
        known = zip(images, await asyncio.gather(*(self._inline_cache(one) for one in images)), strict=True)
        found = [(image.location, cache) for image, cache in known if cache is not None]
        if not found:
            return []
        wanted = set(found[0][1].chain)
        chosen: list[str] = []
        for location, cache in found:
            if not chosen or cache.reusable & wanted:
                chosen.append(location)
                wanted -= cache.reusable
        return chosen[:_MOST_CACHES]

    async def _inline_cache(self, image: RunnableImage) -> InlineCache | None:
        place = self.place_of(image)
        if place is None:
            return None
        try:
            return await self._registry.inline_cache(*place)
        except SourceFault as error:
            # The build does without: it takes longer, and makes the same.
            log.info("%s is no cache for a build: %s", image.location, error)
            return None
