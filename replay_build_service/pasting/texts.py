"""From what somebody pasted to the one address in it: cleaned, out of a badge, a command or a sentence."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from replay_build_service.errors import BadLink
from replay_build_service.links import RepoSpec
from replay_build_service.pasting.archives import record, swhid
from replay_build_service.pasting.binders import of_spec
from replay_build_service.pasting.forges import at_ref
from replay_build_service.pasting.pasted import Pasted, at, nothing_known
from replay_build_service.pasting.web import read_address, read_git
from replay_build_service.syntax import RefRule, syntax_of

MOST_TEXT = 10_000
"""Characters that are read: a badge in HTML has some 300, a link at most 4,000."""

_QUOTES = "\"'`“”„‘’‚«»‹›"
_ENDS = ".,;:!?…" + _QUOTES
_BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}

_FOUND = re.compile(
    r"""(?:git\+)?(?:https?|ssh|git)://[^\s"'<>`\\|{}\[\]]+"""
    r"""|swh:1:[a-z]{3}:[0-9a-f]{40}[^\s"'<>`\\|{}\[\]]*"""
    r"""|(?<![\w./])10\.[0-9]{4,9}(?:\.[0-9]+)*/[^\s"'<>`\\|{}\[\]]+"""
    r"""|(?<![\w./@-])(?:www\.)?(?:github\.com|gitlab\.com|codeberg\.org|doi\.org|zenodo\.org|mybinder\.org)/[^\s"'<>`\\|{}\[\]]+"""
    r"""|(?<![\w.-])git@[\w.-]+:[^\s"'<>`\\|{}\[\]]+""",
    re.IGNORECASE,
)
"""An address in a text: it ends where no address goes on, or where one of its neighbours in a badge begins."""

_SCP = re.compile(r"[A-Za-z0-9._-]+@([A-Za-z0-9.-]+):(?!//)/?(\S+)")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(:[0-9]+)?/\S*")
_OWNER_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,38}/[A-Za-z0-9._-]{1,100})/?(?:@(\S+))?")
_SHORT = re.compile(r"(gh|github|gl|gitlab|codeberg|bitbucket):(?!/)(\S+)", re.IGNORECASE)
_SHORT_HOSTS = {"gh": "github.com", "github": "github.com", "gl": "gitlab.com", "gitlab": "gitlab.com"}

_MARKUP = re.compile(r"^[^A-Za-z0-9/]|[\s<{]|(?<!://)\[")
"""What no address has that stands alone."""

_CLONE = re.compile(
    r"(?:[$!%>#]\s*)?(?:sudo\s+)?(?:git\s+(?:-\S+\s+)?clone|gh\s+repo\s+clone|(?:jupyter-)?repo2docker)\s", re.I
)
_REF_OPTIONS = frozenset({"-b", "--branch", "--ref", "--revision"})


def read(text: str) -> Pasted:
    """What was pasted. Raises `BadLink`, with a sentence that says what can be."""
    if len(text) > MOST_TEXT:
        raise BadLink(
            f"This is too long: {len(text)} characters, and at most {MOST_TEXT} are read. Paste the address alone."
        )
    cleaned = _cleaned(text)
    if not cleaned:
        raise nothing_known()
    return _meant(cleaned).checked()


def _cleaned(text: str) -> str:
    """Without what cannot be seen, and without the quotes and brackets around it."""
    seen = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace() or unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn"}
    )
    seen = seen.strip(f" {_QUOTES}")
    while seen[:1] == "<" and seen[-1:] == ">" and " " not in seen and seen.count("<") == 1:
        seen = seen[1:-1].strip(f" {_QUOTES}")
    return seen


def _meant(text: str) -> Pasted:
    if _CLONE.match(text):
        return _cloned(text.split())
    if not _MARKUP.search(text):
        return read_one(_trimmed(text))
    doi = record(_trimmed(text)) if text[:4].lower() == "doi:" or text[:3] == "10." else None
    return doi or _named_in(text)


def read_one(text: str) -> Pasted:
    """One address of whatever kind. Raises `BadLink`."""
    lowered = text.lower()
    if lowered.startswith("swh:"):
        return swhid(text)
    if lowered.startswith(("10.", "doi:", "info:doi/")) and (found := record(text)) is not None:
        return found
    if (named := _SCHEME.fullmatch(text)) is not None:
        return _of_scheme(named[1].lower(), named[2])
    if (named := _SCP.fullmatch(text)) is not None:
        return read_git(f"{named[1]}/{named[2]}")
    if text.startswith("//") or (_HOST.fullmatch(text) and "." in text.partition("/")[0]):
        return read_address(f"https://{text.removeprefix('//')}")
    if (named := _SHORT.fullmatch(text)) is not None:
        host = _SHORT_HOSTS.get(named[1].lower(), f"{named[1].lower()}.org")
        return read_git(f"{host}/{named[2]}")
    if (found := _spec(text)) is not None:
        return found
    if (named := _OWNER_NAME.fullmatch(text)) is not None:
        owner_name, ref = named.groups()
        return at("gh", owner_name.removesuffix(".git"), ref or "HEAD")
    raise nothing_known()


def _of_scheme(scheme: str, rest: str) -> Pasted:
    match scheme:
        case "https" | "http":
            return read_address(f"{scheme}://{rest}")
        case "git+https" | "git+http" | "git+ssh" | "git+git":
            return _required(scheme.partition("+")[2], rest)
        case "ssh" | "git":
            # Its port is that of another protocol.
            host, slash, path = rest.rpartition("@")[2].partition("/")
            return read_git(f"{re.sub(r':[0-9]*$', '', host)}{slash}{path}")
        case _:
            raise BadLink(
                f"Replay does not fetch over {scheme[:20]}://. Paste the repository's https:// address, as its page shows it."
            )


def _required(scheme: str, rest: str) -> Pasted:
    """pip's way to name a repository: ``git+https://HOST/PATH@REF#egg=…`` (https://pip.pypa.io/en/stable/topics/vcs-support/)."""
    rest = rest.partition("#")[0]
    host, slash, path = rest.partition("/")
    path, _, ref = path.rpartition("@") if "@" in path else (path, "", "")
    if scheme in {"ssh", "git"}:
        return at_ref(_of_scheme(scheme, f"{host}{slash}{path}"), ref)
    return at_ref(read_address(f"{scheme}://{host}{slash}{path}"), ref)


def _spec(text: str) -> Pasted | None:
    """What follows a link's host, from ``/v2/`` on or without that; none where this is no such thing."""
    path, _, query = text.partition("#")[0].partition("?")
    path = path.removeprefix("/")
    is_link = path.startswith("v2/")
    path = path.removeprefix("v2/")
    provider, _, rest = path.partition("/")
    syntax = syntax_of(provider)
    if syntax is None or not rest:
        return None
    if not is_link and rest.count("/") == 0 and (syntax.ref is not RefRule.PIN or not _is_record(path)):
        return None  # or else nobody whose name is that of a provider could have a repository on GitHub
    return of_spec(path, query)


def _is_record(spec: str) -> bool:
    try:
        RepoSpec.parse(spec)
    except BadLink:
        return False
    return True


# out of more than an address


def _cloned(words: Sequence[str]) -> Pasted:
    """``git clone``, ``gh repo clone`` and ``repo2docker``, with the ref that they or a ``git checkout`` after them name."""
    ref = found = ""
    ref_is_next = False
    for word in (word.strip(_QUOTES).rstrip(";&") for word in words):
        name, has_value, value = word.partition("=")
        if ref_is_next:
            ref_is_next = word in {"-q", "--quiet", "--detach"}
            ref = ref if word.startswith("-") else word  # “checkout -b” makes a branch that nobody else has
        elif name in _REF_OPTIONS:
            ref, ref_is_next = value, not has_value
        elif found and word in {"checkout", "switch"}:
            ref_is_next = True
        elif not found and "/" in name and not name.startswith(("-", "./", "../", "/")):
            found = word
    if not found:
        raise BadLink("This command names no repository. Paste the repository's address.")
    return at_ref(read_one(_trimmed(found)), ref)


def _named_in(text: str) -> Pasted:
    """The one repository or record that a badge or a sentence names. A badge's picture counts only where nothing else does."""
    addresses = [_trimmed(found[0]) for found in _FOUND.finditer(text.replace("&amp;", "&"))]
    pictures = [address for address in addresses if _is_picture(address)]
    links = [address for address in addresses if not _is_picture(address)]
    problem: BadLink | None = None
    for some in (links, pictures):
        meant: dict[str, Pasted] = {}
        for address in some:
            try:
                pasted = read_one(address)
                meant.setdefault(f"{pasted.spec.text} {pasted.urlpath}", pasted)
            except BadLink as error:
                problem = problem or error
        if len(meant) > 1:
            raise BadLink(
                f"This text names {len(meant)} things that Replay could launch. Paste the address of one of them."
            )
        if meant:
            return next(iter(meant.values()))
    raise problem or nothing_known()


def _is_picture(address: str) -> bool:
    path = re.split(r"[?#]", address, maxsplit=1)[0].lower()
    return path.endswith((".svg", ".png", ".gif", ".jpg")) or "/badge" in path


def _trimmed(text: str) -> str:
    """Without the punctuation of the sentence that it stood in, and without brackets that close nothing in it."""
    end = len(text)
    unmatched = {closing: text.count(closing) - text.count(opening) for closing, opening in _BRACKETS.items()}
    while end:
        last = text[end - 1]
        if last in _BRACKETS:
            if unmatched[last] <= 0:
                break
            unmatched[last] -= 1
        elif last not in _ENDS:
            break
        end -= 1
    return text[:end]
