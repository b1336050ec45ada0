"""From settings to the providers: git hosts, archives of records, and what other packages bring."""

import asyncio
from collections.abc import Sequence

from replay_build_service.assembly.common import UnusableSettings, installations, outgoing_rules
from replay_build_service.git import GitHttp
from replay_build_service.installed import InstalledProvider, learn_installed_providers
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.ckan import CkanProvider
from replay_build_service.providers.context import ProviderContext
from replay_build_service.providers.dataverse import DataverseProvider
from replay_build_service.providers.doi import DoiProvider
from replay_build_service.providers.figshare import FigshareProvider
from replay_build_service.providers.gh import GitHubProvider
from replay_build_service.providers.gist import GistProvider
from replay_build_service.providers.git import GitProvider
from replay_build_service.providers.gl import GitLabProvider
from replay_build_service.providers.hydroshare import HydroShareProvider
from replay_build_service.providers.loading import UnusableProvider, make_installed
from replay_build_service.providers.osf import OsfProvider
from replay_build_service.providers.swh import SoftwareHeritageProvider
from replay_build_service.providers.zenodo import ZenodoProvider
from replay_build_service.settings import ServiceSettings
from replay_build_service.sources.asking import Asker
from replay_build_service.sources.dataverse import Dataverse


def make_providers(
    settings: ServiceSettings, tasks: asyncio.TaskGroup, ask: Asker, git: GitHttp | None = None
) -> dict[str, RepoProvider]:
    """The providers, by the name that links have for them. Raises `UnusableSettings`."""
    rules = outgoing_rules(settings)
    context = ProviderContext(rules, tasks, ask, git=git)
    dataverse = Dataverse(installations(settings))
    found: list[RepoProvider] = [
        GitProvider(rules, tasks, http=git),
        GitHubProvider(rules, tasks, http=git),
        GitLabProvider(rules, tasks, hosts=settings.gitlab_hosts, http=git),
        GistProvider(rules, tasks, http=git),
        ZenodoProvider(context),
        FigshareProvider(context),
        DataverseProvider(context, dataverse),
        HydroShareProvider(context),
        SoftwareHeritageProvider(context),
        OsfProvider(context),
        CkanProvider(context),
    ]
    archives = {provider.name: provider for provider in found}
    found.append(DoiProvider(context, archives, dataverse))
    try:
        found += make_installed(installed_providers(), context)
    except UnusableProvider as error:
        raise UnusableSettings(f"{error} Mend it, or uninstall it.") from error
    return {provider.name: provider for provider in found}


def installed_providers() -> Sequence[InstalledProvider]:
    """What other packages bring, whose links are understood from now on. Raises `UnusableSettings` where one cannot be used."""
    installed, complaints = learn_installed_providers()
    if complaints:
        raise UnusableSettings(f"{' '.join(complaints)} Mend it, or uninstall it.")
    return installed
