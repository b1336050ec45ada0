"""What a file of a record or of an archive may be called: only what stays in the folder, and is one file on every file system."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replay_build_service.errors import Refused
from replay_build_service.sources.paths import MAX_DEPTH, MAX_NAME, MAX_PATH, Places, link_target

pytestmark = pytest.mark.hub_independent

FINE = {
    "index.ipynb": "index.ipynb",
    "./index.ipynb": "index.ipynb",
    "a//b/./c": "a/b/c",
    "a b/ü/日本.txt": "a b/ü/日本.txt",
    "...": "...",
    "-rf": "-rf",
    "C:/x": "C:/x",
    "swh:1:dir:0a/x": "swh:1:dir:0a/x",
    ".gitignore": ".gitignore",
    ".github/workflows/x.yml": ".github/workflows/x.yml",
    "x" * MAX_NAME: "x" * MAX_NAME,
}
REFUSED = {
    "..": "leads out",
    "../x": "leads out",
    "a/../b": "leads out",
    "a/b/..": "leads out",
    "/etc/passwd": "place outside",
    "//host/x": "place outside",
    "a\\b": "folders are written",
    "..\\x": "folders are written",
    "a\0b": "characters that no name has",
    "a\nb": "characters that no name has",
    "a\x7fb": "characters that no name has",
    "a\udc80b": "characters that no name has",
    "": "without a name",
    ".": "without a name",
    "./": "without a name",
    "x" * (MAX_NAME + 1): "too long",
    "ü" * MAX_NAME: "too long",
    "/".join(["x" * 100] * 11): "too long",
    "a/" * MAX_DEPTH + "b": "deep",
}
PAIRS = {
    ("a", "a"): "two files",
    ("a", "./a"): "two files",
    ("a", "a/b"): "both a file and a folder",
    ("a/b", "a"): "both a file and a folder",
    ("Makefile", "makefile"): "upper and lower case",
    ("src/x", "SRC/y"): "upper and lower case",
    ("straße", "STRASSE"): "upper and lower case",
    ("\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}"): "how a letter is written",
}


@pytest.mark.parametrize("name", FINE, ids=range(len(FINE)))
def test_a_name_that_stays_in_the_folder_is_kept(name: str) -> None:
    assert Places(1000).file(name) == FINE[name]


@pytest.mark.parametrize("name", REFUSED, ids=range(len(REFUSED)))
def test_a_name_that_leads_out_or_is_none_is_refused(name: str) -> None:
    with pytest.raises(Refused, match=REFUSED[name]) as caught:
        Places(1000).file(name)
    assert caught.value.sentence.isprintable()


@pytest.mark.parametrize("pair", PAIRS, ids=range(len(PAIRS)))
def test_two_names_for_one_place_are_refused_and_both_are_named(pair: tuple[str, str]) -> None:
    places = Places(1000)
    places.file(pair[0])
    with pytest.raises(Refused, match=PAIRS[pair]):
        places.file(pair[1])


@pytest.mark.parametrize("name", [".git", ".git/config", "a/.GIT/hooks/pre-commit", "a/.gIt"])
def test_what_git_would_run_is_left_out(name: str) -> None:
    places = Places(1000)
    assert places.file(name) is None
    assert places.folder(name) is None
    assert (len(places), places.left_out) == (0, 2)


def test_folders_may_come_more_than_once_and_count_once() -> None:
    places = Places(4)
    assert places.folder("./") == ""
    assert [places.folder("a/b"), places.folder("a/"), places.file("a/b/c"), places.file("a/d")] == [
        "a/b", "a", "a/b/c", "a/d",
    ]  # fmt: skip
    with pytest.raises(Refused, match="more than 4 files and folders"):
        places.file("e")
    assert places.top_level() == {"a"}
    assert places.is_folder("a")
    assert not places.is_folder("a/d")


LINKS = {
    ("a", "b"): True,
    ("a", "b/c/d"): True,
    ("a", "./b"): True,
    ("p/q/l", "../../x/y"): True,
    ("p/l", "../x"): True,
    ("a", "."): True,
    ("a", ".."): False,
    ("a", "../x"): False,
    ("p/l", "../../x"): False,
    ("p/l", "q/../../.."): False,
    ("p/l", "q/../x"): False,
    ("a", "/etc/passwd"): False,
    ("a", ""): False,
    ("a", "b\0"): False,
    ("a", "b\\c"): False,
    ("a", ".git/config"): False,
    ("a", "x" * (MAX_PATH + 1)): False,
}


@pytest.mark.parametrize("link", LINKS, ids=range(len(LINKS)))
def test_a_link_stays_in_the_tree(link: tuple[str, str]) -> None:
    if LINKS[link]:
        assert link_target(*link, "The archive") == link[1]
    else:
        with pytest.raises(Refused):
            link_target(*link, "The archive")


PIECES = st.sampled_from(
    ["a", "b", "A", "ä", "a\u0308", ".", "..", "", ".git", ".GIT", "c\\d", "\0", "\udc80", "x" * 256]
)
NAMES = st.one_of(st.text(max_size=20), st.lists(PIECES, max_size=6).map("/".join))


@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=12))
@example([("a/b", False), ("A/c", False)])
def test_whatever_is_let_through_is_a_place_of_its_own(names: Sequence[tuple[str, bool]]) -> None:
    places = Places(8)
    kept: list[tuple[str, bool]] = []
    refusals: list[str] = []
    for name, is_folder in names:
        try:
            path = places.folder(name) if is_folder else places.file(name)
        except Refused as refusal:
            refusals.append(refusal.sentence)
            continue
        if path:
            kept.append((path, is_folder))
    assert all(sentence.isprintable() for sentence in refusals)
    files = [path for path, is_folder in kept if not is_folder]
    assert len({unicodedata.normalize("NFC", path).casefold() for path in files}) == len(files)
    assert len(places) <= 8
    for path, _ in kept:
        assert os.path.normpath(path) == path
        assert not path.startswith(("/", "../"))
        assert path != ".."
        assert not any(other.startswith(f"{file}/") for file in files for other, _ in kept)
        path.encode()


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from(["a", "b", "c", "..", "."]), max_size=5)), max_size=4
    )
)
def test_links_that_are_let_through_lead_nowhere_else_together(
    tmp_path_factory: pytest.TempPathFactory, links: Sequence[tuple[str, Sequence[str]]]
) -> None:
    """Made for real, in folders of real depth: what the system resolves each to is in the tree."""
    root = tmp_path_factory.mktemp("links").resolve()
    made: list[Path] = []
    for number, (name, steps) in enumerate(links):
        path = f"d{number}/{name}"
        target = "/".join(steps)
        try:
            link_target(path, target, "The archive")
        except Refused:
            continue
        (root / path).parent.mkdir()
        (root / path).symlink_to(target)
        made.append(root / path)
    for link in made:
        assert Path(os.path.realpath(link)).is_relative_to(root)
