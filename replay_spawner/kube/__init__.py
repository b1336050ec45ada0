"""Sessions as pods of a cluster. `ReplayKubeSpawner` is for `JupyterHub.spawner_class`; all else is its own."""

from replay_spawner.kube.spawner import ReplayKubeSpawner

__all__ = ["ReplayKubeSpawner"]
