"""How the specs of each provider are spelled."""

import pytest

from replay_build_service.errors import BadLink
from replay_build_service.links import Repository, RepoSpec, ResolvedRef
from replay_build_service.syntax import RefRule, Syntax, known_syntaxes, learn, syntax_of

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("link", "locator", "ref", "url"),
    [
        ("gh/o/r/feature/x", "o/r", "feature/x", "https://github.com/o/r"),
        ("gl/group%2Fsub%2Fproject/main", "group/sub/project", "main", "https://gitlab.com/group/sub/project"),
        ("gl/https%3A%2F%2Fgit.example.org%2Fg%2Fp/main", "https://git.example.org/g/p", "main", "https://git.example.org/g/p"),
        (f"gist/ada/{SHA[:32]}", f"ada/{SHA[:32]}", "HEAD", f"https://gist.github.com/ada/{SHA[:32]}"),
        (f"gist/ada/{SHA[:32]}/{SHA}", f"ada/{SHA[:32]}", SHA, f"https://gist.github.com/ada/{SHA[:32]}"),
        ("git/https%3A%2F%2Fexample.org%2Fr.git/v1", "https://example.org/r.git", "v1", "https://example.org/r.git"),
        ("zenodo/10.5281/zenodo.3242074", "10.5281/zenodo.3242074", "", "https://doi.org/10.5281/zenodo.3242074"),
        ("zenodo/10.5281/zenodo.3242074@3242075", "10.5281/zenodo.3242074", "3242075", "https://doi.org/10.5281/zenodo.3242074"),
        ("figshare/10.6084/m9.figshare.9782777.v1", "10.6084/m9.figshare.9782777.v1", "", "https://doi.org/10.6084/m9.figshare.9782777"),
        ("dataverse/10.7910/DVN/TJCLKP@2.0-0123456789ab", "10.7910/DVN/TJCLKP", "2.0-0123456789ab", "https://doi.org/10.7910/dvn/tjclkp"),
        (f"hydroshare/{SHA[:32]}", SHA[:32], "", f"https://www.hydroshare.org/resource/{SHA[:32]}"),
        ("ckan/https%3A%2F%2Fdemo.ckan.org%2Fdataset%2Fsample", "https://demo.ckan.org/dataset/sample", "", "https://demo.ckan.org/dataset/sample"),
        ("osf/abcde", "abcde", "", "https://osf.io/abcde"),
        (f"swh/swh:1:rev:{SHA}", f"swh:1:rev:{SHA}", "", f"https://archive.softwareheritage.org/swh:1:rev:{SHA}"),
        (f"doi/10.4211/hs.{SHA[:32]}", f"10.4211/hs.{SHA[:32]}", "", f"https://www.hydroshare.org/resource/{SHA[:32]}"),
        ("doi/10.17605/OSF.IO/ABCDE", "10.17605/OSF.IO/ABCDE", "", "https://osf.io/abcde"),
    ],
)  # fmt: skip
def test_a_link_names_a_repository_and_a_version(link: str, locator: str, ref: str, url: str) -> None:
    spec = RepoSpec.parse(link)
    assert (spec.provider, spec.locator, spec.ref, spec.url) == (link.partition("/")[0], locator, ref, url)
    assert RepoSpec.parse(spec.text) == spec
    assert Repository.of_url(spec.url) == Repository.of_url(RepoSpec.parse(spec.text).url)


@pytest.mark.parametrize(
    "locator",
    [
        "10.4211/hs.{}",
        "10.4211/HS.{}@20240131",
        "http%3A%2F%2Fwww.hydroshare.org%2Fresource%2F{}",
        "https%3A%2F%2Fwww.hydroshare.org%2Fresource%2F{}%2F",
        "https%3A%2F%2Fdoi.org%2F10.4211%2Fhs.{}",
    ],
)
def test_binderhubs_other_spellings_of_a_resource_are_that_resource(locator: str) -> None:
    spec = RepoSpec.parse(f"hydroshare/{locator.format(SHA[:32])}")
    assert (spec.locator, spec.url) == (SHA[:32], f"https://www.hydroshare.org/resource/{SHA[:32]}")
    assert spec.text.partition("@")[0] == f"hydroshare/{SHA[:32]}"


@pytest.mark.parametrize(
    ("link", "says"),
    [
        ("gl/project/main", "a group and a project"),
        ("gl/group/project/main", "a group and a project"),
        ("gist/ada/nothing-hexadecimal", "somebody's gist"),
        ("zenodo/3242074", "That is no DOI"),
        ("zenodo/10.5281", "That is no DOI"),
        ("zenodo/", "names no repository"),
        ("zenodo/@3", "names no repository"),
        ("zenodo/10.5281/zenodo.1/../2", "cannot hold"),
        ("zenodo/10.5281/zenodo.1@-x", "That is no DOI"),
        ("zenodo/10.5281/zenodo.1@a@b", "That is no DOI"),
        ("hydroshare/abc", "32 letters and digits"),
        (f"hydroshare/https%3A%2F%2Fexample.org%2Fresource%2F{SHA[:32]}", "32 letters and digits"),
        ("ckan/https%3A%2F%2Fdemo.ckan.org%2Fgroup%2Fx", "the dataset's address"),
        ("ckan/sample", "whole URL"),
        ("ckan/https%3A%2F%2F%5B%3A%3A1%2Fdataset%2Fx", "the dataset's address"),
        ("zenodo/10.5281/zenodo.1%2F", "names no repository"),
        ("dataverse/10.7910/DVN%2F%2FX", "names no repository"),
        ("osf/abc", "osf.io/abcde"),
        ("swh/swh:2:rev:" + SHA, "no SWHID"),
        ("swh/swh:1:ori:" + SHA, "no SWHID"),
        ("doi/11.5281/zenodo.1", "That is no DOI"),
    ],
)
def test_what_no_source_can_have_is_told(link: str, says: str) -> None:
    with pytest.raises(BadLink) as caught:
        RepoSpec.parse(link)
    assert says in caught.value.sentence


@pytest.mark.parametrize("syntax", known_syntaxes(), ids=lambda syntax: syntax.provider)
def test_each_example_begins_with_its_provider_and_says_which_parts_differ(syntax: Syntax) -> None:
    assert syntax_of(syntax.example.partition("/")[0]) is syntax
    assert any(letter.isupper() for letter in syntax.example)


def test_a_version_is_pinned_by_a_full_sha_or_a_records_version() -> None:
    branch, record = RepoSpec.parse("gh/o/r/main"), RepoSpec.parse("zenodo/10.5281/zenodo.1")
    assert branch.pinned_to(SHA) == RepoSpec("gh", "o/r", SHA)
    assert record.pinned_to("2-0123456789ab").text == "zenodo/10.5281/zenodo.1@2-0123456789ab"
    for spec, version in ((branch, "main"), (branch, SHA[:39]), (branch, SHA.upper()), (record, "a b"), (record, "-1")):
        with pytest.raises(BadLink, match="names one for good"):
            spec.pinned_to(version)


def test_what_a_link_asked_for_is_told_of_branches_alone() -> None:
    def resolved(link: str, fetch_url: str, version: str) -> ResolvedRef:
        spec = RepoSpec.parse(link)
        return ResolvedRef(Repository.of_url(spec.url), spec, fetch_url, version)

    branch = resolved("gh/o/r/main", "https://github.com/o/r", SHA)
    commit = resolved(f"gh/o/r/{SHA}", "https://github.com/o/r", SHA)
    record = resolved("zenodo/10.5281/zenodo.1@1", "zenodo+https://zenodo.org/api/records/1", "1-0123456789ab")
    assert [one.is_commit for one in (branch, commit, record)] == [True, True, False]
    assert [one.asked_for for one in (branch, commit, record)] == ["main", "", ""]
    assert [one.short_version for one in (branch, commit, record)] == [SHA[:10], SHA[:10], "1"]


def test_another_package_may_bring_a_provider_but_not_another_of_the_same_name() -> None:
    toy = Syntax("toy-of-tests", "toy-of-tests/NAME/HEAD", lambda locator: f"https://toys.example/{locator}", 1)
    learn(toy)
    learn(toy)
    assert RepoSpec.parse("toy-of-tests/boat/HEAD").url == "https://toys.example/boat"
    with pytest.raises(ValueError, match="already"):
        learn(Syntax("toy-of-tests", "toy-of-tests/OTHER", lambda locator: locator, ref=RefRule.PIN))
    with pytest.raises(ValueError, match="no name for a provider"):
        learn(Syntax("Toy/1", "Toy/1/NAME", lambda locator: locator))
