"""What specs mean, for every git provider alike: one table of refs, one of locators. Who runs them is `tests/integration/test_providers.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GIST: Final = "6cad326836d38bd3a7ae"


@dataclass(frozen=True)
class Provider:
    """How one repository is named with a provider, and where that asks for it."""

    name: str
    link: str
    """As it follows ``/v2/`` in a link, without a ref; ``{url}`` is the server's address, percent-encoded."""
    asks: str
    """The address in whose place the tests put their own server's."""


PROVIDERS = (
    Provider("git", "git/{url}%2Fr.git", "{url}/r.git"),
    Provider("gh", "gh/o/r", "https://github.com/o/r"),
    Provider("gl", "gl/o%2Fdeeper%2Fand%2Fdeeper%2Fr", "https://gitlab.com/o/deeper/and/deeper/r.git"),
    Provider("gist", f"gist/o/{GIST}", f"https://gist.github.com/{GIST}.git"),
)

REFS_OF: Final = {
    "refs/heads/feature/main": "feature",
    "refs/heads/release/2026": "tagged",
    "refs/heads/both": "both-branch",
    "refs/heads/deadbeef": "feature",
    "refs/heads/pull/9/head": "tagged",
    "refs/tags/both": "both-tag",
    "refs/tags/light": "tagged",
    "refs/tags/nested/main": "feature",
    "refs/tags/0badc0de1": "both-tag",
    "refs/pull/7/head": "feature",
    "refs/pull/7/merge": "main",
    "refs/pull/9/head": "feature",
    "refs/merge-requests/5/head": "both-tag",
}
"""The refs of the repository, beside ``main``: from each to the name of a commit. Also the annotated tags ``v1.0`` (of ``tagged``) and
``v1.0-again`` (of that tag), a branch whose name is the SHA of ``main`` and leads to ``feature``, and one whose name are the first
ten digits of ``tagged`` and leads to ``both-tag``."""

REFS: Final = {
    "HEAD": "main",
    "main": "main",
    "feature/main": "feature",
    "feature%2Fmain": "feature",
    "release/2026": "tagged",
    "light": "tagged",
    "v1.0": "tagged",
    "v1.0-again": "tagged",
    "both": "both-branch",
    "refs/heads/both": "both-branch",
    "refs/tags/both": "both-tag",
    "refs/tags/v1.0": "tagged",
    "refs/tags/v1.0-again": "tagged",
    "refs/heads/main": "main",
    # Pull and merge requests, in full and as people say them; a branch of that name comes first.
    "refs/pull/7/head": "feature",
    "refs/merge-requests/5/head": "both-tag",
    "pull/7/head": "feature",
    "pull/7/merge": "main",
    "pull/9/head": "tagged",
    "merge-requests/5/head": "both-tag",
    # Names that look like SHAs.
    "deadbeef": "feature",
    "0badc0de1": "both-tag",
    "{tagged:.10}": "both-tag",
    "refs/heads/{main}": "feature",
    # SHAs.
    "{main}": "main",
    "{MAIN}": "main",
    "{main:.7}": "main",
    "{MAIN:.12}": "main",
    "{tagged:.12}": "tagged",
    "{buried}": "buried",
    "{v1.0}": "tagged",
    "{v1.0-again}": "tagged",
}
"""From what stands in a link to the name of the commit that it means. ``{name}`` is a SHA: of a commit, or of a tag's own object; in
capitals it is spelled so."""

NO_REFS: Final = (
    "2026",
    "heads/both",
    "tags/v1.0",
    "7/head",
    "pull/7",
    "pull/7/base",
    "pull/8/head",
    "pull/7/head/x",
    "requests/5/head",
    "merge-requests/5",
    "refs/heads",
    "refs/main",
    "refs/pull/8/head",
    "{buried:.10}",
    "{main:.6}",
    "1234567",
)
"""What stands in a link and means nothing there: no name is compared by its tail, no SHA is guessed."""

LOCATORS: Final[tuple[tuple[str, str, str | None], ...]] = (
    ("gh", "octocat/hello", "https://github.com/octocat/hello"),
    ("gh", "octo-cat/hello.world_1", "https://github.com/octo-cat/hello.world_1"),
    ("gh", "short_corp/x", "https://github.com/short_corp/x"),
    ("gh", "octocat/hello.git", "https://github.com/octocat/hello"),
    ("gh", "octocat/.github", "https://github.com/octocat/.github"),
    ("gh", "octocat", None),
    ("gh", "-octocat/hello", None),
    ("gh", "octocat/..", None),
    ("gh", "octocat/.git", None),
    ("gh", "octocat/hello/tree", None),
    ("gh", "octo cat/hello", None),
    ("gh", "octocat/hello?x", None),
    ("gh", "octocat@evil.example/hello", None),
    ("gh", "a" * 40 + "/hello", None),
    ("gh", "octocat/" + "a" * 101, None),
    ("gh", "octocat/hello\n", None),
    ("gl", "group/project", "https://gitlab.com/group/project.git"),
    ("gl", "group/project.git", "https://gitlab.com/group/project.git"),
    ("gl", "g/" * 20 + "project", "https://gitlab.com/" + "g/" * 20 + "project.git"),
    ("gl", "_group/.project/sub.group-1", "https://gitlab.com/_group/.project/sub.group-1.git"),
    ("gl", "https://gitlab.com/group/sub/project", "https://gitlab.com/group/sub/project.git"),
    ("gl", "https://GitLab.com:443/group/project.git/", "https://gitlab.com/group/project.git"),
    ("gl", "https://gitlab.example.org/group/project", "https://gitlab.example.org/group/project.git"),
    ("gl", "https://gitlab.example.org:8443/g/p", "https://gitlab.example.org:8443/g/p.git"),
    ("gl", "https://elsewhere.example.org/group/project", None),
    ("gl", "https://gitlab.example.org:9443/group/project", None),
    ("gl", "https://gitlab.example.org@evil.example/group/project", None),
    ("gl", "https://gitlab.example.org/group/project?private_token=x", None),
    ("gl", "https://gitlab.example.org/", None),
    ("gl", "ssh://git@gitlab.com/group/project", None),
    ("gl", "group", None),
    ("gl", "group//project", None),
    ("gl", "g/" * 21 + "project", None),
    ("gl", "group/-/project", None),
    ("gl", "group/project/-/tree/main", None),
    ("gl", "group/..", None),
    ("gl", "group/../project", None),
    ("gl", "group/.git", None),
    ("gl", "group.git/project", None),
    ("gl", "group/project.atom", None),
    ("gl", "gröup/project", None),
    ("gl", "group/proj ect", None),
    ("gl", "group/project\n", None),
    ("gl", "group/" + "a" * 256, None),
    ("gist", f"octocat/{GIST}", f"https://gist.github.com/{GIST}.git"),
    ("gist", f"octocat/{GIST}.git", f"https://gist.github.com/{GIST}.git"),
    ("gist", GIST, None),
    ("gist", f"octocat/{GIST}/raw", None),
    ("gist", f"octo/cat/{GIST}", None),
    ("gist", f"-octocat/{GIST}", None),
    ("gist", "octocat/hello", None),
    ("gist", f"octocat/{GIST}\n", None),
    ("gist", "octocat/" + "a" * 65, None),
)
"""A locator of a provider, percent-decoded, and the address that it is asked at; none where it is refused."""

SAME: Final = (
    ("gh/O/Hello/main", "git/https%3A%2F%2Fgithub.com%2Fo%2Fhello.git/HEAD"),
    ("gl/Group%2FSub%2FProject/main", "git/https%3A%2F%2Fgitlab.com%2Fgroup%2Fsub%2Fproject/HEAD"),
    ("gl/group%2Fproject.git/main", "gl/https%3A%2F%2Fgitlab.com%2Fgroup%2Fproject/main"),
    ("gl/https%3A%2F%2Fgitlab.example.org%2Fg%2Fp/main", "git/https%3A%2F%2Fgitlab.example.org%2Fg%2Fp.git/main"),
    (f"gist/octocat/{GIST}", f"git/https%3A%2F%2Fgist.github.com%2F{GIST}.git/HEAD"),
    (f"gist/octocat/{GIST}", f"gist/somebody-else/{GIST}/HEAD"),
    (f"gist/octocat/{GIST}", f"git/https%3A%2F%2Fgist.github.com%2FOctoCat%2F{GIST}/HEAD"),
)
"""Two links of one repository."""
