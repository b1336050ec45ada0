"""How the hub is asked in the service's name: with the address and the token that the hub gives to its service.

They are in the environment of the service, so that is where this command is at home. Elsewhere they are named by options,
or taken from the service's own process where that runs on this machine, for this account, with the same configuration.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

API_URL, TOKEN = "JUPYTERHUB_API_URL", "JUPYTERHUB_API_TOKEN"
_PROGRAM, _MODULE = "replay-build-service", "replay_build_service.app"


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """What the command line says, beside what all commands take."""

    as_json: bool = False
    api_url: str = ""
    token_file: str = ""


@dataclass(frozen=True, slots=True)
class HubAccess:
    """The hub's REST API, as the service."""

    api_url: str
    """With a slash at its end."""
    token: str = field(repr=False)
    service_url: str = ""
    """Where the service answers, with its prefix; empty where the hub does not manage it."""
    hub_is_here: bool = False
    """Whether the hub's processes are among those of this machine."""


@dataclass(frozen=True, slots=True)
class NoAccess:
    """Why the hub cannot be asked, and what to do. ``is_fault``: something that was named is wrong."""

    message: str
    remedy: str
    is_fault: bool = False


def parse_options(arguments: Sequence[str]) -> tuple[DoctorOptions, list[str]]:
    """The command's own options, and the arguments that are left. Ends the process where one lacks its value."""
    parser = argparse.ArgumentParser(prog=f"{_PROGRAM} doctor", add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--api-url", default="")
    parser.add_argument("--token-file", default="")
    known, rest = parser.parse_known_args(arguments)
    return DoctorOptions(known.as_json, known.api_url, known.token_file), rest


def find_access(options: DoctorOptions, config_file: str, api_token_file: str = "") -> HubAccess | NoAccess:
    """Options first, then the setting, this process's environment, and that of the service's process."""
    service = _service_process(config_file)
    token_file = options.token_file or api_token_file
    own: Mapping[str, str] = os.environ
    has_all = (options.api_url or API_URL in own) and (token_file or TOKEN in own)
    if not has_all and service is not None:
        own, has_all = service.environment, True
    if not has_all:
        return NoAccess(
            f"Only the service has the hub's address and its token ({API_URL}, {TOKEN}), and this is not its environment.",
            "On Kubernetes run kubectl exec deploy/replay -- replay-build-service doctor --config FILE; on the service's own "
            "machine run it as the service's account, with the same REPLAY_* variables and the same --config; elsewhere "
            "name --api-url https://HUB/hub/api and --token-file FILE with a token of the service's.",
        )
    token = _named_token(token_file) if token_file else own.get(TOKEN, "")
    if isinstance(token, NoAccess):
        return token
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        return NoAccess("The hub's token is empty, or no token of a hub.", "See where it comes from.", is_fault=True)
    api_url = options.api_url or own[API_URL]
    return HubAccess(f"{api_url.rstrip('/')}/", token, _service_url(own), service is not None and service.is_of_a_hub)


def _named_token(file: str) -> str | NoAccess:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return NoAccess(
            f"The hub's token cannot be read from {file}: {_reason(error)}.",
            "Name another file with --token-file, or in c.ReplayBuildService.api_token_file.",
            is_fault=True,
        )


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is no text"


def _service_url(environment: Mapping[str, str]) -> str:
    """Where the service answers, for somebody on its own machine."""
    parts = urlsplit(environment.get("JUPYTERHUB_SERVICE_URL", ""))
    if not parts.hostname:
        return ""
    host = "127.0.0.1" if parts.hostname == "0.0.0.0" else parts.hostname  # noqa: S104  read, not listened on
    port = f":{parts.port}" if parts.port else ""
    prefix = environment.get("JUPYTERHUB_SERVICE_PREFIX", "/services/replay/")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{prefix}"


# ---- the service's process


@dataclass(frozen=True, slots=True)
class _Service:
    environment: Mapping[str, str] = field(repr=False)
    is_of_a_hub: bool
    """The hub started it."""


def _service_process(config_file: str) -> _Service | None:
    """The one process that runs this very service."""
    if not config_file:
        return None
    wanted = Path(config_file).resolve()
    found: list[_Service] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = _environment_of(process, wanted)
            if environment is not None:
                found.append(_Service(environment, _is_of_a_hub(process)))
    return found[0] if len(found) == 1 else None


def _environment_of(process: psutil.Process, config: Path) -> Mapping[str, str] | None:
    """``None`` where it is another process. One of another account never is: it could lead our token anywhere."""
    if process.pid == os.getpid() or process.uids().effective != os.geteuid():
        return None
    command = process.cmdline()
    if not any(word == _MODULE or Path(word).name == _PROGRAM for word in command):
        return None
    named = _named_config(command)
    if {"doctor", "policy", "upgrade-db"}.intersection(command) or named is None:
        return None
    if Path(process.cwd(), named).resolve() != config:
        return None
    environment = process.environ()
    is_alike = _settings_in(environment) == _settings_in(os.environ)
    return environment if is_alike and API_URL in environment else None


def _named_config(command: Sequence[str]) -> str | None:
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word == "--config":
            return following
        if word.startswith("--config="):
            return word.removeprefix("--config=")
    return None


def _settings_in(environment: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("REPLAY_")}


def _is_of_a_hub(process: psutil.Process) -> bool:
    parent = process.parent()
    command = parent.cmdline() if parent is not None else []
    # As a script, which may have its interpreter before it, or as a module.
    return any(Path(word).name == "jupyterhub" for word in command[:2]) or command[1:3] == ["-m", "jupyterhub"]
