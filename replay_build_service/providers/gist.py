"""The provider ``gist``: ``gist/OWNER/ID`` and ``gist/OWNER/ID/SHA``, gists of GitHub, which are git repositories.

git knows a gist by its ID alone, so the owner in a link is not compared with anything, and no part of what the gist is: policies
and limits count it by its ID.
"""

from __future__ import annotations

import re

from replay_build_service.errors import BadLink
from replay_build_service.links import RepoSpec
from replay_build_service.providers.git import GitProvider

__all__ = ["GistProvider"]

# As in gh.py, and https://docs.github.com/en/rest/gists/gists ("gist_id": hexadecimal digits, or a number for the oldest).
_LOCATOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,38}/(?P<id>[0-9a-f]{5,64})")


class GistProvider(GitProvider):
    """Resolves specs of gist.github.com."""

    @property
    def name(self) -> str:
        return "gist"

    def fetch_url(self, spec: RepoSpec) -> str:
        """Raises `BadLink` for an owner or an ID that GitHub cannot have."""
        match = _LOCATOR.fullmatch(spec.locator.removesuffix(".git"))
        if match is None:
            raise BadLink("A link to a gist reads /v2/gist/OWNER/ID, as in the gist's own address.")
        return f"https://gist.github.com/{match['id']}.git"
