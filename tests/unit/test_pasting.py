"""What people paste: a table of real spellings, and that nothing which is pasted does harm."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_build_service.errors import BadLink
from replay_build_service.links import Repository, RepoSpec, safe_urlpath
from replay_build_service.pasting import MOST_TEXT, Pasted, decide, read
from tests.unit.broken_texts import broken_texts, how_many
from tests.unit.pasted_cases import REFUSED, SHA, SPELLINGS

pytestmark = pytest.mark.hub_independent

ALL = [(text, link) for group in SPELLINGS.values() for text, link in group]


@pytest.mark.parametrize(
    ("text", "link"),
    [
        pytest.param(text, link, id=f"{kind} {number}")
        for kind, group in SPELLINGS.items()
        for number, (text, link) in enumerate(group)
    ],
)
def test_what_is_pasted_gives_its_link(text: str, link: str) -> None:
    pasted = read(text)
    assert pasted.link == link
    assert RepoSpec.parse(pasted.spec.text) == pasted.spec
    assert decide(pasted, ()).link == link, "no ref is known, so the first part is"


def test_the_table_is_long() -> None:
    assert len({text for text, _ in ALL}) == len(ALL) >= 150


@pytest.mark.parametrize(("text", "sentence"), [pytest.param(*case, id=str(n)) for n, case in enumerate(REFUSED)])
def test_what_cannot_be_read_is_told_so(text: str, sentence: str) -> None:
    with pytest.raises(BadLink) as refused:
        read(text)
    assert refused.value.sentence.startswith(sentence)


def test_a_link_reads_as_itself() -> None:
    for _, link in ALL:
        assert read(link).link == link
        assert read(f"https://hub.example.org/base{link}").link == link


# branches with slashes

REFS = {"refs/heads/main", "refs/heads/feature/x", "refs/heads/feature/x/y", "refs/tags/v1", "refs/tags/release/1"}
REPOSITORY = "https://github.com/o/r"


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("/tree/main/notebooks", "main?urlpath=lab/tree/notebooks"),
        ("/blob/feature/x/a.ipynb", "feature/x?urlpath=lab/tree/a.ipynb"),
        ("/tree/feature/x", "feature/x"),
        ("/blob/feature/x/y/a.ipynb", "feature/x/y?urlpath=lab/tree/a.ipynb"),
        ("/blob/feature/x/z/a.ipynb", "feature/x?urlpath=lab/tree/z/a.ipynb"),
        ("/blob/release/1/a.ipynb", "release/1?urlpath=lab/tree/a.ipynb"),
        ("/blob/refs/heads/feature/x/a.ipynb", "feature/x?urlpath=lab/tree/a.ipynb"),
        ("/blob/refs/tags/release/1/a.ipynb", "release/1?urlpath=lab/tree/a.ipynb"),
        ("/blob/refs/pull/7/head/a.ipynb", "refs/pull/7/head?urlpath=lab/tree/a.ipynb"),
        ("/blob/5c2f1d6/n/a.ipynb", "5c2f1d6?urlpath=lab/tree/n/a.ipynb"),
        ("/blob/gone/n/a.ipynb", "gone?urlpath=lab/tree/n/a.ipynb"),
        ("/blob/refs/heads/release/1/a.ipynb", "release?urlpath=lab/tree/1/a.ipynb"),
    ],
)
def test_the_longest_ref_that_exists_is_meant(text: str, link: str) -> None:
    assert decide(read(REPOSITORY + text), REFS).link == f"/v2/gh/o/r/{link}"


@pytest.mark.parametrize(
    ("text", "is_undecided"),
    [
        ("/tree/main/n", True),
        ("/tree/main", False),
        (f"/tree/{SHA}/n", False),
        ("/tree/HEAD/n", False),
        ("/releases/tag/a/b", False),
        ("/blob/refs/pull/7/head/a.ipynb", False),
    ],
)
def test_only_what_may_have_two_meanings_is_left_open(text: str, is_undecided: bool) -> None:
    assert bool(read(REPOSITORY + text).undecided) is is_undecided


def test_a_tag_that_is_named_like_a_branch_is_told_apart() -> None:
    pasted = read("https://codeberg.org/o/r/src/tag/main/n/a.ipynb")
    assert decide(pasted, {"refs/heads/main", "refs/tags/main"}).spec.ref == "refs/tags/main"
    assert decide(pasted, {"refs/tags/main"}).spec.ref == "main"


def test_what_is_decided_stays_so_whatever_refs_there_are() -> None:
    pasted = read(f"{REPOSITORY}/blob/{SHA}/a/b.ipynb")
    assert decide(pasted, {f"refs/heads/{SHA}/a"}) == pasted


# what is said


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("https://ada:secret@github.com/o/r.git", "The password or token in the address was left out"),
        (
            "https://ghp_0123456789012345678901234567890123@github.com/o/r",
            "The password or token in the address was left out",
        ),
        ("git+https://ada:secret@github.com/o/r.git@v1", "The password or token in the address was left out"),
        ("https://github.com/o/r/issues/7", "This address leads to a page about the repository"),
        ("https://mybinder.org/v2/gh/o/r", "The link names no branch, tag or commit"),
        (
            "https://mybinder.org/v2/gh/o/env/main?urlpath=git-pull%3Frepo%3Dx",
            "When it opens, the link also fetches another repository with nbgitpuller",
        ),
        (
            "https://hub.example.org/hub/user-redirect/git-pull?repo=https://github.com/o/r&branch=main&urlpath=lab/tree/r/a.ipynb",
            "This is a link of nbgitpuller. Replay takes over its repository, its branch main and what it opens, "
            "but not what is installed at hub.example.org",
        ),
        (
            "https://archive.softwareheritage.org/browse/origin/directory/?origin_url=https://github.com/o/r",
            "The page shows what Software Heritage saw of this repository.",
        ),
        ("https://zenodo.org/records/1234567/latest", "The address asks for the newest version"),
        (
            "https://dataverse.example.org/dataset.xhtml?persistentId=doi:10.7910/DVN/X&version=DRAFT",
            "The draft of this dataset is not public",
        ),
    ],
)
def test_what_is_not_taken_over_is_said(text: str, note: str) -> None:
    (told,) = read(text).notes
    assert told.startswith(note)
    assert "secret" not in repr(read(text))


def test_most_is_taken_over_without_a_word() -> None:
    for text in ("o/r", f"{REPOSITORY}/blob/main/a.ipynb", "https://mybinder.org/v2/gh/o/r/main?labpath=a.ipynb"):
        assert read(text).notes == ()
    assert read("https://ada@bitbucket.org/w/r.git").notes == (), "a name is no secret, and Bitbucket writes it"


# whatever is pasted

PIECES = [
    *(text for text, _ in ALL),
    *[
        "https://",
        "http://",
        "git@",
        "ssh://",
        "git+https://",
        "swh:1:",
        "10.5281/",
        "doi:",
        "/v2/",
        "/-/",
        "/tree/",
        "/blob/",
        "/src/branch/",
        ".git",
        ";",
        "@",
        "#",
        "?",
        "&",
        "=",
        "%",
    ],
    *[
        "(",
        ")",
        "[",
        "]",
        "<",
        ">",
        "{",
        "}",
        '"',
        "'",
        "`",
        "\\",
        "|",
        ":",
        "%",
        "%2F",
        "%00",
        "%ff",
        "%F0",
        "&amp;",
        "../",
        "//",
        "~",
        "-",
        "☃",
        "\u202e",
        "\u200b",
        "�",
        "\x00",
        "\n",
        "１",
        "：",
    ],
    "git clone ",
    "refs/heads/",
    "persistentId=doi:",
    "git-pull?repo=",
    "[::1]",
    "xn--",
    "github.com/",
    "nbviewer.org/url/",
]


def meant(text: str) -> tuple[Pasted | None, str]:
    try:
        return read(text), ""
    except BadLink as error:
        return None, error.sentence


def is_harmless(text: str) -> bool:
    """Whether it is refused with a sentence, or means what a link can say. Anything else raises."""
    pasted, sentence = meant(text)
    if pasted is None:
        assert sentence.endswith((".", "?"))
        assert sentence.isprintable()
        return False
    found_all = [pasted, decide(pasted, ())]
    with contextlib.suppress(BadLink):  # no repository has such a branch
        found_all.append(decide(pasted, {f"refs/heads/{'/'.join(pasted.undecided[:2])}"}))
    for found in found_all:
        assert RepoSpec.parse(found.spec.text) == found.spec
        assert safe_urlpath(found.urlpath) == found.urlpath
        assert found.link.startswith("/v2/")
        assert found.link.isprintable()
        assert found.link.isascii()
        Repository.of_url(found.spec.url)
    return True


@given(st.text(max_size=300) | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join))
def test_nothing_but_our_own_errors(text: str) -> None:
    is_harmless(text)


def test_spellings_that_are_broken_are_refused_or_mean_something() -> None:
    """``REPLAY_TEST_INPUTS=1000000`` tries as many."""
    inputs = broken_texts(PIECES)
    count = how_many(20_000)
    read_well = sum(is_harmless(next(inputs)) for _ in range(count))
    assert count / 20 < read_well < count, "neither all nor nothing, or this tries the wrong things"


def test_a_text_of_the_greatest_length_is_read_like_any_other() -> None:
    """How long that takes is measured by `benchmarks`; here one that took time without end would be seen."""
    real = [group[0][0] for group in SPELLINGS.values()]
    for piece in (*real, *PIECES[len(ALL) :], "doi ", "1.", "/url/", "a.", ";path=", "(", "10.1.", "@", "a=b&"):
        is_harmless((piece * (MOST_TEXT // len(piece) + 1))[:MOST_TEXT])


def test_a_pasted_text_can_be_compared() -> None:
    assert read("o/r") == read("https://github.com/o/r") == Pasted(RepoSpec("gh", "o/r", "HEAD"))
