"""In the hub: from a launch to a server.

`ReplayMixin` turns any spawner into one that knows launches; `ReplayLocalSpawner`, `replay_spawner.docker.ReplayDockerSpawner`
and `replay_spawner.kube.ReplayKubeSpawner` apply their plans.
Of the build service this package imports the client and the wire's models, nothing else.
"""

from replay_spawner.handlers import hub_templates, link_handlers
from replay_spawner.local import ReplayLocalSpawner
from replay_spawner.spawner import ReplayMixin

__all__ = ["ReplayLocalSpawner", "ReplayMixin", "hub_templates", "link_handlers"]
