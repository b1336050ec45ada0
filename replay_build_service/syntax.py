"""How the specs of each provider are spelled: what a link says before anybody is asked. Standard library only.

The spellings are BinderHub's (https://binderhub.readthedocs.io/en/latest/reference/repoproviders.html), with two additions: a record may
end in ``@VERSION``, which pins it, and ``swh``, ``osf`` and ``doi`` are providers. A provider of another package brings its
`Syntax`, and `learn` makes it known to this process.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import quote, urlsplit

from replay_build_service.errors import BadLink

__all__ = ["DOI", "RefRule", "Syntax", "known_syntaxes", "learn", "syntax_of"]


class RefRule(Enum):
    """What a spec says of the version."""

    NEEDED = "needed"
    """Every spec ends in a ref: a branch, a tag or a commit."""
    OPTIONAL = "optional"
    """It may, and else ``HEAD`` is meant."""
    PIN = "pin"
    """None, but for an ``@VERSION`` at the end that pins one."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """The spelling of one provider's specs."""

    provider: str
    """As it stands in links: lower-case letters, digits and hyphens."""
    example: str
    """A whole spec with its provider, in capitals what differs."""
    address: Callable[[str], str]
    """From a locator, percent-decoded, to the web address that it means. Raises `BadLink` with a sentence that says what is wrong."""
    segments: int | None = None
    """How many path segments name the repository; none where all of them do."""
    ref: RefRule = RefRule.NEEDED
    is_one_segment: bool = False
    """Whether the locator's own slashes are written ``%2F``."""
    locator: Callable[[str], str] = str
    """From what a link has, percent-decoded, to the one locator that is meant, where there are several spellings. Raises nothing."""

    def written(self, locator: str, ref: str) -> str:
        """The canonical spelling of a spec, percent-encoded, without its provider."""
        encoded = quote(locator, safe="" if self.is_one_segment else "/:;=,()")
        if self.ref is RefRule.PIN:
            return f"{encoded}@{ref}" if ref else encoded
        return f"{encoded}/{quote(ref, safe='/')}"


DOI = re.compile(r"10\.[0-9]{4,9}(?:\.[0-9]+)*/[A-Za-z0-9._;()/:<>\[\]+-]{1,200}")
"""https://www.doi.org/doi-handbook/HTML/ and the letters that Crossref recommends, which the sources here keep to."""

_GITHUB = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")
"""The letters of GitHub's names; the provider knows the rest of GitHub's rule."""
_GITLAB = re.compile(r"[\w.-]+(?:/[\w.-]+)+")
_GIST = re.compile(r"[A-Za-z0-9_-]{1,39}/[0-9a-f]{5,64}")
_HYDROSHARE = re.compile(r"[0-9a-f]{32}")
_HYDROSHARE_LONG = re.compile(
    r"(?:https?://(?:www\.)?hydroshare\.org/resource/|(?:https?://(?:dx\.)?doi\.org/)?10\.4211/hs\.)([0-9a-f]{32})/?",
    re.IGNORECASE,
)
_OSF = re.compile(r"[a-z0-9]{5,6}")
_SWHID = re.compile(r"swh:1:(?:cnt|dir|rev|rel|snp):[0-9a-f]{40}")


_SAME_AS_DOI = (
    (re.compile(r"10\.4211/hs\.([0-9a-f]{32})"), "https://www.hydroshare.org/resource/"),
    (re.compile(r"10\.17605/osf\.io/([a-z0-9]{5,6})"), "https://osf.io/"),
    (re.compile(r"(10\.6084/m9\.figshare\.[1-9][0-9]{2,11})\.v[1-9][0-9]{0,5}"), "https://doi.org/"),
)
"""DOIs in lower case that tell by themselves which record they are a name of, and how its address begins."""


def _doi(locator: str) -> str:
    if not DOI.fullmatch(locator):
        raise BadLink("That is no DOI. One reads 10.5281/zenodo.3242074; the link has it as it is, with its slash.")
    doi = locator.lower()
    for pattern, address in _SAME_AS_DOI:
        if (match := pattern.fullmatch(doi)) is not None:
            return f"{address}{match[1]}"
    return f"https://doi.org/{doi}"


def _github(locator: str) -> str:
    if not _GITHUB.fullmatch(locator):
        raise BadLink(
            "That cannot be an owner and a repository of GitHub. The link should read /v2/gh/OWNER/REPOSITORY/HEAD."
        )
    return f"https://github.com/{locator}"


def _gitlab(locator: str) -> str:
    if "://" in locator:
        return _url(locator)
    if not _GITLAB.fullmatch(locator):
        raise BadLink(
            "That cannot be a group and a project of GitLab. The link should read /v2/gl/GROUP%2FPROJECT/HEAD, with %2F for each "
            "slash of the project's path."
        )
    return f"https://gitlab.com/{locator}"


def _gist(locator: str) -> str:
    if not _GIST.fullmatch(locator):
        raise BadLink(
            "That cannot be somebody's gist. The link should read /v2/gist/OWNER/ID, as in the gist's own address."
        )
    return f"https://gist.github.com/{locator}"


def _url(locator: str) -> str:
    if "://" not in locator:
        raise BadLink(
            "The repository of such a link is a whole URL, percent-encoded: /v2/git/https%3A%2F%2Fexample.org%2Frepository.git/HEAD."
        )
    return locator


def _hydroshare_id(locator: str) -> str:
    """BinderHub takes the resource's address and DOI as well."""
    long = _HYDROSHARE_LONG.fullmatch(locator)
    return long[1].lower() if long is not None else locator


def _hydroshare(locator: str) -> str:
    if not _HYDROSHARE.fullmatch(locator):
        raise BadLink(
            "That is no resource of HydroShare: the link has the 32 letters and digits of the resource's address."
        )
    return f"https://www.hydroshare.org/resource/{locator}"


def _osf(locator: str) -> str:
    if not _OSF.fullmatch(locator):
        raise BadLink("That is no project of OSF: the link has the five letters and digits of osf.io/abcde.")
    return f"https://osf.io/{locator}"


def _ckan(locator: str) -> str:
    try:
        path = urlsplit(_url(locator)).path
    except ValueError:
        path = ""
    if "/dataset/" not in path:
        raise BadLink("A CKAN link holds the dataset's address, percent-encoded: https%3A%2F%2FHOST%2Fdataset%2FNAME.")
    return locator


def _swh(locator: str) -> str:
    if not _SWHID.fullmatch(locator):
        raise BadLink(
            "That is no SWHID. One reads swh:1:rev: and 40 hexadecimal digits (or dir, rel, snp, cnt for rev)."
        )
    return f"https://archive.softwareheritage.org/{locator}"


_SYNTAXES: dict[str, Syntax] = {
    syntax.provider: syntax
    for syntax in (
        Syntax("gh", "gh/OWNER/REPOSITORY/HEAD", _github, 2),
        Syntax("gl", "gl/GROUP%2FPROJECT/HEAD", _gitlab, 1, is_one_segment=True),
        Syntax("gist", "gist/OWNER/ID/HEAD", _gist, 2, RefRule.OPTIONAL),
        Syntax("git", "git/https%3A%2F%2Fexample.org%2Frepository.git/HEAD", _url, 1, is_one_segment=True),
        Syntax("zenodo", "zenodo/10.5281/zenodo.NUMBER", _doi, ref=RefRule.PIN),
        Syntax("figshare", "figshare/10.6084/m9.figshare.NUMBER", _doi, ref=RefRule.PIN),
        Syntax("dataverse", "dataverse/10.7910/DVN/NAME", _doi, ref=RefRule.PIN),
        Syntax("hydroshare", "hydroshare/ID", _hydroshare, ref=RefRule.PIN, locator=_hydroshare_id),
        Syntax("ckan", "ckan/https%3A%2F%2FHOST%2Fdataset%2FNAME", _ckan, ref=RefRule.PIN, is_one_segment=True),
        Syntax("osf", "osf/ID", _osf, ref=RefRule.PIN),
        Syntax("swh", "swh/swh:1:rev:SHA", _swh, ref=RefRule.PIN),
        Syntax("doi", "doi/10.PREFIX/NAME", _doi, ref=RefRule.PIN),
    )
}

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def learn(syntax: Syntax) -> None:
    """Make another provider's spelling known in this process, or that same one again.

    Raises `ValueError` for a name that no link can have, or that another provider has.
    """
    if not _NAME.fullmatch(syntax.provider):
        raise ValueError(
            f"“{syntax.provider}” is no name for a provider: lower-case letters, digits and hyphens, at most 31."
        )
    known = _SYNTAXES.setdefault(syntax.provider, syntax)
    if known != syntax:
        raise ValueError(f"There is a provider “{syntax.provider}” already.")


def syntax_of(provider: str) -> Syntax | None:
    """The spelling of that provider's specs, if it is known here."""
    return _SYNTAXES.get(provider)


def known_syntaxes() -> tuple[Syntax, ...]:
    """All of them, by their providers' names."""
    return tuple(_SYNTAXES[name] for name in sorted(_SYNTAXES))
