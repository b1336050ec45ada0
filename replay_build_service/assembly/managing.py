"""What the managers of VOs see and do, from the parts that the service has."""

from collections.abc import Mapping

from replay_build_service.builds import Builds
from replay_build_service.db import Store
from replay_build_service.events import EventFeed
from replay_build_service.hub import HubClient
from replay_build_service.managing import Managing
from replay_build_service.managing.decisions import Decisions
from replay_build_service.managing.explaining import Explaining
from replay_build_service.managing.prepared import PreparedEvents
from replay_build_service.managing.sessions import Sessions
from replay_build_service.managing.usage import Usages
from replay_build_service.policies import PolicySet
from replay_build_service.policy_values import RepositoryPattern
from replay_build_service.providers.base import RepoProvider
from replay_build_service.settings import ServiceSettings


def make_managing(
    settings: ServiceSettings,
    store: Store,
    hub: HubClient,
    builds: Builds,
    policies: PolicySet,
    feed: EventFeed,
    providers: Mapping[str, RepoProvider],
) -> Managing:
    """For the VOs that have a policy."""
    explaining = Explaining(store, policies)
    return Managing(
        vos=policies.vos,
        store=store,
        decisions=Decisions(store, lambda text: RepositoryPattern.parse(text).text),
        sessions=Sessions(store, hub, builds, feed),
        usages=Usages(store),
        events=PreparedEvents(store, providers, builds, explaining.refuse_denied, policies.build_ceiling),
        explaining=explaining,
        accounting_site=settings.accounting_site,
        accounting_service=settings.accounting_service,
    )
