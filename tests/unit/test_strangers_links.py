"""Links, addresses, paths and names of records as strangers write them: each is refused in a sentence, or means what it can hold.

Of what is pasted `test_pasting` asks the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Never, cast
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_build_service.errors import BadLink, ReplayError, RepositoryNotFound
from replay_build_service.links import MAX_SPEC_LENGTH, Repository, RepoSpec, safe_urlpath
from replay_build_service.outgoing import Origin
from replay_build_service.providers.doi import target_by_doi, target_by_page
from replay_build_service.sources.all_sources import SOURCES
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.base import split_fetch_url, split_pin
from replay_build_service.sources.dataverse import Dataverse
from replay_build_service.syntax import known_syntaxes
from tests.unit.broken_texts import ODD, check_sentence, tried
from tests.unit.provider_cases import LOCATORS, SAME

pytestmark = [pytest.mark.one_hub_version, pytest.mark.hub_independent]

SHA = "0123456789abcdef0123456789abcdef01234567"
_SIGNS = ["/", "//", "@", "%2F", "%40", "%25", "%", "%ff", "?", "#", ":", ";", "[", "]", "..", "-", ".git", "\\", "~", "é", "ß", "\u2100"]  # fmt: skip
_LONG = ["☃" * 700, "a" * 1990]

SPECS = [
    *(syntax.example for syntax in known_syntaxes() if "toy" not in syntax.provider),
    *(link for pair in SAME for link in pair),
    *(f"{provider}/{quote(locator, safe='')}/HEAD" for provider, locator, _ in LOCATORS),
    *(f"{syntax.provider}/" for syntax in known_syntaxes() if "toy" not in syntax.provider),
    "zenodo/10.5281/zenodo.3242074@3242075-0123456789abcdef0123456789abcdef",
    "figshare/10.6084/m9.figshare.9782777.v1",
    "dataverse/10.7910/DVN/TJCLKP@2.0",
    f"hydroshare/https%3A%2F%2Fwww.hydroshare.org%2Fresource%2F{SHA[:32]}%2F",
    f"swh/swh:1:snp:{SHA}@{SHA}",
    f"swh/swh:1:dir:{SHA};origin=https://example.org/r;path=/a",
    "ckan/https%3A%2F%2Fexample.org%2Fdataset%2Fx%3Factivity_id%3D1",
    "doi/10.1002/(SICI)1096-8644(199601)99:1<1::AID-AJPA1>3.0.CO;2-1",
    "https%3A%2F%2F",
    "refs/heads/",
]


def is_fine_spec(text: str) -> bool:
    try:
        spec = RepoSpec.parse(text)
    except BadLink as error:
        check_sentence(error.sentence)
        return False
    assert len(spec.text) <= MAX_SPEC_LENGTH
    assert spec.text.isascii()
    assert spec.text.isprintable()
    assert RepoSpec.parse(spec.text) == spec
    assert spec.is_pinned_record is ("@" in spec.text)
    is_fine_address(spec.url)
    if (source := SOURCES.get(spec.provider)) is not None:
        is_fine_pin(spec.ref)
        assert source.name == spec.provider
    return True


def is_fine_address(url: str) -> bool:
    try:
        repository = Repository.of_url(url)
    except BadLink as error:
        check_sentence(error.sentence)
        return False
    assert Repository.of_url(repository.url) == repository
    assert repository.url.isascii()
    assert repository.url.isprintable()
    assert " " not in repository.url
    parts = urlsplit(repository.url)
    assert parts.hostname
    assert (parts.username, parts.password, parts.query, parts.fragment) == (None, None, "", "")
    assert repository.key in repository.counted_as[0]
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", repository.folder_name)
    return True


def is_fine_path(text: str) -> bool:
    """Wherever a browser, the hub or a session takes it: a path below the server, however often it is decoded."""
    try:
        kept = safe_urlpath(text)
    except BadLink as error:
        check_sentence(error.sentence)
        return False
    assert safe_urlpath(kept) == kept
    assert not any(unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for letter in unquote(kept))
    path = kept.partition("?")[0].partition("#")[0]
    for _ in range(3):
        assert "\\" not in path
        depth = 0
        for part in path.split("/"):
            depth += {"..": -1, ".": 0, "": 0}.get(part.strip(), 1)
            assert depth >= 0, "it climbs out"
        path = unquote(path)
    return True


def is_fine_pin(text: str) -> bool:
    try:
        version, digest = split_pin(text)
    except BadLink as error:
        check_sentence(error.sentence)
        return False
    assert "-".join(part for part in (version, digest) if part is not None) == text
    return True


def is_fine_fetch_url(text: str) -> bool:
    try:
        found = split_fetch_url(text, SOURCES)
    except BadLink as error:
        check_sentence(error.sentence)
        return False
    assert found is None or f"{found[0].name}+{found[1]}" == text
    return found is not None


def is_fine_origin(text: str) -> bool:
    try:
        origin = Origin.of_url(text)
    except ReplayError as error:
        check_sentence(error.sentence)
        return False
    assert Origin.of_url(f"{origin.scheme}://{origin.netloc}/x") == origin
    assert Origin.of_url(str(origin)) == origin
    return True


_DATAVERSE = Dataverse()


def is_fine_target(text: str) -> bool:
    """Where a DOI leads, whose page its owner registered: a spec of another provider, which that one's syntax takes."""
    doi, _, page = text.partition(" ")
    found = [target_by_doi(doi, _DATAVERSE), target_by_page(page, doi, _DATAVERSE, lambda _: True)]
    for target in found:
        if target is None or target.provider in {"figshare", "dataverse"}:
            continue  # these two have the DOI as it is
        spec = RepoSpec(target.provider, target.locator, "")
        if target.provider != "ckan":  # which tells of a dataset's address itself what is wrong
            assert RepoSpec.parse(spec.text) == spec
    return any(found)


class Nobody:
    """An `Asker` to whom nothing is there. What it is asked for is an address, and of nothing but what may stand in one."""

    def __init__(self) -> None:
        self.was_asked = False

    def may_ask(self, url: str) -> bool:
        Origin.of_url(url)
        return True

    def is_portal(self, url: str) -> bool:
        return self.may_ask(url)

    async def json(self, url: str, *_: object, **__: object) -> Never:
        assert Origin.of_url(url).scheme in {"https", "http"}
        assert url.isascii()
        assert "/../" not in url
        self.was_asked = True
        raise RepositoryNotFound("It is not there.")


def is_fine_locator(text: str) -> bool:
    """What follows a provider's name, and a builder's address, as each archive's source is given it."""
    locator, _, pin = text.partition(" ")
    version = split_pin(pin)[0] if is_fine_pin(pin) else None
    ask = Nobody()
    asker = cast("Asker", ask)
    for source in SOURCES.values():
        for asking in (source.find(asker, locator, version), source.listed(asker, text)):
            try:
                asking.send(None)
            except ReplayError as error:
                check_sentence(error.sentence)
            except StopIteration:  # A directory of Software Heritage is known by its name.
                pass
            finally:
                asking.close()
    return ask.was_asked


ADDRESSES = [
    *(address for _, _, address in LOCATORS if address),
    *("https://", "http://", "ssh://", "user:secret@", "gist.github.com", "www.github.com", "doi.org/", "[::1]", "[v1.x]", ":443", ":0", ":65536"),
    *("xn--", "bücher.example", "ＧＩＴＨＵＢ.com", "a..b", "%41", "\u0130", "\u00df", "\u3002", " ", "\t", "\n", "\ud800"),
]  # fmt: skip
PATHS = [
    *("lab/tree/index.ipynb", "/lab/tree/a%20b.ipynb?reset", "doc/tree/x..y.ipynb", "rstudio/?next=../x", "lab?path=a#b"),
    *("javascript:alert(1)", "https://evil.example", "//evil.example", "/", "..", ".", "%2e", "%2F", "%252e", "%252f", "%5c", "%255c"),
    *("\\", "\t", "\n", "%0a", "\u202e", "\u200b", ":", "@", "?", "#", "[", "%", "a", " ", "\u2215", "\uff0f", "\u2024"),
]  # fmt: skip
PINS = ["3242075", "-", "0123456789abcdef" * 2, "2.0", "v", "_", ".", SHA, "@", "\n", "é"]
FETCH_URLS = [
    *(f"{name}+https://example.org/api/records/1" for name in SOURCES),
    "https://github.com/o/r.git",
    *("+", "://", "zenodo", "git+", "\n"),
]
TARGETS = [
    *("10.5281/zenodo.1", "10.6084/m9.figshare.2", f"10.4211/hs.{SHA[:32]}", "10.17605/OSF.IO/ABCDE", "10.7910/DVN/X", "10.1234/abc", " "),
    *("https://zenodo.org/records/1", "https://www.zenodo.org/record/2/", "https://osf.io/abcde/", "https://OSF.io/ABCDE"),
    f"https://www.hydroshare.org/resource/{SHA[:32].upper()}/",
    f"https://archive.softwareheritage.org/browse/swh:1:dir:{SHA};origin=x/",
    *("https://x.figshare.com/articles/dataset/x/1", "https://example.org/dataset/x", "https://dataverse.harvard.edu/dataset.xhtml?persistentId=doi:1"),
    *("https://", ":443", "[", "]", "@", "/dataset/", "\u2100", "\u0660", "\u212a", "\u017f"),
]  # fmt: skip

LOCATORS_OF_RECORDS = [
    *(spec.partition("/")[2] for spec in SPECS if spec.partition("/")[0] in SOURCES),
    *("10.5281/zenodo.1", "10.7910/DVN/TJCLKP", "10.1234/x.v2", f"10.4211/hs.{SHA[:32]}", "osf.io/", "ezcuj", f"swh:1:snp:{SHA}", " 1", " 1.0"),
    *("https://demo.ckan.org/dataset/x", "https://zenodo.org/api/records/1", f"https://archive.softwareheritage.org/api/1/directory/{SHA}/"),
    *("https://api.osf.io/v2/nodes/ezcuj/", f"https://www.hydroshare.org/hsapi/resource/{SHA[:32]}/", "https://api.figshare.com/v2/articles/1/versions/1"),
    "https://h.example/api/datasets/:persistentId/versions/1.0?persistentId=doi:10.1/x",
]  # fmt: skip

KINDS: Mapping[str, tuple[Callable[[str], bool], list[str], int]] = {
    "specs": (is_fine_spec, [*SPECS, *_SIGNS, *_LONG], 10_000),
    "addresses": (is_fine_address, [*ADDRESSES, *_SIGNS], 10_000),
    "origins": (is_fine_origin, [*ADDRESSES, *_SIGNS], 5_000),
    "paths": (is_fine_path, PATHS, 10_000),
    "pins": (is_fine_pin, PINS, 3_000),
    "fetch addresses": (is_fine_fetch_url, [*FETCH_URLS, *_SIGNS], 3_000),
    "locators": (is_fine_locator, [*LOCATORS_OF_RECORDS, *_SIGNS, "\u202e", "\ud800", "\u017f"], 3_000),
    "targets": (is_fine_target, [*TARGETS, *_SIGNS], 5_000),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_broken_is_refused_or_means_something(kind: str) -> None:
    tried(*KINDS[kind], least=1 / 50)


@settings(deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.one_of(st.text(max_size=200), st.sampled_from(ODD)))
def test_no_text_at_all_breaks_one(kind: str, text: str) -> None:
    KINDS[kind][0](text)


@pytest.mark.parametrize("kind", KINDS)
def test_each_piece_is_tried_alone(kind: str) -> None:
    is_fine, pieces, _ = KINDS[kind]
    assert sum(is_fine(piece) for piece in pieces)


def test_letters_that_are_only_taken_for_those_of_ascii_name_nothing_there() -> None:
    """U+017F is an “s” where case does not matter, and U+212A a “k”."""
    assert target_by_page("https://osf.io/ab\u017fde/", "10.1234/x", _DATAVERSE, lambda _: True) is None
    assert target_by_doi("10.17605/osf.io/ab\u212ade", _DATAVERSE) is None
