"""Sessions as containers of one engine. `ReplayDockerSpawner` is for `JupyterHub.spawner_class`; all else is its own."""

from replay_spawner.docker.spawner import ReplayDockerSpawner

__all__ = ["ReplayDockerSpawner"]
