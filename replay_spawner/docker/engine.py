"""DockerSpawner's way to the engine, with bounds: how long an answer may take, and how many calls there are at once."""

import asyncio
import io
import tarfile
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from inspect import isawaitable
from itertools import islice
from typing import Any, ClassVar

import requests
import urllib3
from docker.api import APIClient
from docker.constants import DEFAULT_UNIX_SOCKET
from docker.errors import APIError, DockerException, NotFound
from docker.tls import TLSConfig
from docker.utils import kwargs_from_env
from dockerspawner import DockerSpawner

from replay_spawner.usage import Usage
from replay_spawner.usage.engine import time_of, usage_of_container

ENGINE_FAULTS: tuple[type[Exception], ...] = (
    DockerException,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    TimeoutError,
)
"""What a call of docker-py's raises where the engine does not answer, or answers with an error (`APIError`)."""

CALLS_AT_ONCE = 8
"""Threads for docker-py, of all servers together. DockerSpawner has one, so that one slow call would hold up everybody."""

CALL_SECONDS = 15.0
"""For an answer of the engine's about what it knows."""

MOST_LINES = 50
MOST_LOG = 20_000
"""Of a container's log, the last ones: lines, and of these the bytes."""

MOST_PASSWD = 1024 * 1024
"""Bytes of an image's list of accounts."""

MOST_LINKS = 8

MOST_EVENTS = 1000

SAMPLE_SECONDS = 0.3
"""Between two looks at the time that a container's processes took."""


Engine = Callable[..., Awaitable[Any]]
"""DockerSpawner's ``docker``: the name of a method of docker-py's client, then its arguments."""


class EngineSilent(Exception):
    """The engine does not answer, which says nothing about what it runs."""


class AskingDockerSpawner(DockerSpawner):
    """Asks the engine in threads, as DockerSpawner does, and gives up on an engine that does not answer."""

    _engine_client: ClassVar[Any] = None
    """Not DockerSpawner's name for it, ``_client``: that is the mixin's for the build service."""
    _making_client: ClassVar[threading.Lock] = threading.Lock()

    @property
    def executor(self) -> ThreadPoolExecutor:
        """Threads for docker-py: a container that does not want to end holds up no other."""
        made = type(self)
        if made._executor is None:
            made._executor = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="engine")
        return made._executor

    @property
    def client(self) -> Any:
        """docker-py's, one for all servers; made as DockerSpawner makes it. In a thread only: making it asks the engine."""
        made = type(self)
        with made._making_client:
            if made._engine_client is None:
                settings: dict[str, Any] = {"version": "auto"}
                if self.tls_config:
                    settings["tls"] = TLSConfig(**self.tls_config)
                settings.update(self._engine_settings)
                made._engine_client = APIClient(**settings)
            return made._engine_client

    @property
    def _engine_settings(self) -> dict[str, Any]:
        return {**kwargs_from_env(), **self.client_kwargs}

    @property
    def engine_address(self) -> str:
        """Where the engine is: ``unix://`` and a path, or its address."""
        return str(self._engine_settings.get("base_url") or DEFAULT_UNIX_SOCKET)

    async def _ask(self, method: str, *args: Any, seconds: float | None = CALL_SECONDS, **kwargs: Any) -> Any:
        """The engine's answer. Raises `EngineSilent`, and docker-py's `APIError` where it answers with an error."""
        return await self._answer(self.docker(method, *args, **kwargs), seconds)

    async def _in_thread(self, function: Callable[[Any], Any]) -> Any:
        """What a function says that is given docker-py's client; raises as `_ask` does."""
        return await self._answer(
            asyncio.wrap_future(self.executor.submit(lambda: function(self.client))), CALL_SECONDS
        )

    async def _answer(self, answer: Any, seconds: float | None) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except APIError:
            raise
        except ENGINE_FAULTS as error:
            raise EngineSilent(repr(error)) from error

    async def _inspect(self) -> dict[str, Any] | None:
        """The session's container; none where the engine says that there is none. Raises `EngineSilent`, `APIError`."""
        try:
            return await self._ask("inspect_container", self.object_name)
        except NotFound:
            return None

    async def _counted(self) -> Usage | None:
        """What the session's container uses now; none where it has ended, or the engine does not tell.

        Engines before Docker 20.10 (API 1.41) tell it only after a second or two, and are not asked.
        """
        name = str(self.object_name)
        try:
            inspected = await self._ask("inspect_container", name)
            first = await self._ask("stats", name, stream=False, one_shot=True)
            await asyncio.sleep(SAMPLE_SECONDS)
            second = await self._ask("stats", name, stream=False, one_shot=True)
        except (EngineSilent, APIError) as error:
            self.log.info("The engine does not tell what %s uses: %r", name, error)
            return None
        kills = None
        try:
            # By the engine's clock: for a time that is still to come, it would wait.
            began, now = time_of(inspected["State"]["StartedAt"]), time_of(second["read"])
            kills = await self._in_thread(lambda client: _times_out_of_memory(client, name, began, now))
        except (EngineSilent, APIError, KeyError, TypeError, ValueError) as error:
            self.log.info("The engine does not tell how often the memory of %s ran out: %r", name, error)
        return usage_of_container(first, second, inspected, kills)

    async def _said(self) -> str:
        """The end of what the container said. An engine cuts lines at 16 KiB, so it sends no more than it is asked for."""
        try:
            said: bytes = await self._ask("logs", self.object_id, tail=MOST_LINES)
        except (EngineSilent, APIError) as error:  # some of the engine's log drivers cannot be read
            self.log.warning("The engine does not tell what %s said: %r", self.object_name, error)
            return ""
        return said[-MOST_LOG:].decode("utf8", "replace")

    async def _make(
        self, arguments: dict[str, Any], host: dict[str, Any], abandoned: Callable[[Engine, str], None]
    ) -> None:
        """Have a container made; ``arguments`` and ``host`` are docker-py's for it and for its host configuration.

        Where this is cancelled, the engine makes it all the same: then ``abandoned`` is called with its name, once it is
        there. Raises as docker-py does.
        """

        def make() -> dict[str, Any]:
            client = self.client
            return client.create_container(**arguments, host_config=client.create_host_config(**host))

        def is_made(made: "asyncio.Future[dict[str, Any]]") -> None:
            if not made.cancelled() and made.exception() is None:
                abandoned(self.docker, arguments["name"])

        making = asyncio.wrap_future(self.executor.submit(make))
        try:
            self.object_id = (await asyncio.shield(making))["Id"]
        except asyncio.CancelledError:
            making.add_done_callback(is_made)
            raise

    async def _evaluated(self, setting: Any) -> dict[str, Any]:
        """What ``extra_host_config`` or ``extra_create_kwargs`` says; may be a function, and that may be async."""
        value: Any = self._eval_if_callable(setting)
        if isawaitable(value):
            value = await value
        rendered: Any = self._render_templates(value)
        return rendered


def _times_out_of_memory(client: Any, container: str, began: datetime, now: datetime) -> int:
    """Of what the engine remembers: the last 256 events of all its containers."""
    events = client.events(
        since=began.timestamp(),
        until=now.timestamp(),
        filters={"type": "container", "container": container, "event": "oom"},
        decode=True,
    )
    return sum(1 for _ in islice(events, MOST_EVENTS))


def text_in(client: Any, container: str, path: str) -> str | None:
    """A file of a container that may not have run yet; empty where there is none, ``None`` where it is no file.

    A link's end is what the engine says that it is, since the engine follows it so at a start, too. Whatever else stands
    there (a pipe, say) would hang who opens it. Raises as docker-py does.
    """
    for _ in range(MOST_LINKS):
        try:
            chunks, status = client.get_archive(container, path)
        except NotFound as error:
            if "no such container" in str(error.explanation).lower():
                raise
            return ""
        packed = b""
        for chunk in chunks:
            packed += chunk
            if len(packed) > MOST_PASSWD:
                return None
        try:
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                first = archive.next()
                if first is not None and first.issym():
                    path = (status or {}).get("linkTarget") or ""
                    if not path:
                        return None
                    continue
                content = archive.extractfile(first) if first is not None and first.isfile() else None
                return content.read().decode("utf8", "replace") if content is not None else None
        except tarfile.TarError:
            return None
    return None
