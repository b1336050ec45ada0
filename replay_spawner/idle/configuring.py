"""What a hub's configuration adds so that sessions which nobody uses end."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from replay_spawner.idle.deciding import cull_every

CULLER = "idle-culler"


def culler_service(idle_seconds: int, service_url: str, token_file: str) -> dict[str, Any]:
    """For ``c.JupyterHub.services``: ends servers that nobody has used for so long.

    ``service_url`` and ``token_file`` are those of the spawner's traits ``replay_service_url`` and ``replay_token_file``.
    """
    every = cull_every(timedelta(seconds=idle_seconds))
    config = Path(__file__).with_name("culler_config.py")
    return {
        "name": CULLER,
        "command": [
            sys.executable,
            "-m",
            "jupyterhub_idle_culler",
            f"--timeout={idle_seconds}",
            f"--cull-every={every}",
            f"--config={config}",
        ],
        "environment": {
            "REPLAY_SERVICE_URL": service_url,
            "REPLAY_TOKEN_FILE": token_file,
            # A culler that could not read its configuration would count traffic alone, and end cells that print nothing.
            "TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR": "1",
        },
    }


def culler_role() -> dict[str, Any]:
    """For ``c.JupyterHub.load_roles``. With “access:servers” the hub lets it ask each server, by a token for that one alone."""
    return {
        "name": CULLER,
        "services": [CULLER],
        "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers", "access:servers"],
    }
