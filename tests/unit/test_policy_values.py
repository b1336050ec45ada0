"""Patterns of repositories, limits and their sentences."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_build_service.errors import BadLink, LimitReached
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.policy_values import Ceilings, Counts, Limits, RepositoryPattern

pytestmark = pytest.mark.hub_independent

HELLO = "https://github.com/octocat/hello"


def repository(link: str) -> Repository:
    return Repository.of_url(RepoSpec.parse(link).url)


@pytest.mark.parametrize(
    "spelled",
    [
        HELLO,
        "http://github.com/octocat/hello",
        "github.com/octocat/hello",
        "gh/octocat/hello",
        "https://GitHub.com/OctoCat/Hello.git",
        "https://www.github.com/octocat/hello/",
        "https://github.com:443/octocat/hello",
        " github.com//octocat/hello ",
        "github.com/octo%63at/hello",
    ],
)
@pytest.mark.parametrize(
    "link",
    [
        "gh/octocat/hello/HEAD",
        "gh/OctoCat/HELLO/main",
        "git/https%3A%2F%2Fgithub.com%2Foctocat%2Fhello.git/HEAD",
        "git/https%3A%2F%2FGITHUB.com%2Foctocat%2Fhello%2F/HEAD",
        "git/https%3A%2F%2Fada%40github.com%2Foctocat%2Fhello/HEAD",
        "git/http%3A%2F%2Fgithub.com%2Foctocat%2Fhello/HEAD",
    ],
)
def test_no_spelling_of_pattern_or_link_makes_a_difference(spelled: str, link: str) -> None:
    pattern = RepositoryPattern.parse(spelled)
    assert pattern.text == "github.com/octocat/hello"
    assert pattern.matches(repository(link))
    assert pattern.matches_any_case(repository(link))


@pytest.mark.parametrize(
    ("pattern", "url", "matches"),
    [
        ("github.com/octocat/*", HELLO, True),
        ("github.com/octocat/**", HELLO, True),
        ("github.com/octo*/hello", HELLO, True),
        ("github.com/*/h*o", HELLO, True),
        ("github.com/*/h*l*", HELLO, True),
        ("**", HELLO, True),
        ("*.com/**", HELLO, True),
        ("*.COM/OctoCat/Hello", HELLO, True),
        ("github.com/**", "https://github.com/a/b", True),
        ("git.example.org/**", "https://git.example.org/group/sub/name", True),
        ("git.example.org/group/*", "https://git.example.org/group/sub/name", False),
        ("git.example.org/*/name", "https://git.example.org/a/b/name", False),
        ("github.com/octo*", "https://github.com/octopus/evil", False),  # and is refused as a pattern, below
        ("*.egi.eu/*", "https://evil.org/x.egi.eu/y", False),
        ("*.egi.eu/**", "https://evil.org/x.egi.eu/y", False),
        ("git.egi.eu/**", "https://git.egi.eu.evil.org/x", False),
        ("git.egi.eu/**", "https://xgit.egi.eu/x", False),
        ("git.egi.eu/**", "https://git.egi.eu:8443/x", False),
        ("git.egi.eu:8443/**", "https://git.egi.eu:8443/x", True),
        ("github.com/octocat/hello", "https://github.com/octocat/hello-world", False),
        ("github.com/octocat/hello", "https://gitlab.com/octocat/hello", False),
        ("github.com/oct.cat/hello", HELLO, False),  # a dot is a dot
        ("git.example.org/Team/*", "https://git.example.org/team/x", False),
    ],
)
def test_what_a_pattern_names(pattern: str, url: str, matches: bool) -> None:
    if pattern == "github.com/octo*":
        with pytest.raises(BadLink):
            RepositoryPattern.parse(pattern)
        return
    assert RepositoryPattern.parse(pattern).matches(Repository.of_url(url)) is matches


def test_a_denial_holds_for_each_spelling_of_a_host_that_does_not_tell_cases_apart() -> None:
    assert RepositoryPattern.parse("git.example.org/Evil/*").matches_any_case(
        Repository.of_url("https://git.example.org/evil/X")
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("github.com", "names no repository. For all that a host has, write github.com/**."),
        ("https://git.example.org/", "write git.example.org/**."),
        ("github.com/octocat", "For all of theirs write github.com/octocat/**."),
        ("gitlab.com/*", "names an owner and no repository"),
        ("zenodo/10.5281/zenodo.1", "never matches: write doi.org/DOI"),
        ("doi/10.5281/zenodo.1", "never matches: write doi.org/DOI"),
        ("figshare/**", "never matches: write doi.org/DOI"),
        ("osf/abcde", "never matches: write osf.io/ID"),
        ("swh/swh:1:dir:" + "a" * 40, "never matches: write archive.softwareheritage.org/swh:1:dir:ID"),
        ("gl/group%2Fproject", "never matches: write its address"),
        ("git/https%3A%2F%2Fgit.example.org%2Frepository", "never matches: write its address"),
        ("https://dx.doi.org/10.5281/zenodo.1", "never matches: write doi.org/DOI"),
        ("https://zenodo.org/records/1", "never matches: write doi.org/DOI"),
        ("sandbox.zenodo.org/**", "never matches: write doi.org/DOI"),
        ("https://monash.figshare.com/articles/dataset/x/1", "never matches: write doi.org/DOI"),
        ("doi.org/10.6084/m9.figshare.1.v2", "never matches: write doi.org/DOI"),
        ("https://doi.org/10.4211/hs.0123", "never matches: write www.hydroshare.org/resource/ID"),
        ("doi.org/10.17605/*/*", "never matches: write osf.io/ID"),
        ("archive.softwareheritage.org/swh:1:rev:" + "a" * 40, "write archive.softwareheritage.org/swh:1:dir:ID"),
        ("gist.github.com/ada/*", "whose a gist is cannot be checked"),
        ("gist.github.com/ada/**", "whose a gist is cannot be checked"),
        ("github.com/**/x", "** stands for all that is below, as the last part"),
        ("github.com/a**", "** stands for all that is below, as the last part"),
        ("ssh://git@github.com/a/b", "is no pattern for repositories"),
        ("git@github.com:a/b", "is no pattern for repositories"),
        ("github.com/a/b?x=1", "is no pattern for repositories"),
        ("github.com/a b/c", "is no pattern for repositories"),
        ("github.com/a%20b/c", "is no pattern for repositories"),
        ("", "is no pattern for repositories"),
        ("/", "is no pattern for repositories"),
        ("git.example.org:*/a", "is no pattern for repositories"),
        ("gh/a", "names an owner and no repository"),
        ("x" * 501, "at most 500 are read"),
        ("\ud800.org/a", "is no pattern for repositories"),
    ],
)
def test_what_would_never_match_is_refused_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(BadLink) as raised:
        RepositoryPattern.parse(text)
    assert told in raised.value.sentence


@given(st.text(max_size=60))
def test_whatever_is_written_is_a_pattern_or_a_bad_link(text: str) -> None:
    try:
        pattern = RepositoryPattern.parse(text)
    except BadLink:
        return
    assert RepositoryPattern.parse(pattern.text) == pattern  # one spelling
    pattern.matches(Repository.of_url(HELLO))


def test_matching_takes_a_time_that_grows_with_the_length_alone() -> None:
    """A pattern of stars against a repository that almost matches: backtracking would take longer than the universe has."""
    hostile = RepositoryPattern.parse(f"git.example.org/{'*a' * 60}b")
    long = Repository.of_url(f"https://git.example.org/{'a' * 1900}")
    started = time.process_time()
    assert not hostile.matches(long)
    assert time.process_time() - started < 5


def test_two_thousand_patterns_are_looked_through() -> None:
    patterns = [RepositoryPattern.parse(f"git.example.org/group{number}/*") for number in range(2000)]
    found = [one.text for one in patterns if one.matches(Repository.of_url("https://git.example.org/group1999/x"))]
    assert found == ["git.example.org/group1999/*"]


def test_some_repositories_have_numbers_of_their_own() -> None:
    numbers = (("github.com/octocat/hello", 7), ("github.com/octocat/*", 30))
    limits = Limits(servers_of_repositories=tuple((RepositoryPattern.parse(text), most) for text, most in numbers))
    most = [
        limits.ceilings(Repository.of_url(url)).repository for url in (HELLO, f"{HELLO}2", "https://github.com/a/b")
    ]
    assert most == [7, 30, 100]


@pytest.mark.parametrize(
    ("ceilings", "counts", "told"),
    [
        (
            Ceilings(person=1),
            Counts(person=1),
            "You have 1 server for vo.one, on their way or running, and vo.one allows each person 1 at once. Stop one",
        ),
        (Ceilings(vo=20), Counts(vo=20), "vo.one has 20 servers, on their way or running, and 20 is all"),
        (Ceilings(repository=100), Counts(repository=103), "github.com/octocat/hello has 103 servers"),
        (Ceilings(builds=2), Counts(builds=2), "2 builds that you asked for are under way, and vo.one allows"),
    ],
)
def test_a_limit_names_itself_the_count_and_what_to_do(ceilings: Ceilings, counts: Counts, told: str) -> None:
    with pytest.raises(LimitReached) as raised:
        ceilings.refuse(counts, "vo.one", Repository.of_url(HELLO))
    assert told in raised.value.sentence
    assert any(word in raised.value.sentence for word in ("Stop one", "Try again when", "Wait until"))


def test_below_its_limits_nothing_is_refused() -> None:
    Ceilings(1, 20, 100, 2).refuse(Counts(0, 19, 99, 1), "vo.one", Repository.of_url(HELLO))
    Ceilings().refuse(Counts(10**6, 10**6, 10**6, 10**6), "vo.one", Repository.of_url(HELLO))
