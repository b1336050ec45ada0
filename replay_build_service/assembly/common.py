"""What several builders' assembly needs: rules for what goes out, and the registry with its account."""

import asyncio
import base64
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from replay_build_service.builders.docker.recipe import configured_base_image
from replay_build_service.errors import BadLink, OriginRefused, SourceFault
from replay_build_service.outgoing import Origin, OutgoingRules
from replay_build_service.registry import Images, Registry, RegistrySettings
from replay_build_service.settings import ServiceSettings
from replay_build_service.sources.dataverse_installations import Installation, known_installations, read_installations

log = logging.getLogger(__name__)

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What a bearer token can be (https://www.rfc-editor.org/rfc/rfc6750#section-2.1)."""

_BUILD_NETWORKS = ("", "default", "none", "host")
"""What buildx takes."""


class UnusableSettings(Exception):
    """What an administrator has set cannot work. The message is a sentence for them."""


def outgoing_rules(settings: ServiceSettings) -> OutgoingRules:
    """What may be asked of the world outside. Raises `UnusableSettings` where an entry could never match."""
    archives = frozenset(settings.archive_hosts) | {one.host for one in _own_installations(settings)}
    checks: dict[str, Callable[[], OutgoingRules]] = {
        "allowed_hosts": lambda: OutgoingRules(allowed_hosts=frozenset(settings.allowed_hosts)),
        "archive_hosts": lambda: OutgoingRules(archive_hosts=archives),
        "exempt_origins": lambda: OutgoingRules(exempt_origins=frozenset(settings.exempt_origins)),
    }
    for name, check in checks.items():
        try:
            check()
        except ValueError as error:
            raise UnusableSettings(f"ReplayBuildService.{name}: {error}") from error
    return OutgoingRules(
        allowed_hosts=frozenset(settings.allowed_hosts),
        exempt_origins=frozenset(settings.exempt_origins),
        proxy=settings.outgoing_proxy or None,
        ca_file=settings.ca_file or None,
        submodules=settings.fetch_submodules,
        lfs_limit=cast(int, settings.lfs_limit),
        archive_hosts=archives,
    )


def installations(settings: ServiceSettings) -> Sequence[Installation]:
    """Of Dataverse: those that Replay knows, and the administrator's. Raises `UnusableSettings`."""
    return known_installations(_own_installations(settings))


def _own_installations(settings: ServiceSettings) -> tuple[Installation, ...]:
    file = settings.dataverse_installations
    if not file:
        return ()
    try:
        return read_installations(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UnusableSettings(
            f"ReplayBuildService.dataverse_installations: {file} cannot be read: {error.strerror}."
        ) from error
    except ValueError as error:
        raise UnusableSettings(f"ReplayBuildService.dataverse_installations: {file} cannot be used: {error}") from error


def source_tokens(settings: ServiceSettings) -> dict[str, str]:
    """Tokens for archives, by host. Raises `UnusableSettings`, whose sentence has no token in it."""
    file = settings.source_tokens_file
    if not file:
        return {}
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UnusableSettings(
            f"ReplayBuildService.source_tokens_file: {file} cannot be read: {error.strerror}."
        ) from None
    except ValueError:  # Whose message would have some of what it could not read.
        raise UnusableSettings(f"ReplayBuildService.source_tokens_file: {file} is no text.") from None
    tokens: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        host = _token_host(words[0]) if len(words) == 2 else None
        if host is None or host in tokens or not _TOKEN.fullmatch(words[1]):
            raise UnusableSettings(
                f"ReplayBuildService.source_tokens_file: line {number} of {file} should read HOST TOKEN, each host once."
            )
        tokens[host] = words[1]
    return tokens


def _token_host(text: str) -> str | None:
    try:
        origin = Origin.of_url(f"https://{text}")
    except (BadLink, OriginRefused):
        return None
    return origin.netloc if text.lower() == origin.netloc else None


def check_build_network(settings: ServiceSettings) -> None:
    """Raises `UnusableSettings`."""
    if settings.build_network not in _BUILD_NETWORKS:
        raise UnusableSettings(
            f"ReplayBuildService.build_network: builds know the networks {', '.join(filter(None, _BUILD_NETWORKS))} and no "
            f"{settings.build_network!r}."
        )
    if settings.build_network == "host":
        log.warning(
            "build_network is “host”: strangers' builds reach the loopback of the hub, this service and the proxy"
        )


def image_build_settings(settings: ServiceSettings) -> dict[str, Any]:
    """The fields of `ImageBuildSettings`. Raises `UnusableSettings`."""
    _, prefix = split_registry(settings.registry)
    return {
        "image_prefix": prefix,
        "network": settings.build_network or None,
        "cgroup_parent": settings.build_cgroup_parent or None,
        "time_limit": settings.build_timeout,
        "output_limit": settings.build_output_limit,
        "repository_limit": settings.repository_limit,
        "disk_limit": settings.build_disk_limit,
        "free_disk": settings.build_free_disk,
        "environment": dict(cast("dict[str, str]", settings.build_environment)),
        "outgoing": outgoing_rules(settings),
    }


async def images_of(settings: ServiceSettings, resources: AsyncExitStack) -> Images | None:
    """The registry that the settings name, with the account that is kept for it. Raises `UnusableSettings`."""
    url, _ = split_registry(settings.registry)
    if not url:
        return None
    folder = Path(settings.docker_config) if settings.docker_config else None
    credentials = credentials_of(folder, urlsplit(url).netloc)
    known = RegistrySettings(url, *credentials, ca_file=settings.ca_file or None)
    return Images(await resources.enter_async_context(Registry(known)), known.host)


def split_registry(url: str) -> tuple[str, str]:
    """Where it answers, and what the names of images begin with there. Raises `UnusableSettings`."""
    if not url:
        return "", ""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
        raise UnusableSettings(
            "ReplayBuildService.registry should read https://host[:port][/prefix], without a password."
        )
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")


def base_image_name(setting: str, configuration_file: Path | None) -> str:
    """What images stand on, as it is configured. Raises `UnusableSettings`."""
    try:
        return setting or configured_base_image(configuration_file)
    except Exception as error:
        raise UnusableSettings(f"{configuration_file} cannot be used: {error!r}") from error


async def pinned_or_kept(name: str, pinning: Awaitable[str], kept: Path) -> str:
    """The base image by digest. What it was at the last start is kept, for starts at which nobody answers who knows.

    Raises `UnusableSettings`.
    """
    try:
        pinned = await pinning
    except SourceFault as fault:
        pinned = await asyncio.to_thread(_kept_base_image, kept, name)
        if pinned is None:
            detail = getattr(fault, "detail", "")
            raise UnusableSettings(f"{fault.sentence}{f' ({detail})' if detail else ''}") from fault
        log.warning("%s The base image stays %s.", fault.sentence, pinned)
        return pinned
    await asyncio.to_thread(kept.write_text, f"{name} {pinned}\n", encoding="utf-8")
    return pinned


def _kept_base_image(kept: Path, name: str) -> str | None:
    """What the name was pinned to before."""
    if not kept.exists():
        return None
    was, _, pinned = kept.read_text(encoding="utf-8").strip().partition(" ")
    return pinned if was == name and pinned else None


def credentials_of(folder: Path | None, host: str) -> tuple[str | None, str | None]:
    """Name and password for a registry, as ``docker login`` keeps them; none where there are none.

    None, too, where a program keeps them (``credsStore``, ``credHelpers``), which the engine's command line alone asks: the
    service then asks the registry without an account. Raises `UnusableSettings` where the file cannot be read.
    """
    file = (folder or Path(os.environ.get("DOCKER_CONFIG", "~/.docker")).expanduser()) / "config.json"
    try:
        told = cast("dict[str, dict[str, dict[str, str]]]", json.loads(file.read_text(encoding="utf-8")))
        entry = told.get("auths", {}).get(host, {}).get("auth")
        if not entry:
            return None, None
        name, _, password = base64.b64decode(entry, validate=True).decode().partition(":")
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UnusableSettings(
            f"{file} has no credentials that can be read for {host}: {type(error).__name__}."
        ) from error
    return name, password
