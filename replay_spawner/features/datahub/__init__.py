"""EGI DataHub (Onedata) in sessions: a person's spaces as folders, or by REST where nothing can be mounted."""

from replay_spawner.features.datahub.feature import DataHub

__all__ = ["DataHub"]
