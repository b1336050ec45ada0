"""Links and what they name: a spec, the repository that it means, a path to open. Standard library only.

Links come from strangers. What this room lets through is text that every other room may show, compare and pass on;
it asks nobody, so it cannot say whether a repository exists.

How each provider spells its specs is the table in `syntax`.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote, unquote_to_bytes, urlencode, urlsplit, urlunsplit

from replay_build_service.errors import BadLink, UnknownProvider
from replay_build_service.syntax import RefRule, known_syntaxes, syntax_of

MAX_SPEC_LENGTH = 2000
"""Characters of a spec. GitHub's longest names stay below 200; a URL that servers accept, below 2,000."""

MAX_URLPATH_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class RepoSpec:
    """A provider and how a repository and a ref are named there: ``gh`` + ``octocat/hello`` + ``HEAD``."""

    provider: str
    locator: str
    """The repository as that provider names it, percent-decoded: ``owner/name``, a URL, a DOI."""
    ref: str
    """A branch, tag or commit; of a record the version that is pinned, or nothing."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """``<provider>/<spec>`` as it stands in a link after ``/v2/``, still percent-encoded.

        Raises `UnknownProvider` and `BadLink`, each with a sentence that says what a good spelling is.
        """
        _check_length(text)
        provider, _, spec = text.strip("/").partition("/")
        syntax = syntax_of(provider)
        if syntax is None:
            known = ", ".join(one.provider for one in known_syntaxes())
            raise UnknownProvider(f"There is no provider “{_shown(provider)}” here. The providers are: {known}.")
        pinned = _PINNED.fullmatch(spec) if syntax.ref is RefRule.PIN else None
        if pinned is not None:
            spec = pinned["spec"]
        parts = spec.split("/")
        named = parts[: syntax.segments]
        locator = "/".join(_decoded(part) for part in named)
        if not all(named) or len(named) < (syntax.segments or 1):
            raise BadLink(f"This link names no repository. It should read /v2/{syntax.example}.")
        locator = syntax.locator(locator)
        syntax.address(locator)
        if not syntax.is_one_segment and not all(locator.split("/")):  # %2F at an end, or two together
            raise BadLink(f"This link names no repository. It should read /v2/{syntax.example}.")
        if syntax.ref is RefRule.PIN:
            ref = pinned["version"] if pinned is not None else ""
        else:
            ref = "/".join(_decoded(part) for part in parts[len(named) :])
            if not ref and syntax.ref is RefRule.OPTIONAL:
                ref = "HEAD"
            if not ref:
                raise BadLink(
                    f"This link names no branch, tag or commit. Did you mean /v2/{provider}/{_shown(spec.strip('/'))}/HEAD?"
                )
            _check_ref(ref)
        spec_of = cls(provider, locator, ref)
        _check_path(spec_of.url)
        _check_length(spec_of.text)  # what is kept, and read again: longer where letters had not been encoded
        return spec_of

    @property
    def url(self) -> str:
        """The repository's address as the link means it; made from the link alone.

        Raises `BadLink` where the locator is none of that provider's.
        """
        syntax = syntax_of(self.provider)
        return self.locator if syntax is None else syntax.address(self.locator)

    @property
    def is_pinned_record(self) -> bool:
        """Whether this names a record, and a version of it."""
        syntax = syntax_of(self.provider)
        return bool(self.ref) and syntax is not None and syntax.ref is RefRule.PIN

    def pinned_to(self, version: str) -> Self:
        """The same at exactly one version. Raises `BadLink` where that is no commit's full SHA, or no version of a record."""
        syntax = syntax_of(self.provider)
        is_record = syntax is not None and syntax.ref is RefRule.PIN
        if not (_RECORD_VERSION if is_record else _FULL_SHA).fullmatch(version):
            raise BadLink(
                "Only a commit's full SHA, in lower case, or a record's version as Replay shows it, names one for good."
            )
        return type(self)(self.provider, self.locator, version)

    @property
    def text(self) -> str:
        """The canonical spelling, percent-encoded, as it follows ``/v2/`` in a link."""
        return self.with_ref(self.ref)

    def with_ref(self, ref: str) -> str:
        """The same repository at another ref, as it follows ``/v2/`` in a link."""
        syntax = syntax_of(self.provider)
        if syntax is None:  # of a package that is installed no more
            return f"{self.provider}/{quote(self.locator, safe='')}/{quote(ref, safe='/')}"
        return f"{self.provider}/{syntax.written(self.locator, ref)}"


_FULL_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_RECORD_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_PINNED = re.compile(r"(?P<spec>[^@]*)@(?P<version>[A-Za-z0-9][A-Za-z0-9._-]{0,79})", re.DOTALL)
"""What follows the last ``@``. One in a locator is written ``%40``."""


def _check_length(text: str) -> None:
    if len(text) > MAX_SPEC_LENGTH:
        raise BadLink(f"This link is too long: {len(text)} characters, and at most {MAX_SPEC_LENGTH} are read.")


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
    visible = "".join(
        character if character.isprintable() and character != " " else "\N{REPLACEMENT CHARACTER}"
        for character in text[:81]
    )
    return visible if len(visible) <= 80 else visible[:77] + "…"


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


_HOST = re.compile(r"[a-z0-9_*-]+(?:\.[a-z0-9_*-]+)*|[0-9a-f.]*:[0-9a-f:.]*")
"""A name in ASCII, with a star where a policy has a pattern; or an IPv6 address without its brackets."""


@dataclass(frozen=True, slots=True)
class Repository:
    """The canonical identity of a repository, equal for every spelling of it.

    ``gh/O/R`` and ``git/https://github.com/o/r.git`` are one repository. Policies, limits and records count by it.
    """

    url: str

    @classmethod
    def of_url(cls, url: str) -> Self:
        """From an address: host in lower case, default port, ``.git`` in any case and credentials dropped.

        GitHub, GitLab and DOIs do not tell upper from lower case in names, so neither does their identity. A gist is its ID.
        Raises `BadLink` where the text is no URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BadLink("The repository's address is not a URL.") from error
        try:
            # A dot of another script becomes one, so both sides of the encoding may have one at the end.
            host = (parts.hostname or "").rstrip(".").encode("idna").decode("ascii").lower().rstrip(".")
            segments = [quote(unquote_to_bytes(part), safe="~!$&'()*+,;=:@") for part in parts.path.split("/") if part]
        except UnicodeError as error:
            raise BadLink("The repository's address holds what no host and no path could have.") from error
        if not host:
            raise BadLink("The repository's address names no host.")
        if not _HOST.fullmatch(host):
            raise BadLink("The repository's address holds what no host and no path could have.")
        host = f"[{host}]" if ":" in host else host
        if port is not None and port != {"https": 443, "http": 80}.get(parts.scheme):
            host = f"{host}:{port}"
        path = "".join(f"/{segment}" for segment in segments)
        while (shorter := re.sub(r"(\.git|/)$", "", path, flags=re.IGNORECASE)) != path:
            path = shorter
        if host in {"github.com", "gitlab.com", "www.github.com", "gist.github.com", "doi.org"}:
            host, path = host.removeprefix("www."), path.lower()
        if host == "gist.github.com":  # Where the ID alone says which it is, whoever's name stands before that.
            path = re.sub(r"^/[^/]+(?=/[0-9a-f]{5,64}$)", "", path)
        return cls(urlunsplit((parts.scheme.lower(), host, path, "", "")))

    @property
    def short(self) -> str:
        """For a heading: ``github.com/owner/name``."""
        return self.url.partition("://")[2]

    @property
    def folder_name(self) -> str:
        """What a folder with its files is called in a session: its own name, of letters that every shell takes as they are."""
        last = unquote(self.url.rstrip("/").rpartition("/")[2])
        return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip(".-")[:100] or "repository"

    @property
    def key(self) -> str:
        """What limits count by: one for all spellings that some host takes for the same.

        Many hosts do not tell upper from lower case, and do not say so. Two repositories of another host that differ in nothing
        else share one number.
        """
        return self.short.lower()

    @property
    def counted_as(self) -> tuple[str, str]:
        """All that a ``url`` of the same ``key`` can be, in lower case."""
        return f"https://{self.key}", f"http://{self.key}"


@dataclass(frozen=True, slots=True)
class ResolvedRef:
    """A repository and an immutable version of it. What is resolved is exactly what is fetched."""

    repository: Repository
    spec: RepoSpec
    fetch_url: str
    """Where a commit is fetched from; of a record ``SOURCE+https://…``, the address where exactly this version of it is listed."""
    version: str
    """The commit's full SHA, in lower case; of a record its version and a digest of the list of its files."""
    page: str = ""
    """Where people read about it, if that is not the repository's address. Not stored, like what follows."""
    title: str = ""
    license: str = ""

    @property
    def is_commit(self) -> bool:
        """Whether it is a commit of a git repository, and no record."""
        return self.fetch_url.startswith(("https://", "http://"))

    @property
    def asked_for(self) -> str:
        """The ref that the link has, where that is another than the version; of a record nothing."""
        return self.spec.ref if self.is_commit and self.spec.ref != self.version else ""

    @property
    def short_version(self) -> str:
        return self.version[:10] if self.is_commit else self.version.rpartition("-")[0]


def link_path(spec: str, content: str = "", urlpath: str = "") -> str:
    """The path of a link, from ``/v2/`` on. ``spec`` and ``content`` are as `RepoSpec.text`."""
    arguments = {name: value for name, value in (("content", content), ("urlpath", urlpath)) if value}
    return f"/v2/{spec}{'?' if arguments else ''}{urlencode(arguments, safe='/')}"


def safe_urlpath(urlpath: str) -> str:
    """A path below the person's own server, without its leading slash; empty for the server's own default.

    Raises `BadLink` for whatever could lead a browser elsewhere: another site, a scheme, a backslash, ``..``, control characters;
    and for characters that cannot be seen or turn the direction of text around.
    """
    if len(urlpath) > MAX_URLPATH_LENGTH:
        raise BadLink("The path to open in this link is too long.")
    text = unquote(urlpath)
    path = re.split(r"[?#]", urlpath, maxsplit=1)[0]
    try:
        # Also what is kept of it, which somebody may read again.
        leads_elsewhere = any(parts.scheme or parts.netloc for parts in map(urlsplit, (urlpath, urlpath.lstrip("/"))))
    except ValueError as error:
        raise BadLink("The path to open in this link is no path. Use one such as lab/tree/index.ipynb.") from error
    if (
        leads_elsewhere
        or "\\" in unquote(text)
        or any(ord(character) < 32 or ord(character) == 127 for character in text)
        or text.startswith("//")
        or any(part.strip() == ".." for part in unquote(unquote(path)).split("/"))
    ):
        raise BadLink(
            "The path to open in this link leads outside the session. Use a path below it, such as lab/tree/index.ipynb."
        )
    if any(_is_invisible(character) for character in unquote(text) if character != " "):
        raise BadLink(
            "The path to open in this link holds characters that cannot be seen. Rename the file, or open its folder."
        )
    return urlpath.lstrip("/")
