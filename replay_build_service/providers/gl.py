"""The provider ``gl``: projects of gitlab.com, ``gl/GROUP%2FSUBGROUP%2FPROJECT/REF``, and of other GitLabs by their whole URL.

Only what differs from `GitProvider` is here: how the locator is spelled, and where that is.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from replay_build_service.errors import BadLink
from replay_build_service.git import LIST_TIMEOUT, GitHttp
from replay_build_service.links import RepoSpec
from replay_build_service.outgoing import Origin, OutgoingRules, Resolver, resolve_host
from replay_build_service.providers.git import GitProvider

__all__ = ["GITLAB", "GitLabProvider"]

GITLAB = "gitlab.com"

# https://docs.gitlab.com/user/reserved_names/#rules-for-usernames-project-and-group-names-and-slugs (letters, digits, “_”, “-” and
# “.”; no “-” at the start, no “.git” or “.atom” at the end) and https://docs.gitlab.com/user/group/subgroups/ (groups of at
# most 20 levels).
_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,254}")
_MOST_NAMES = 21
_NOT_AT_THE_END = (".git", ".atom", ".")


class GitLabProvider(GitProvider):
    """Resolves specs of gitlab.com and of the GitLabs that the administrator names.

    ``hosts`` are these, ``gitlab.example.org`` or ``gitlab.example.org:8443``; whether they may be asked is for ``rules`` to say.
    """

    def __init__(
        self,
        rules: OutgoingRules,
        tasks: asyncio.TaskGroup,
        *,
        hosts: Collection[str] = (),
        http: GitHttp | None = None,
        timeout: float = LIST_TIMEOUT,
        resolver: Resolver = resolve_host,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(rules, tasks, http=http, timeout=timeout, resolver=resolver, clock=clock)
        self._hosts = tuple(dict.fromkeys((GITLAB, *(host.strip().lower() for host in hosts))))

    @property
    def name(self) -> str:
        return "gl"

    def fetch_url(self, spec: RepoSpec) -> str:
        """With ``.git``, to which GitLab redirects every other spelling.

        Raises `BadLink` for a path that no project can have and for a host that is no GitLab known here, and `OriginRefused`.
        """
        site, path = f"https://{GITLAB}", spec.locator
        if "://" in path:
            site, path = self._site_and_path(path)
        names = path.strip("/").removesuffix(".git").split("/")
        if not 2 <= len(names) <= _MOST_NAMES or not all(map(_is_name, names)):
            raise BadLink(
                "A link to GitLab reads /v2/gl/GROUP%2FPROJECT/REF, with %2F for each slash of the project's path, and letters, "
                "digits, “-”, “_” and “.” in the names."
            )
        return f"{site}/{'/'.join(names)}.git"

    def _site_and_path(self, url: str) -> tuple[str, str]:
        origin, parts = Origin.of_url(url), urlsplit(url)
        netloc = origin.netloc
        if netloc not in self._hosts:
            raise BadLink(
                f"{netloc} is no GitLab that is known here; {', '.join(self._hosts)} would be. Use a link that begins with "
                "/v2/git/, or ask an administrator of this hub to add it."
            )
        if parts.query or parts.fragment:
            raise BadLink("A project's address has no “?” and no “#”. Copy the address that you would clone.")
        return f"{origin.scheme}://{netloc}", parts.path


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.endswith(_NOT_AT_THE_END)
