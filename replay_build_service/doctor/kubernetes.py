"""The checks of builds in Kubernetes, where they are in use: `cluster` is imported then and no sooner."""

from __future__ import annotations

from replay_build_service.doctor.deployment import Deployment
from replay_build_service.doctor.engine import check_docker_engine
from replay_build_service.doctor.verdicts import Verdict, failed, not_used

_NO_PODS = not_used("Builds are no pods.")
_NO_PACKAGE = failed(
    "Builds are to be pods, and the package kubernetes_asyncio is not installed.",
    "pip install 'jupyterhub-replay[kubernetes]'",
)


async def check_rights(deployment: Deployment) -> Verdict:
    """See `cluster.check_rights`."""
    if deployment.settings.builder != "kubernetes":
        return _NO_PODS
    try:
        from replay_build_service.doctor import cluster
    except ImportError:
        return _NO_PACKAGE
    return await cluster.check_rights(deployment.settings)


async def check_build_pods(deployment: Deployment) -> Verdict:
    """See `cluster.check_build_pods`."""
    if deployment.settings.builder != "kubernetes":
        return _NO_PODS
    try:
        from replay_build_service.doctor import cluster
    except ImportError:
        return _NO_PACKAGE
    return await cluster.check_build_pods(deployment.settings)


async def check_engine(deployment: Deployment) -> Verdict:
    """Of the builder that is in use."""
    match deployment.settings.builder:
        case "docker":
            return await check_docker_engine(deployment)
        case "kubernetes":
            try:
                from replay_build_service.doctor import cluster
            except ImportError:
                return _NO_PACKAGE
            return await cluster.check_engine_pods(deployment.settings)
        case _:
            return not_used("Environments are made without a container engine.")
