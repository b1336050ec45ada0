"""Frozen values, enums and rules of the house. Standard library only: no input, no output, no other room of ours.

The words are those of ``docs/architecture.md``; the link syntax is BinderHub's
(https://binderhub.readthedocs.io/en/latest/reference/repoproviders.html).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType, Self
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit, urlunsplit

from replay_build_service.errors import BadLink, UnknownProvider

BuildId = NewType("BuildId", str)
LaunchId = NewType("LaunchId", str)

MAX_SPEC_LENGTH = 2000
"""Characters of a spec. GitHub's longest names stay below 200; a URL that servers accept, below 2,000."""

MAX_URLPATH_LENGTH = 2000

_LOCATOR_SEGMENTS: Mapping[str, int] = {"gh": 2, "git": 1}
"""How many path segments of a spec name the repository; what follows them is the ref."""


@dataclass(frozen=True, slots=True)
class RepoSpec:
    """A provider and how a repository and a ref are named there: ``gh`` + ``octocat/hello`` + ``HEAD``."""

    provider: str
    locator: str
    """The repository as that provider names it, percent-decoded: ``owner/name``, or a URL."""
    ref: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """``<provider>/<spec>`` as it stands in a link after ``/v2/``, still percent-encoded.

        Raises `UnknownProvider` and `BadLink`, each with a sentence that says what a good spelling is.
        """
        if len(text) > MAX_SPEC_LENGTH:
            raise BadLink(f"This link is too long: {len(text)} characters, and at most {MAX_SPEC_LENGTH} are read.")
        provider, _, spec = text.strip("/").partition("/")
        segments_wanted = _LOCATOR_SEGMENTS.get(provider)
        if segments_wanted is None:
            known = ", ".join(sorted(_LOCATOR_SEGMENTS))
            raise UnknownProvider(f"There is no provider “{_shown(provider)}” here. The providers are: {known}.")
        parts = spec.split("/")
        locator = "/".join(_decoded(part) for part in parts[:segments_wanted])
        ref = "/".join(_decoded(part) for part in parts[segments_wanted:])
        if not all(parts[:segments_wanted]) or len(parts) < segments_wanted:
            raise BadLink(f"This link names no repository. It should read {_example(provider)}.")
        if not ref:
            raise BadLink(f"This link names no branch, tag or commit. Did you mean /v2/{provider}/{_shown(spec.strip('/'))}/HEAD?")
        if provider == "git" and "://" not in locator:
            raise BadLink(f"The repository of a git link is a whole URL, percent-encoded: {_example(provider)}.")
        if provider == "gh" and not _GITHUB_LOCATOR.fullmatch(locator):
            raise BadLink(f"That cannot be an owner and a repository of GitHub. The link should read {_example(provider)}.")
        _check_ref(ref)
        spec_of = cls(provider, locator, ref)
        _check_path(spec_of.url)
        return spec_of

    @property
    def url(self) -> str:
        """The repository's address as the link means it; made from the link alone."""
        return f"https://github.com/{self.locator}" if self.provider == "gh" else self.locator

    @property
    def text(self) -> str:
        """The canonical spelling, percent-encoded, as it follows ``/v2/`` in a link."""
        return self.with_ref(self.ref)

    def with_ref(self, ref: str) -> str:
        """The same repository at another ref, as it follows ``/v2/`` in a link."""
        locator = quote(self.locator, safe="") if self.provider == "git" else quote(self.locator, safe="/")
        return f"{self.provider}/{locator}/{quote(ref, safe='/')}"


def _decoded(part: str) -> str:
    try:
        text = unquote(part, errors="strict")
    except UnicodeDecodeError as error:
        raise BadLink("This link holds bytes that are not text. Copy it again from where you found it.") from error
    if any(_is_invisible(character) for character in text):
        raise BadLink("This link holds spaces or control characters, which no repository or ref has.")
    return text


def _is_invisible(character: str) -> bool:
    """Spaces, controls, surrogates, and what turns the direction of text around, so that a page shows what is meant."""
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"}


def _shown(text: str) -> str:
    visible = "".join("\N{REPLACEMENT CHARACTER}" if _is_invisible(character) else character for character in text[:81])
    return visible if len(visible) <= 80 else visible[:77] + "…"


def _example(provider: str) -> str:
    return {
        "gh": "/v2/gh/OWNER/REPOSITORY/HEAD",
        "git": "/v2/git/https%3A%2F%2Fexample.org%2Frepository.git/HEAD",
    }[provider]


_GITHUB_LOCATOR = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
"""The letters of GitHub's names; the provider knows the rest of GitHub's rule."""

# https://git-scm.com/docs/git-check-ref-format, and nothing that a command could take for an option.
_BAD_REF = re.compile(r"(^[-/.])|(\.\.)|(//)|(/\.)|(@\{)|([~^:?*\[\\])|((\.|/|\.lock)$)")


def _check_ref(ref: str) -> None:
    if _BAD_REF.search(ref):
        raise BadLink(f"“{_shown(ref)}” cannot be the name of a branch, tag or commit.")


def _check_path(url: str) -> None:
    try:
        path = urlsplit(url).path
    except ValueError as error:
        raise BadLink("The repository's address is not a URL.") from error
    segments = unquote(path).split("/")
    if any(segment in {".", ".."} or segment.startswith("-") for segment in segments):
        raise BadLink("A repository's address cannot hold “.” or “..” as a part, nor a part that starts with “-”.")


@dataclass(frozen=True, slots=True)
class Repository:
    """The canonical identity of a repository, equal for every spelling of it.

    ``gh/O/R`` and ``git/https://github.com/o/r.git`` are one repository. Policies, limits and records count by it.
    """

    url: str

    @classmethod
    def of_url(cls, url: str) -> Self:
        """From an address: host in lower case, default port, ``.git`` and credentials dropped.

        GitHub and GitLab do not tell upper from lower case in names, so neither does their identity.
        Raises `BadLink` where the text is no URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BadLink("The repository's address is not a URL.") from error
        try:
            host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii").lower()
            segments = [quote(unquote_to_bytes(part), safe="~!$&'()*+,;=:@") for part in parts.path.split("/") if part]
        except UnicodeError as error:
            raise BadLink("The repository's address holds what no host and no path could have.") from error
        if not host:
            raise BadLink("The repository's address names no host.")
        host = f"[{host}]" if ":" in host else host
        if port is not None and port != {"https": 443, "http": 80}.get(parts.scheme):
            host = f"{host}:{port}"
        path = "".join(f"/{segment}" for segment in segments).removesuffix(".git")
        if host in {"github.com", "gitlab.com", "www.github.com"}:
            host, path = host.removeprefix("www."), path.lower()
        return cls(urlunsplit((parts.scheme.lower(), host, path, "", "")))

    @property
    def short(self) -> str:
        """For a heading: ``github.com/owner/name``."""
        return self.url.partition("://")[2]


@dataclass(frozen=True, slots=True)
class ResolvedRef:
    """A repository and an immutable version of it. What is resolved is exactly what is fetched."""

    repository: Repository
    spec: RepoSpec
    fetch_url: str
    version: str
    """The commit's full SHA, in lower case."""

    @property
    def short_version(self) -> str:
        return self.version[:10]


@dataclass(frozen=True, slots=True)
class BuildRecipe:
    """Everything but the ref that changes the image."""

    builder: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 over builder and parameters; the order of the parameters does not matter."""
        text = json.dumps([self.builder, sorted(self.parameters)], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ImageName:
    """Repository and tag of an image. The same ref and recipe always give the same name, whatever the time or machine."""

    repository: str
    tag: str

    @classmethod
    def of(cls, resolved: ResolvedRef, recipe: BuildRecipe, prefix: str = "replay") -> Self:
        """A name that a registry accepts: a readable slug plus a hash of the whole, so that no two repositories share one."""
        slug = re.sub(r"[^a-z0-9]+", "-", resolved.repository.short.lower()).strip("-")[:80].strip("-")
        identity = hashlib.sha256(resolved.repository.url.encode()).hexdigest()[:10]
        return cls(f"{prefix}/{slug}-{identity}", f"{resolved.version}-{recipe.digest[:12]}")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The inverse of ``str()``."""
        repository, _, tag = text.rpartition(":")
        return cls(repository, tag)

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class RunnableImage:
    """What a server runs: always immutable, named by a digest."""

    reference: str
    """``venv@sha256:…`` (an environment on this machine), later a registry digest or an engine's image id."""
    location: str
    """Where it lies: a folder, or the registry's name of it."""


class Phase(StrEnum):
    """The phases that a launch goes through, in BinderHub's words."""

    WAITING = "waiting"
    FETCHING = "fetching"
    BUILDING = "building"
    PUSHING = "pushing"
    BUILT = "built"
    LAUNCHING = "launching"
    READY = "ready"
    FAILED = "failed"


def build_stream(build_id: BuildId) -> str:
    """The name of a build's stream of events."""
    return f"build:{build_id}"


def launch_stream(launch_id: LaunchId) -> str:
    """The name of a launch's stream of events."""
    return f"launch:{launch_id}"


class BuildStatus(StrEnum):
    """``QUEUED → RUNNING → SUCCEEDED | FAILED | CANCELLED``; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in {BuildStatus.SUCCEEDED, BuildStatus.FAILED, BuildStatus.CANCELLED}


class FailureReason(StrEnum):
    """Why a build did not end in an image. A closed set: it is a metric's label and a key of the help texts."""

    CANNOT_BUILD = "cannot_build"
    """The repository asks for something that this builder does not do."""
    FETCH = "fetch"
    """The sources could not be fetched."""
    DEPENDENCIES = "dependencies"
    """Its requirements cannot be resolved or installed."""
    PYTHON = "python"
    """The Python it asks for cannot be had."""
    POST_BUILD = "post_build"
    """The repository's own ``postBuild`` failed."""
    TIMEOUT = "timeout"
    """It took longer than the limit."""
    OUTPUT_LIMIT = "output_limit"
    """It printed more than the limit."""
    KILLED = "killed"
    """Its process was ended from outside, or vanished."""
    CANCELLED = "cancelled"
    """Somebody who may do so cancelled it, or the service was told to stop its builds when it ends."""
    INTERNAL = "internal"
    """A fault of Replay's own."""


@dataclass(frozen=True, slots=True)
class BuildFailure:
    reason: FailureReason
    message: str
    """A sentence for the person, with what to do next."""


@dataclass(frozen=True, slots=True)
class BuildJob:
    """What a builder is asked to make."""

    build_id: BuildId
    image_name: ImageName
    resolved: ResolvedRef
    recipe: BuildRecipe


@dataclass(frozen=True, slots=True)
class Build:
    """One attempt to make one image."""

    job: BuildJob
    status: BuildStatus
    requested_by: str
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    image: RunnableImage | None = None
    failure: BuildFailure | None = None

    @property
    def id(self) -> BuildId:
        return self.job.build_id


class EventKind(StrEnum):
    PHASE = "phase"
    LINE = "line"


@dataclass(frozen=True, slots=True)
class Event:
    """A phase or a line of a log. ``sequence`` counts from 1 within its stream, without a gap."""

    sequence: int
    kind: EventKind
    phase: Phase
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that has no sequence number yet: the store gives it one."""

    kind: EventKind
    phase: Phase
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StreamPage:
    """Some events of a stream, in order."""

    events: tuple[Event, ...]
    finished: bool
    """No event will ever follow the last of these."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a session gets. Memory in bytes, CPU in cores; ``None`` is no limit and no guarantee."""

    memory_guarantee: int | None = None
    memory_limit: int | None = None
    cpu_guarantee: float | None = None
    cpu_limit: float | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks, as the hub knows them."""

    name: str
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class VOPolicy:
    """What the members of one VO may run, with how much."""

    vo: str
    resources: Resources
    enrolment_url: str | None = None


class LaunchState(StrEnum):
    """``BUILDING → STARTING → RUNNING → ENDED``; ``CHOOSING`` waits for the person (another server runs); ``FAILED`` is final."""

    BUILDING = "building"
    CHOOSING = "choosing"
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in {LaunchState.ENDED, LaunchState.FAILED}


@dataclass(frozen=True, slots=True)
class Launch:
    """One person's single-use wish to run one image."""

    id: LaunchId
    user: str
    server_name: str
    resolved: ResolvedRef
    image_name: ImageName
    vo: str
    urlpath: str
    state: LaunchState
    created_at: datetime
    build_id: BuildId | None = None
    """The build that this launch waits for or waited for; none where the image was there."""
    image: RunnableImage | None = None
    consumed_at: datetime | None = None
    """When the spawner fetched its plan. A launch is used once."""
    failure: str | None = None


def safe_urlpath(urlpath: str) -> str:
    """A path below the person's own server, without its leading slash; empty for the server's own default.

    Raises `BadLink` for whatever could lead a browser elsewhere: another site, a scheme, a backslash, ``..``, control characters.
    """
    if len(urlpath) > MAX_URLPATH_LENGTH:
        raise BadLink("The path to open in this link is too long.")
    text = unquote(urlpath)
    path = re.split(r"[?#]", urlpath, maxsplit=1)[0]
    try:
        parts = urlsplit(urlpath)
    except ValueError as error:
        raise BadLink("The path to open in this link is no path. Use one such as lab/tree/index.ipynb.") from error
    if (
        parts.scheme
        or parts.netloc
        or "\\" in text
        or any(ord(character) < 32 or ord(character) == 127 for character in text)
        or text.startswith("//")
        or any(part.strip() == ".." for part in unquote(unquote(path)).split("/"))
    ):
        raise BadLink("The path to open in this link leads outside the session. Use a path below it, such as lab/tree/index.ipynb.")
    return urlpath.lstrip("/")


class ServerStatus(StrEnum):
    """What the hub says of a person's server."""

    ABSENT = "absent"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Server:
    """A person's server as the hub has it."""

    status: ServerStatus
    url: str = ""
    """Path on the hub's host, with a slash at the end: ``/user/ada/``. Empty where there is no server."""
    launch_id: LaunchId | None = None
    """Whose launch it became; ``None`` for the hub's ordinary server."""


@dataclass(frozen=True, slots=True)
class StartProgress:
    """One event of a server's start."""

    message: str
    ready: bool = False
    failed: bool = False
