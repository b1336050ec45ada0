"""From settings to the providers: git hosts and archives of records."""

import asyncio

from replay_build_service.assembly.common import outgoing_rules
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.gh import GitHubProvider
from replay_build_service.providers.git import GitProvider
from replay_build_service.providers.zenodo import ZenodoProvider
from replay_build_service.settings import ServiceSettings
from replay_build_service.sources.asking import Asker


def make_providers(settings: ServiceSettings, tasks: asyncio.TaskGroup, ask: Asker) -> dict[str, RepoProvider]:
    """The providers, by the name that links have for them. Raises `UnusableSettings`."""
    rules = outgoing_rules(settings)
    context = ProviderContext(rules, tasks, ask)
    found: list[RepoProvider] = [GitProvider(rules, tasks), GitHubProvider(rules, tasks), ZenodoProvider(context)]
    return {provider.name: provider for provider in found}
