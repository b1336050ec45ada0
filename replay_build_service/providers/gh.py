"""The provider ``gh``: ``gh/OWNER/NAME/REF`` on github.com, resolved like every git repository.

Only what differs from `GitProvider` is here: how the locator is spelled, and where that is.
"""

from __future__ import annotations

import re

from replay_build_service.errors import BadLink
from replay_build_service.links import RepoSpec
from replay_build_service.providers.git import GitProvider

__all__ = ["GitHubProvider"]

# https://docs.github.com/en/enterprise-cloud@latest/admin/managing-iam/iam-configuration-reference/username-considerations-for-external-authentication
# (letters, digits, single hyphens, at most 39; an underscore before an enterprise's short code) and, for names of
# repositories, what github.com accepts in its form: letters, digits, “.”, “-”, “_”, at most 100.
_LOCATOR = re.compile(r"(?P<owner>[A-Za-z0-9][A-Za-z0-9_-]{0,38})/(?P<name>[A-Za-z0-9._-]{1,100})")


class GitHubProvider(GitProvider):
    """Resolves specs of github.com."""

    @property
    def name(self) -> str:
        return "gh"

    def fetch_url(self, spec: RepoSpec) -> str:
        """Raises `BadLink` for an owner or a name that GitHub cannot have."""
        match = _LOCATOR.fullmatch(spec.locator)
        name = match["name"].removesuffix(".git") if match else ""
        if match is None or name in {"", ".", ".."}:
            raise BadLink(
                "A link to GitHub reads /v2/gh/OWNER/REPOSITORY/REF, with letters, digits, “-”, “_” and “.” in the names."
            )
        return f"https://github.com/{match['owner']}/{name}"
