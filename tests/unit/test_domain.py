"""Links as text: what they mean, and that no text brings forth anything but a value or one of our own errors."""

from __future__ import annotations

from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from replay_build_service.domain import (
    BuildRecipe,
    ImageName,
    ResolvedRef,
)
from replay_build_service.errors import BadLink, ReplayError, UnknownProvider
from replay_build_service.links import Repository, RepoSpec, safe_urlpath

ENCODED = "https%3A%2F%2Fexample.org%2Fr.git"


@pytest.mark.parametrize(
    ("link", "provider", "locator", "ref"),
    [
        ("gh/octocat/hello/HEAD", "gh", "octocat/hello", "HEAD"),
        ("/gh/octocat/hello/HEAD/", "gh", "octocat/hello", "HEAD"),
        ("gh/o/r/feature/with/slashes", "gh", "o/r", "feature/with/slashes"),
        ("gh/o/r/feature%2Fwith%2Fslashes", "gh", "o/r", "feature/with/slashes"),
        ("gh/o/r/refs/tags/v1", "gh", "o/r", "refs/tags/v1"),
        ("gh/o/r.git/v1.0", "gh", "o/r.git", "v1.0"),
        (f"git/{ENCODED}/main", "git", "https://example.org/r.git", "main"),
        ("git/http%3A%2F%2F127.0.0.1%3A8080%2Fr.git/HEAD", "git", "http://127.0.0.1:8080/r.git", "HEAD"),
        (f"git/{ENCODED}/gr%C3%BCn", "git", "https://example.org/r.git", "grün"),
    ],
)
def test_a_link_is_read(link: str, provider: str, locator: str, ref: str) -> None:
    spec = RepoSpec.parse(link)
    assert (spec.provider, spec.locator, spec.ref) == (provider, locator, ref)
    assert RepoSpec.parse(spec.text) == spec


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("", "no provider"),
        ("svn/o/r/HEAD", "ckan, dataverse, doi, figshare, gh, gist, git, gl"),
        ("gh", "names no repository"),
        ("gh/o", "names no repository"),
        ("gh//r/HEAD", "names no repository"),
        ("gh/o/r", "Did you mean /v2/gh/o/r/HEAD?"),
        ("gh/o/r/", "Did you mean /v2/gh/o/r/HEAD?"),
        (f"git/{ENCODED}", f"Did you mean /v2/git/{ENCODED}/HEAD?"),
        ("git/https://example.org/r.git/HEAD", "percent-encoded"),
        ("git/r/HEAD", "whole URL"),
        ("git/https%3A%2F%2F%5B%3A%3A1/HEAD", "not a URL"),
        ("gh/../etc/HEAD", "“.”"),
        ("gh/a%2Fb/c/HEAD", "GitHub"),
        ("gh/o/r%3Fx=1/HEAD", "GitHub"),
        ("git/https%3A%2F%2Fexample.org%2F..%2Fr/HEAD", "“..”"),
        ("git/https%3A%2F%2Fexample.org%2F%252e%252e%2Fr/HEAD", "“..”"),
        ("git/https%3A%2F%2Fexample.org%2F--upload-pack=x/HEAD", "“-”"),
        ("git/--upload-pack=touch%20x/HEAD", "spaces or control"),
        ("gh/o/r/--upload-pack=x", "cannot be the name"),
        ("gh/o/r/-x", "cannot be the name"),
        ("gh/o/r/a..b", "cannot be the name"),
        ("gh/o/r/a%2F..%2Fb", "cannot be the name"),
        ("gh/o/r/a:b", "cannot be the name"),
        ("gh/o/r/a@%7Bupstream%7D", "cannot be the name"),
        ("gh/o/r/v1.lock", "cannot be the name"),
        ("gh/o/r/a%00b", "control"),
        ("gh/o/r/a%0Ab", "control"),
        ("gh/o/r/a%E2%80%AEb", "control"),
        ("gh/o/r/%FF", "not text"),
        ("gh/o/r/" + "a" * 10_000, "too long"),
        ("gh/o/r/" + "☃" * 700, "too long"),
    ],
)
def test_a_link_that_cannot_be_read_says_why(link: str, says: str) -> None:
    with pytest.raises(BadLink) as caught:
        RepoSpec.parse(link)
    assert says in caught.value.sentence
    assert caught.value.sentence.isprintable()


def test_an_unknown_provider_is_an_error_of_its_own() -> None:
    with pytest.raises(UnknownProvider, match="�"):
        RepoSpec.parse("s\x1b[2Jvn/o/r/HEAD")


LINK_LIKE = st.builds(
    "{0}/{1}".format,
    st.sampled_from(["gh", "git", "gl", ""]),
    st.lists(
        st.one_of(st.text(), st.text().map(lambda text: quote("https://" + text, safe="")), st.just("..")), max_size=5
    ),
)


@given(st.one_of(st.text(), LINK_LIKE))
@example("git/https%3A%2F%2Fexample.org%2Fo%2Fr.git%2F.GIT/HEAD")
@example("git/https%3A%2F%2F%5B/HEAD")
@example("gh/\ud800/b/c")
@example("git/https%3A%2F%2F%E2%84%80/HEAD")
def test_any_text_is_a_spec_that_reads_the_same_again_or_our_own_error(text: str) -> None:
    try:
        spec = RepoSpec.parse(text)
        identity = Repository.of_url(spec.url)
    except ReplayError:
        return
    assert RepoSpec.parse(spec.text) == spec
    assert Repository.of_url(identity.url) == identity


@pytest.mark.parametrize(
    "url",
    [
        RepoSpec.parse("gh/o/r/HEAD").url,
        RepoSpec.parse("gh/O/R/HEAD").url,
        RepoSpec.parse("git/https%3A%2F%2Fgithub.com%2Fo%2Fr.git/HEAD").url,
        "https://github.com/o/r",
        "https://github.com/O/R.git/",
        "https://GitHub.com:443/o/r.git",
        "https://www.github.com/o/r",
        "https://github.com./o//r",
        "https://github.com\N{IDEOGRAPHIC FULL STOP}/o/r",
        "https://user:secret@github.com/o/r",
        "https://github.com/%6F/r",
        "https://github.com/o/r.GIT",
        "https://github.com/o/r.git.git",
        "https://github.com/o/r/.git/",
    ],
)
def test_every_spelling_of_a_repository_is_the_same_repository(url: str) -> None:
    assert Repository.of_url(url) == Repository("https://github.com/o/r")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://example.org/o/r", "https://example.org/O/r"),
        ("https://example.org/o/r", "http://example.org/o/r"),
        ("https://example.org/o/r", "https://example.org:8443/o/r"),
        ("https://example.org/o%2Fr", "https://example.org/o/r"),
        ("https://example.org/%FE", "https://example.org/%FF"),
    ],
)
def test_different_repositories_stay_different(one: str, other: str) -> None:
    assert Repository.of_url(one) != Repository.of_url(other)


def test_an_international_name_and_its_ascii_form_are_one_host() -> None:
    assert Repository.of_url("https://bücher.example/r") == Repository.of_url("https://xn--bcher-kva.example/r")
    assert Repository.of_url("http://[::1]:8080/r").url == "http://[::1]:8080/r"


@pytest.mark.parametrize(
    "url", ["", "no url", "https://", "https://h:99999/r", "https://[::1/r", "https://a..b/r", "https://a b/r"]
)
def test_what_is_no_url_is_no_repository(url: str) -> None:
    with pytest.raises(BadLink):
        Repository.of_url(url)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("", ""),
        ("lab/tree/index.ipynb", "lab/tree/index.ipynb"),
        ("/lab/tree/a%20b.ipynb?reset", "lab/tree/a%20b.ipynb?reset"),
        ("lab/tree/a b/c%20d.ipynb", "lab/tree/a b/c%20d.ipynb"),
        ("doc/tree/x..y.ipynb", "doc/tree/x..y.ipynb"),
        ("rstudio/?next=../x", "rstudio/?next=../x"),
    ],
)
def test_a_path_below_the_server_is_kept(path: str, kept: str) -> None:
    assert safe_urlpath(path) == kept


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example",
        "///evil.example",
        "/%2Fevil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "\\\\evil.example",
        "lab/%5C..",
        "../../other/lab",
        "lab/%2e%2e/%2e%2e/x",
        "lab/%252e%252e/x",
        "lab/a%3F/../../../other/lab",
        "lab/..#fragment",
        ".. ",
        "lab\n/x",
        "lab/%0d%0aSet-Cookie:x",
        "//[",
        "/javascript:alert(1)",
        "/x://[",
        "/ //evil.example",
        "lab/..%255C..%255Cx",
        "lab/tree/\u202efdp.ipynb",
        "lab/tree/%E2%80%AEfdp.ipynb",
        "lab/tree/%25E2%2580%25AEfdp.ipynb",
        "lab/tree/a\u200bb.ipynb",
        "lab/tree/a\u2028b.ipynb",
        "x" * 2001,
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(BadLink):
        safe_urlpath(path)


@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from(["/", "..", "%2f", "%2e", "?", "#", "a", "[", ":", "\\"])).map("".join)
    )
)
def test_any_path_stays_below_the_server_or_is_refused(path: str) -> None:
    try:
        kept = safe_urlpath(path)
    except ReplayError:
        return
    assert not kept.startswith(("/", "\\"))
    assert ".." not in unquote(kept.split("?")[0].split("#")[0]).split("/")


def test_an_image_is_named_by_what_goes_into_it_and_nothing_else() -> None:
    def named(link: str, version: str, recipe: BuildRecipe) -> str:
        spec = RepoSpec.parse(link)
        return str(ImageName.of(ResolvedRef(Repository.of_url(spec.url), spec, spec.url, version), recipe))

    recipe = BuildRecipe("venv", (("python", "3.11"), ("lab", "4")))
    name = named("gh/o/r/HEAD", "a" * 40, recipe)
    assert name == named(
        "git/https%3A%2F%2Fgithub.com%2FO%2FR.git/main", "a" * 40, BuildRecipe("venv", recipe.parameters[::-1])
    )
    assert ImageName.from_text(name) == ImageName(*name.rsplit(":", 1))
    different = {
        named("gh/o/r2/HEAD", "a" * 40, recipe),
        named("gh/o/r/HEAD", "b" * 40, recipe),
        named("gh/o/r/HEAD", "a" * 40, BuildRecipe("venv", (("python", "3.12"),))),
    }
    assert len(different | {name}) == 4
