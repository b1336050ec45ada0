"""What is examined: the service's settings, and what the same configuration file says of the hub, read by name.

Nothing of the hub's is imported: the file may belong to a hub that has other classes than these packages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from traitlets.config import Config

from replay_build_service.doctor.access import HubAccess, NoAccess
from replay_build_service.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment, as far as its configuration tells."""

    settings: ServiceSettings
    database_url: str
    upgrade_command: str
    """What brings the database to this version's schema."""
    token_file: Path
    """The service's own."""
    hub: HubAccess | NoAccess

    def section(self, *classes: str) -> Mapping[str, object]:
        """What the file sets for a class and those that it stands on, the most general first."""
        merged: dict[str, object] = {}
        for name in classes:
            merged |= _section(self._config, name)
        return merged

    def has_section(self, name: str) -> bool:
        """Whether the file sets anything for a class."""
        return bool(_section(self._config, name))

    def anywhere(self, setting: str) -> object | None:
        """A setting by its name alone, whatever class the file sets it for; a spawner's own class before `ReplayMixin`."""
        found = [(name == "ReplayMixin", values[setting]) for name, values in self._sections() if setting in values]
        return min(found, key=lambda one: one[0])[1] if found else None

    @property
    def hub_services(self) -> tuple[Mapping[str, object], ...]:
        """The hub's services, as the file has them."""
        told = self.section("JupyterHub").get("services")
        entries = cast("list[object]", told) if isinstance(told, list) else []
        return tuple(cast("dict[str, object]", entry) for entry in entries if isinstance(entry, dict))

    @property
    def service_url(self) -> str:
        """Where the spawner finds the service: as the file says, or else where the hub has it; empty where neither does."""
        told = self.anywhere("replay_service_url")
        if isinstance(told, str) and told:
            return f"{told.rstrip('/')}/"
        return self.hub.service_url if isinstance(self.hub, HubAccess) else ""

    @property
    def spawner_token_file(self) -> Path:
        """The file that the spawner reads; the service's own where the configuration does not say."""
        told = self.anywhere("replay_token_file")
        return Path(told).absolute() if isinstance(told, str) and told else self.token_file

    @property
    def _config(self) -> Config:
        return self.settings.config

    def _sections(self) -> Iterator[tuple[str, Mapping[str, object]]]:
        for name in cast("dict[str, object]", self._config):
            if values := _section(self._config, name):
                yield name, values


def _section(config: Config, name: str) -> Mapping[str, object]:
    # Not by attribute: that would make the section.
    found = cast("dict[str, object]", config).get(name)
    return cast("dict[str, object]", found) if isinstance(found, Config) else {}
