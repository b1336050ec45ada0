"""What a session's pod uses now, as the cluster's metrics API counts, where there is one."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from kubernetes_asyncio.client import CustomObjectsApi
from kubernetes_asyncio.client.exceptions import ApiException

from replay_spawner.kube.cluster import answer
from replay_spawner.kube.pods import NOTEBOOK
from replay_spawner.kube.reasons import said_by
from replay_spawner.usage import Usage
from replay_spawner.usage.metrics import GROUP, VERSION, usage_of_pod

ABSENT_SECONDS = 300.0
"""How long a cluster without a metrics API, or without the right to ask it, is not asked again."""


class Figures:
    """One cluster's metrics API, as all sessions of this hub ask it."""

    def __init__(self) -> None:
        self.log: Any = logging.getLogger(__name__)
        self._absent_until = 0.0

    async def of(self, api: Any, pod: Mapping[str, Any]) -> Usage | None:
        """What a pod uses; ``pod`` is the API's. None where nothing tells. Raises `ClusterSilent`, and `ApiException`."""
        if time.monotonic() < self._absent_until:
            return None
        metadata = pod["metadata"]
        metrics = CustomObjectsApi(api.api_client)
        try:
            told = await answer(
                metrics.get_namespaced_custom_object(
                    GROUP, VERSION, metadata["namespace"], "pods", metadata["name"], _preload_content=False
                )
            )
        except ApiException as error:
            if error.status not in (403, 404):
                raise
            if error.status == 404 and _is_of_the_pod(error, metadata["name"]):
                # A pod has figures a minute or so after it has started.
                return None
            self._absent_until = time.monotonic() + ABSENT_SECONDS
            self.log.info("This cluster does not tell what sessions use: %s", said_by(error))
            return None
        return usage_of_pod(told, pod, NOTEBOOK)


def _is_of_the_pod(error: ApiException, pod: str) -> bool:
    """Whether an answer says that there are no figures of this pod, rather than that there is no such API."""
    return pod in said_by(error)
