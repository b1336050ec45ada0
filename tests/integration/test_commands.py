"""``replay-build-service`` as an operator types it, and the reference configuration as the hub reads it."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import ROOT


def replay(*arguments: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "JUPYTERHUB_"))}
    return subprocess.run(
        [sys.executable, "-m", "replay_build_service.app", *arguments],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_setting_is_printed_with_its_default_and_its_meaning(tmp_path: Path) -> None:
    done = replay("--generate-config", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for setting in ("vos", "mem_limit", "allowed_hosts", "exempt_origins", "build_timeout", "python_downloads"):
        assert re.search(rf"^# c\.ReplayBuildService\.{setting} = ", done.stdout, re.MULTILINE), setting
    config = tmp_path / "generated.py"
    config.write_text(done.stdout)
    shown = replay("--config", str(config), "--show-config", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr


def test_what_is_in_force_is_shown(tmp_path: Path) -> None:
    config = tmp_path / "some_config.py"
    config.write_text('c.ReplayBuildService.build_timeout = 77\nc.ReplayBuildService.mem_limit = "3G"\n')
    shown = replay("--config", str(config), "--show-config", folder=tmp_path)
    assert "build_timeout = 77" in shown.stdout
    assert "mem_limit = '3G'" in shown.stdout


def test_the_database_is_made_upgraded_and_kept_as_a_copy(tmp_path: Path) -> None:
    made = replay("upgrade-db", folder=tmp_path)
    assert made.returncode == 0, made.stderr
    database = tmp_path / "replay-state" / "replay.sqlite"
    assert "to 0001" in made.stdout
    assert "already" in replay("upgrade-db", folder=tmp_path).stdout
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of-another-time'")
    services = {
        "JUPYTERHUB_API_TOKEN": "x",
        "JUPYTERHUB_API_URL": "http://127.0.0.1:9/hub/api",
        "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:9",
        "JUPYTERHUB_CLIENT_ID": "service-replay",
    }
    refused = replay("run", folder=tmp_path, **services)
    assert refused.returncode == 1
    assert "replay-build-service upgrade-db" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_service_that_no_hub_manages_says_what_is_missing(tmp_path: Path) -> None:
    done = replay("run", folder=tmp_path)
    assert done.returncode == 1
    assert "JUPYTERHUB_API_TOKEN" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_does_not_exist_is_answered_with_those_that_do(tmp_path: Path) -> None:
    done = replay("explode", folder=tmp_path)
    assert done.returncode == 1
    assert "run, upgrade-db" in done.stderr


@pytest.mark.parametrize("missing", ["REPLAY_OIDC_CLIENT_SECRET_FILE", "REPLAY_OIDC_CLIENT_ID"])
def test_the_reference_configuration_says_what_it_cannot_do_without(tmp_path: Path, missing: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    settings = {"REPLAY_OIDC_CLIENT_ID": "hub", "REPLAY_OIDC_CLIENT_SECRET_FILE": str(secret)}
    del settings[missing]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REPLAY_", "OAUTH"))}
    done = subprocess.run(
        [sys.executable, "-m", "jupyterhub", "-f", str(ROOT / "jupyterhub_config.py")],
        cwd=tmp_path,
        env=clean | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert missing in done.stderr
