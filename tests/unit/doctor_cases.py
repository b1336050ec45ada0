"""What tests of the doctor have in common: deployments that are nothing but settings, and servers that are not there."""

import json
from pathlib import Path
from typing import Any

from traitlets.config import Config

from replay_build_service.app import ReplayBuildService
from replay_build_service.doctor import Deployment
from replay_build_service.doctor.access import HubAccess, NoAccess
from replay_build_service.doctor.verdicts import Verdict
from tests.login_fixtures import free_ports
from tests.registry_server import Reply

SECRET = "a-secret-that-nobody-prints"
TOKEN = "0f" * 32


def deployment(
    tmp_path: Path, config: Config | None = None, hub: HubAccess | NoAccess | None = None, **settings: Any
) -> Deployment:
    service = ReplayBuildService(**settings)
    service.update_config(config or Config())
    return Deployment(
        settings=service,
        database_url=f"sqlite:///{tmp_path / 'replay.sqlite'}",
        upgrade_command="replay-build-service upgrade-db",
        token_file=tmp_path / "service_token",
        hub=hub or NoAccess("It is not known where.", "Say where."),
    )


def nowhere() -> str:
    """An address at which nothing listens."""
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def as_document(value: object, status: int = 200) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


def told(verdict: Verdict) -> str:
    return f"{verdict.state}: {verdict.message} {verdict.remedy}"


def with_section(name: str, **values: object) -> Config:
    return Config({name: Config(values)})
