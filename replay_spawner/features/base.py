"""The protocol of a feature: something that a session gets beside its image, such as a token or a community's data.

A feature is a class that the entry point group ``replay.features`` names. It knows nothing of spawners, engines or clusters:
it says what a session is given, and each spawner brings that into its kind of sessions. A feature that fails never keeps a
session from starting, nor ends one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from traitlets.config import LoggingConfigurable

HOME = "{home}"
"""What a `SessionFile.folder` may begin with: the session's own folder."""


class Platform(StrEnum):
    """What sessions are here."""

    PROCESS = "process"
    CONTAINER = "container"
    POD = "pod"


class Token(Protocol):
    """An access token that was obtained for one session."""

    @property
    def value(self) -> str: ...
    @property
    def expires_at(self) -> float:
        """Seconds since the epoch, by this machine's clock."""
        ...


class TokenSource(Protocol):
    """Where a session's person gets access tokens from that are not the login's own."""

    async def obtain(self) -> Token:
        """A new one. Raises `Unavailable`."""
        ...

    async def give_back(self, value: str) -> None:
        """Have the provider end it, where that ends nothing else; raises nothing."""
        ...


class Unavailable(Exception):
    """What a feature gives cannot be had now. The text is a sentence for the person.

    ``is_final``: trying again will not help in this session, and it is not tried.
    """

    def __init__(self, sentence: str, *, is_final: bool = False) -> None:
        super().__init__(sentence)
        self.is_final = is_final


@dataclass(frozen=True, slots=True)
class SessionContext:
    """The session that a feature is for."""

    launch: str
    user: str
    """The person's name at the hub."""
    vo: str
    repository: str
    """The canonical address of the repository."""
    version: str
    platform: Platform
    home: str
    """Path of the session's own folder inside the session; empty where it is not known."""
    has: frozenset[str] | None = None
    """What the repository has at the top of that folder, by names; none where it cannot be known before the start."""
    tokens: TokenSource | None = field(default=None, compare=False)
    """None where the hub's login gives no tokens."""


@dataclass(frozen=True, slots=True)
class SessionFile:
    """A file that a session reads. Renewed by giving another of the same place and name."""

    folder: str
    """Absolute, or `HOME` and what follows. On a machine without containers an absolute folder is one of the session's own."""
    name: str
    content: bytes | None = field(repr=False)
    """None where it comes later."""
    is_secret: bool = True
    """Readable by the session's user alone; otherwise by everybody inside the session."""
    container: str = ""
    """The sidecar that reads it; empty for the session itself. Only where sessions are pods."""
    variable: str = ""
    """The environment variable that says where the file is."""


@dataclass(frozen=True, slots=True)
class PodParts:
    """What is added to a session's pod, in the API's own spelling. Volumes for `SessionFile` are the spawner's business.

    Which files there are, with their places, has to be known at the start; what is in them may come later.
    """

    containers: Sequence[Mapping[str, Any]] = ()
    """Sidecars, with images, resources and security contexts of their own."""
    volumes: Sequence[Mapping[str, Any]] = ()
    mounts: Sequence[Mapping[str, Any]] = ()
    """``volumeMounts`` of the person's container."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a session is given by one feature."""

    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Never a secret: an environment can be read where it should not be."""
    files: Sequence[SessionFile] = ()
    pod: PodParts = PodParts()
    renew_at: float | None = None
    """When `Feature.renew` is due, in seconds since the epoch; none for never."""
    notice: str = ""
    """A sentence for the person: what they have, or why not and when it is tried again."""
    is_complete: bool = True
    """Whether all is there that the feature is for."""


class Feature(LoggingConfigurable):
    """One feature of one session. Its instance is made when the session starts, or when a hub that was restarted finds it.

    What it does is bounded in time by who calls it. Raise `Unavailable` for what cannot be had; whatever else is raised is a
    fault of the feature, and is logged as such.
    """

    name: ClassVar[str]
    """As policies and links have it: lower-case letters, digits and ``-``."""
    title: ClassVar[str]
    """For the consent page's box: what the session gets."""
    explanation: ClassVar[str] = ""
    """For the consent page: what that means for the person."""

    session: SessionContext
    """Set before anything is asked of it."""

    async def prepare(self) -> Given:
        """What the session starts with."""
        return Given()

    async def renew(self) -> Given:
        """What it has from now on: files are replaced; environment and parts of pods stay as they were at the start."""
        return await self.prepare()

    async def resume(self, files: Mapping[tuple[str, str], bytes]) -> Given:
        """As `renew`, in a hub that was restarted; ``files`` are those that the session has now, by folder and name."""
        return await self.renew()

    async def clean_up(self) -> None:
        """The session has ended: give back what is its own elsewhere. Its files go with it by themselves."""


def half_of(expires_at: float) -> float:
    """When to renew what lives until then, so that all tries of the second half may fail: after half of what is left of it.

    Both in seconds since the epoch. What lives for twenty minutes or more is renewed ten minutes before its end at the latest.
    """
    now = time.time()
    return now + max(1.0, (expires_at - now) / 2)
