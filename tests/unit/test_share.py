"""Links and badges as people paste them: each form, for “this branch” and for “exactly this commit”."""

from dataclasses import replace
from html import escape

import pytest

from replay_build_service.domain import ResolvedRef
from replay_build_service.links import Repository, RepoSpec
from replay_build_service.pasting import urlpath_of
from replay_build_service.web.share import Share, share_links

HUB = "https://hub.example.org"
COMMIT = "5c2f1d6b8f0e4a7c9d3b2a1f0e9d8c7b6a5f4e3d"
ICE = "git/https%3A%2F%2Fexample.org%2Fclimate%2Fice.git"


def shares(text: str, urlpath: str) -> tuple[Share, Share]:
    spec = RepoSpec.parse(text)
    return share_links(HUB, ResolvedRef(Repository.of_url(spec.url), spec, spec.url, COMMIT), urlpath)


TABLE = [
    # the link as it was opened, what it opens, and the address of “this branch” and of “exactly this commit”
    ("gh/ada/rain/main", "", "gh/ada/rain/main", f"gh/ada/rain/{COMMIT}"),
    (
        "gh/ada/rain/feature/cores",
        "lab/tree/index.ipynb",
        "gh/ada/rain/feature/cores?urlpath=lab/tree/index.ipynb",
        f"gh/ada/rain/{COMMIT}?urlpath=lab/tree/index.ipynb",
    ),
    (f"{ICE}/HEAD", "", f"{ICE}/HEAD", f"{ICE}/{COMMIT}"),
    (
        f"{ICE}/HEAD",
        "proxy/app?a=b&c=d e#f",
        f"{ICE}/HEAD?urlpath=proxy/app%3Fa%3Db%26c%3Dd+e%23f",
        f"{ICE}/{COMMIT}?urlpath=proxy/app%3Fa%3Db%26c%3Dd+e%23f",
    ),
    ("gh/ada/rain/a&b", "tree", "gh/ada/rain/a%26b?urlpath=tree", f"gh/ada/rain/{COMMIT}?urlpath=tree"),
    (f"gh/ada/rain/{COMMIT}", "", f"gh/ada/rain/{COMMIT}", f"gh/ada/rain/{COMMIT}"),
]


@pytest.mark.parametrize(("text", "urlpath", "branch", "commit"), TABLE)
def test_a_link_and_its_badge_in_each_form(text: str, urlpath: str, branch: str, commit: str) -> None:
    made = shares(text, urlpath)
    assert [share.label for share in made] == ["this branch", "exactly this commit"]
    for share, path in zip(made, (branch, commit), strict=True):
        url = f"{HUB}/v2/{path}"
        assert share.url == url
        assert share.markdown == f"[![Replay]({HUB}/badge_logo.svg)]({url})"
        assert share.restructuredtext.splitlines() == [
            f".. image:: {HUB}/badge_logo.svg",
            f"   :target: {url}",
            "   :alt: Replay",
        ]
        assert share.html == f'<a href="{escape(url)}"><img src="{HUB}/badge_logo.svg" alt="Replay"></a>'


@pytest.mark.parametrize(("text", "urlpath"), [(text, urlpath) for text, urlpath, _, _ in TABLE])
def test_a_shared_link_opens_what_it_was_made_of(text: str, urlpath: str) -> None:
    branch, commit = shares(text, urlpath)
    for share, ref in ((branch, RepoSpec.parse(text).ref), (commit, COMMIT)):
        path, _, query = share.url.removeprefix(f"{HUB}/v2/").partition("?")
        assert RepoSpec.parse(path) == replace(RepoSpec.parse(text), ref=ref)
        assert urlpath_of(query) == urlpath
