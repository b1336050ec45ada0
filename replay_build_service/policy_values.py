"""What a policy is made of: resources, placement, limits, features, terms. Frozen values and their own rules.

Standard library only, and of ours the links, the errors and what managers decide. Where policies come from is the
business of `policy_file`, what they decide that of `policies`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Self
from urllib.parse import unquote

from replay_build_service.errors import BadLink, LimitReached
from replay_build_service.links import Repository
from replay_build_service.rulings import Terms
from replay_build_service.syntax import syntax_of

SERVERS_PER_REPOSITORY = 100
"""How many servers a repository may have at once where a policy says no other number; as BinderHub and EGI Replay have it."""

MOST_PATTERN_CHARACTERS = 500


# resources


@dataclass(frozen=True, slots=True)
class GPUs:
    """Graphics processors of a session, as Kubernetes names and counts them."""

    resource: str
    """Such as ``nvidia.com/gpu``."""
    count: int


@dataclass(frozen=True, slots=True)
class Resources:
    """What a session gets. Memory in bytes, CPU in cores; ``None`` is no limit and no guarantee."""

    memory_guarantee: int | None = None
    memory_limit: int | None = None
    cpu_guarantee: float | None = None
    cpu_limit: float | None = None
    gpus: GPUs | None = None

    @property
    def reserved_memory(self) -> int | None:
        """Bytes that count as used while it runs: the guarantee, or the limit where there is none."""
        return self.memory_limit if self.memory_guarantee is None else self.memory_guarantee

    @property
    def reserved_cores(self) -> float | None:
        """As `reserved_memory`."""
        return self.cpu_limit if self.cpu_guarantee is None else self.cpu_guarantee


@dataclass(frozen=True, slots=True)
class Toleration:
    """A taint of nodes that a session's pod tolerates, in Kubernetes' words; ``None`` leaves a field out."""

    key: str | None = None
    operator: str | None = None
    value: str | None = None
    effect: str | None = None
    seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """On which nodes of a cluster sessions run."""

    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()


# repositories


@dataclass(frozen=True, slots=True)
class RepositoryPattern:
    """A repository, or many: ``github.com/owner/name``, ``github.com/owner/*``, ``git.example.org/**``.

    Compared with a repository's canonical identity without its scheme, so that no spelling of a link makes a difference. ``*`` stands
    for anything within one part of the address, ``**`` as the last part for all that is below, or alone for all there is.
    """

    text: str
    """Its one spelling."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the repository's address, with or without its scheme, or ``gh/owner/name`` as in links.

        Raises `BadLink` with what to write instead.
        """
        return cls(_canonical_pattern(text))

    @property
    def is_exact(self) -> bool:
        return "*" not in self.text

    def as_repository(self) -> Repository:
        """The one that an exact pattern names."""
        return Repository.of_url(f"https://{self.text}")

    def matches(self, repository: Repository) -> bool:
        """Whether it names this repository; for what is allowed. Hosts that tell upper from lower case are taken at their word."""
        return _expression(self.text, 0).fullmatch(repository.short) is not None

    def matches_any_case(self, repository: Repository) -> bool:
        """As `matches`, for what is denied or counted: many hosts do not tell upper from lower case, and do not say so."""
        return _expression(self.text, re.IGNORECASE).fullmatch(repository.short) is not None


def _canonical_pattern(text: str) -> str:
    spelled = text.strip()
    if len(spelled) > MOST_PATTERN_CHARACTERS:
        raise BadLink(
            f"A pattern of {len(spelled)} characters names no repository: at most {MOST_PATTERN_CHARACTERS} are read."
        )
    if spelled == "**":
        return spelled
    address = f"github.com/{spelled[3:]}" if spelled.startswith("gh/") else spelled
    scheme, mark, _ = address.partition("://")
    problem = (
        f"“{_shown(spelled)}” is no pattern for repositories. It should read github.com/OWNER/NAME, or github.com/OWNER/* for "
        "all of an owner's."
    )
    if (mark and scheme.lower() not in {"https", "http"}) or re.search(r"[\s?#@\\]", unquote(address)):
        raise BadLink(problem)
    try:
        found = Repository.of_url(address if mark else f"https://{address}").short
    except BadLink as error:
        raise BadLink(problem) from error
    host, _, path = found.partition("/")
    _refuse_what_names_none(spelled, host, path)
    return found


_OTHERWISE_KNOWN = tuple(
    (re.compile(pattern, re.IGNORECASE), instead)
    for pattern, instead in (
        (
            r"(?:zenodo|figshare|dataverse|doi|(?:www|dx)\.doi\.org|(?:www\.|sandbox\.)?zenodo\.org|(?:[^/]+\.)?figshare\.com)/.*"
            r"|doi\.org/.*figshare\.[0-9]+\.v[0-9]+",
            "doi.org/DOI, with the DOI that all versions share",
        ),
        (r"(?:hydroshare|hydroshare\.org|doi\.org/10\.4211)/.*", "www.hydroshare.org/resource/ID"),
        (r"(?:osf|doi\.org/10\.17605)/.*", "osf.io/ID"),
        (
            r"swh/.*|archive\.softwareheritage\.org/swh:1:(?:rev|rel|snp):.*",
            "archive.softwareheritage.org/swh:1:dir:ID, the directory that is meant",
        ),
    )
)
"""What one could take for the address of a record, and what its records are known by: see `replay_build_service.sources`."""


def _refuse_what_names_none(spelled: str, host: str, path: str) -> None:
    """Raises `BadLink` for what would never match anything, or not as it reads."""
    if not path:
        raise BadLink(f"“{_shown(spelled)}” names no repository. For all that a host has, write {_shown(host)}/**.")
    parts = path.split("/")
    for pattern, instead in _OTHERWISE_KNOWN:
        if pattern.fullmatch(f"{host}/{path}"):
            raise BadLink(f"“{_shown(spelled)}” never matches: write {instead}.")
    if syntax_of(host) is not None:
        raise BadLink(f"“{_shown(spelled)}” never matches: write its address, as the page shows it before a launch.")
    if host == "gist.github.com" and len(parts) > 1:
        raise BadLink(
            f"“{_shown(spelled)}”: whose a gist is cannot be checked, so none can be named by its owner. Write gist.github.com/ID."
        )
    if any("**" in part for part in (host, *parts[:-1])) or ("**" in parts[-1] and parts[-1] != "**"):
        raise BadLink(f"“{_shown(spelled)}”: ** stands for all that is below, as the last part: github.com/OWNER/**.")
    if host in {"github.com", "gitlab.com"} and len(parts) == 1 and parts[0] != "**":
        raise BadLink(
            f"“{_shown(spelled)}” names an owner and no repository. For all of theirs write {_shown(host)}/{_shown(path)}/**."
        )


@lru_cache(maxsize=20_000)
def _expression(pattern: str, flags: int) -> re.Pattern[str]:
    """Matches in a time that grows with the length of what it is compared with, whatever the pattern."""
    if pattern == "**":
        return re.compile(r".+")
    host = pattern.partition("/")[0]
    if "*" in host:
        # It may stand for a host whose names have no upper case, and those are kept in lower case.
        flags |= re.IGNORECASE
    return re.compile("/".join(".+" if part == "**" else _part(part) for part in pattern.split("/")), flags)


def _part(part: str) -> str:
    first, *others = (re.escape(piece) for piece in re.split(r"\*+", part))
    if not others:
        return first
    # All but the last star take as little as they can, and never look back.
    middle = "".join(f"(?>[^/]*?{piece})" for piece in others[:-1])
    return f"{first}{middle}[^/]*{others[-1]}"


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:79]}…"


# limits


class Limited(StrEnum):
    """What is counted. A closed set."""

    PERSON = "servers of a person"
    VO = "servers of a VO"
    REPOSITORY = "servers of a repository"
    BUILDS = "builds of a person"


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The limits of one launch; ``None`` is no limit. Counted in the transaction that stores it."""

    person: int | None = None
    vo: int | None = None
    repository: int | None = None
    builds: int | None = None

    def of(self, limited: Limited) -> int | None:
        return {
            Limited.PERSON: self.person,
            Limited.VO: self.vo,
            Limited.REPOSITORY: self.repository,
            Limited.BUILDS: self.builds,
        }[limited]

    def refuse(self, counts: Counts, vo: str, repository: Repository) -> None:
        """Raises `LimitReached` where one more would be too many."""
        for limited in Limited:
            most, count = self.of(limited), counts.of(limited)
            if most is not None and count >= most:
                raise limit_reached(limited, most, count, vo, repository)


@dataclass(frozen=True, slots=True)
class BuildCeiling:
    """How many builds one person may have under way, by which VO's policy."""

    most: int
    vo: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What there is now, of what is limited: on its way or running."""

    person: int = 0
    vo: int = 0
    repository: int = 0
    builds: int = 0

    def of(self, limited: Limited) -> int:
        return {
            Limited.PERSON: self.person,
            Limited.VO: self.vo,
            Limited.REPOSITORY: self.repository,
            Limited.BUILDS: self.builds,
        }[limited]


def limit_reached(limited: Limited, most: int, count: int, vo: str, repository: Repository) -> LimitReached:
    """The refusal, with the limit, the count and what to do."""
    match limited:
        case Limited.PERSON:
            text = (
                f"You have {_servers(count)} for {vo}, on their way or running, and {vo} allows each person {most} at once. Stop one of "
                "yours first."
            )
        case Limited.VO:
            text = (
                f"{vo} has {_servers(count)}, on their way or running, and {most} is all that it may have at once. Try again when somebody "
                f"has stopped theirs, or ask a manager of {vo}."
            )
        case Limited.REPOSITORY:
            text = (
                f"{repository.short} has {_servers(count)}, on their way or running, and {vo} allows at most {most} of one repository at "
                "once. Try again when somebody has stopped theirs, or ask the administrators for a higher number ahead of a course."
            )
        case Limited.BUILDS:
            text = (
                f"{count} {'build' if count == 1 else 'builds'} that you asked for {'is' if count == 1 else 'are'} under way, and {vo} "
                f"allows each person {most} at once. Wait until one has ended, or give up its launch."
            )
    return LimitReached(text, limited, most, count)


def _servers(count: int) -> str:
    return f"{count} {'server' if count == 1 else 'servers'}"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much there may be at once; ``None`` is no limit."""

    servers_per_person: int | None = None
    servers: int | None = None
    """Of all members together."""
    builds_per_person: int | None = None
    servers_per_repository: int = SERVERS_PER_REPOSITORY
    """Of one repository, whoever runs them and for whichever VO."""
    servers_of_repositories: tuple[tuple[RepositoryPattern, int], ...] = ()
    """Numbers of their own for some; the first that matches counts."""

    def ceilings(self, repository: Repository) -> Ceilings:
        """Those that hold for a launch of this repository."""
        own = (number for pattern, number in self.servers_of_repositories if pattern.matches_any_case(repository))
        return Ceilings(
            self.servers_per_person,
            self.servers,
            next(own, self.servers_per_repository),
            self.builds_per_person,
        )


# features


class FeatureState(StrEnum):
    """What a policy says of a feature of sessions."""

    FORBIDDEN = "forbidden"
    OFFERED = "offered"
    """The person may tick it. The state of whatever a policy does not name."""
    PRESELECTED = "preselected"
    """Ticked, and may be unticked."""


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that a session can get beside its image."""

    name: str
    title: str
    """For the consent page's box."""
    explanation: str = ""
    """What it means for the person."""


# the policy


@dataclass(frozen=True, slots=True)
class Community:
    """How a community's own instance is called and marked on the pages."""

    name: str
    logo: str | None = None
    """``https://…``, or a path on the hub's own host."""


@dataclass(frozen=True, slots=True)
class VOPolicy:
    """What the members of one VO may run, with how much. The administrators' ceiling: managers only narrow it."""

    vo: str
    resources: Resources
    enrolment_url: str | None = None
    placement: Placement = Placement()
    limits: Limits = Limits()
    features: Mapping[str, FeatureState] = field(default_factory=dict[str, FeatureState])
    allowed: tuple[RepositoryPattern, ...] = ()
    """Empty: all that are not denied."""
    denied: tuple[RepositoryPattern, ...] = ()
    maximum_age: timedelta | None = None
    """How long a session may run before the service stops it."""
    managers: tuple[str, ...] = ()
    """What makes somebody a manager: a requirement of membership, or ``user:NAME``."""
    banner: str = ""
    terms: Terms | None = None
    community: Community | None = None

    def state_of(self, feature: Feature) -> FeatureState:
        return self.features.get(feature.name, FeatureState.OFFERED)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a person may have for one of their VOs, as the consent page shows it."""

    policy: VOPolicy
    banner: str = ""
    terms: Terms | None = None
    """What they have not agreed to yet."""
    features: tuple[tuple[Feature, bool], ...] = ()
    """Each with whether it is ticked."""
    refusal: str = ""
    """Why they may not run this for this VO; empty where they may."""
