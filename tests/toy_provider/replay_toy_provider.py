"""A provider of a package of its own: ``toy/NAME`` is the git repository ``NAME.git`` of one server. docs/providers.md shows it."""

import re

from replay_build_service.errors import BadLink
from replay_build_service.links import RepoSpec
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.git import GitProvider
from replay_build_service.syntax import RefRule, Syntax

SERVER = "https://git.example.org"


def address(name: str) -> str:
    """From what a link says to the repository's address, with nobody asked."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name):
        raise BadLink("A toy has a name of lower-case letters, digits and hyphens: /v2/toy/NAME.")
    return f"{SERVER}/{name}.git"


class ToyProvider(GitProvider):
    """All that git repositories have in common is `GitProvider`'s; what differs is where a name leads."""

    syntax = Syntax("toy", "toy/NAME", address, segments=1, ref=RefRule.OPTIONAL)

    def __init__(self, context: ProviderContext) -> None:
        super().__init__(context.rules, context.tasks, http=context.git, resolver=context.resolver, clock=context.clock)

    @property
    def name(self) -> str:
        return "toy"

    def fetch_url(self, spec: RepoSpec) -> str:
        return address(spec.locator)
