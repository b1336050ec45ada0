"""The container engine's API, as much of it as builds need, over its socket.

The Docker Engine API, https://docs.docker.com/reference/api/engine/.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import quote, urlsplit

import httpx

from replay_build_service.domain import ImageConfiguration
from replay_build_service.errors import SourceFault
from replay_build_service.image_labels import TOP_LEVEL, top_level_in

TIMEOUT = 10.0
"""Seconds. The engine is on the same machine or next to it."""


class EngineFault(SourceFault):
    """The container engine did not answer properly. No fact about the image that was asked for."""

    def __init__(self, detail: str) -> None:
        super().__init__("The container engine of this site does not answer properly. Try again in a few minutes.")
        self.detail = detail
        """For the log."""


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image that the engine has."""

    id: str
    """``sha256:…``: the digest of its configuration."""
    digests: tuple[str, ...]
    """``repository@sha256:…`` for each registry that it was pulled from or pushed to."""
    configuration: ImageConfiguration


@dataclass(frozen=True, slots=True)
class EngineInfo:
    data_root: str
    """Where it keeps images and what builds write; a path on the engine's machine."""
    cgroup_driver: str
    """``cgroupfs`` or ``systemd``."""


class Engine:
    """A client of one engine, named as in ``DOCKER_HOST``: ``unix:///var/run/docker.sock`` or ``tcp://host:port``."""

    def __init__(self, host: str) -> None:
        """Raises `ValueError` for an address of another kind."""
        parts = urlsplit(host)
        if parts.scheme == "unix" and parts.path:
            transport = httpx.AsyncHTTPTransport(uds=parts.path)
            base_url = "http://engine"
        elif parts.scheme in {"tcp", "http"} and parts.hostname:
            transport = httpx.AsyncHTTPTransport()
            base_url = f"http://{parts.netloc}"
        else:
            raise ValueError(f"{host!r} should read unix:///path or tcp://host:port.")
        self.host = host
        self._client = httpx.AsyncClient(transport=transport, base_url=base_url, timeout=TIMEOUT, trust_env=False)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._client)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def info(self) -> EngineInfo:
        """Raises `EngineFault`."""
        told = await self._object("GET", "/info")
        match told:
            case {"DockerRootDir": str(root), **rest}:
                return EngineInfo(root, str(rest.get("CgroupDriver", "")))
            case _:
                raise EngineFault(f"/info says {str(told)[:200]}")

    async def image(self, name: str) -> EngineImage | None:
        """By tag, digest or id; ``None`` where the engine has it not. Raises `EngineFault`."""
        answer = await self._ask("GET", f"/images/{quote(name, safe='/:@')}/json")
        if answer.status_code == 404:
            return None
        match self._parsed(answer):
            case {"Id": str(identity), **rest}:
                names = cast("list[object]", rest.get("RepoDigests") or [])
                digests = tuple(digest for digest in names if isinstance(digest, str))
                return EngineImage(identity, digests, _configuration(rest.get("Config")))
            case other:
                raise EngineFault(f"of {name} it says {str(other)[:200]}")

    async def registry_digest(self, name: str) -> str | None:
        """The digest that a registry has for a name, asked by the engine with its own credentials; ``None`` for none.

        Raises `EngineFault`.
        """
        answer = await self._ask("GET", f"/distribution/{quote(name, safe='/:@')}/json")
        if answer.status_code in {401, 403, 404}:
            return None  # The engine says so of a name that is in no registry, too.
        match self._parsed(answer):
            case {"Descriptor": {"digest": str(digest)}}:
                return digest
            case other:
                raise EngineFault(f"of {name} in its registry it says {str(other)[:200]}")

    async def tag(self, image_id: str, repository: str, tag: str) -> None:
        """Give an image one more name. Raises `EngineFault`."""
        answer = await self._ask("POST", f"/images/{quote(image_id, safe=':')}/tag", repo=repository, tag=tag)
        if answer.status_code != 201:
            raise EngineFault(f"tagging {image_id}: {answer.status_code} {answer.text[:200]}")

    async def remove_tag(self, name: str) -> None:
        """Take a name away, and the image with its last one. No error where there is none. Raises `EngineFault`."""
        answer = await self._ask("DELETE", f"/images/{quote(name, safe='/:@')}", noprune="false")
        # A container of it may run: then the image stays until that has ended.
        if answer.status_code not in {200, 404, 409}:
            raise EngineFault(f"removing {name}: {answer.status_code} {answer.text[:200]}")

    async def _object(self, method: str, path: str) -> dict[str, Any]:
        return self._parsed(await self._ask(method, path))

    async def _ask(self, method: str, path: str, **query: str) -> httpx.Response:
        try:
            return await self._client.request(method, path, params=query)
        except httpx.HTTPError as error:
            raise EngineFault(f"{method} {path}: {error!r}") from error

    @staticmethod
    def _parsed(answer: httpx.Response) -> dict[str, Any]:
        try:
            value: object = answer.json()
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise EngineFault(f"{answer.url.path}: {answer.status_code}, no JSON") from error
        if answer.status_code != 200 or not isinstance(value, dict):
            raise EngineFault(f"{answer.url.path}: {answer.status_code} {answer.text[:200]}")
        return cast("dict[str, Any]", value)


def _configuration(told: object) -> ImageConfiguration:
    """The engine's words for the OCI configuration; what is not as it should be counts as not set."""
    fields = cast("dict[str, object]", told) if isinstance(told, dict) else {}
    environment = {name: value for name, _, value in (entry.partition("=") for entry in _texts(fields.get("Env")))}
    ports, labels = fields.get("ExposedPorts"), fields.get("Labels")
    return ImageConfiguration(
        user=_text(fields.get("User")),
        working_dir=_text(fields.get("WorkingDir")),
        home=environment.get("HOME"),
        entrypoint=_texts(fields.get("Entrypoint")),
        command=_texts(fields.get("Cmd")),
        exposed_ports=tuple(cast("dict[str, object]", ports)) if isinstance(ports, dict) else (),
        top_level=top_level_in(cast("dict[str, object]", labels).get(TOP_LEVEL)) if isinstance(labels, dict) else None,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    members = cast("list[object]", value) if isinstance(value, list) else []
    return tuple(member for member in members if isinstance(member, str))
