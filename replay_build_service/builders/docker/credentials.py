"""What of an account's credentials a build may use: those of Replay's own registry, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast


def narrowed_config(file: Path, host: str | None) -> str:
    """The engine's command line's ``config.json`` with what it needs for this registry, and nobody else's credentials.

    BuildKit hands a build's pulls (``FROM``, ``COPY --from``) whatever credentials there are, and buildx makes build
    arguments of ``proxies``, which steps can print. Raises `OSError`.
    """
    try:
        told: object = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        told = {}
    except ValueError as error:
        raise OSError(0, f"it is no JSON ({error})", str(file)) from error
    config = _mapping(told)
    kept = {name: config[name] for name in ("cliPluginsExtraDirs",) if name in config}
    if host is not None:
        auths, helpers = _mapping(config.get("auths")), _mapping(config.get("credHelpers"))
        if host in auths:
            kept["auths"] = {host: auths[host]}
        if helper := helpers.get(host) or config.get("credsStore"):
            kept["credHelpers"] = {host: helper}
    # A plugin beside the file, as “docker” installs them for one account, is found there still.
    plugins = file.parent / "cli-plugins"
    if plugins.is_dir():
        kept["cliPluginsExtraDirs"] = [*cast("list[str]", kept.get("cliPluginsExtraDirs", [])), str(plugins.resolve())]
    return json.dumps(kept)


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
