"""Images on their way from a registry to the engine: one pull of an image for all launches that wait for it.

A pull belongs to nobody: it goes on when those who waited have left, so that the next launch finds the image. It runs in
a thread that does not keep the hub's process alive; what the engine says comes to the loop as values.
"""

import asyncio
import json
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, ClassVar

import requests
from docker.auth import get_config_header, resolve_repository_name
from docker.errors import DockerException

from replay_spawner.docker.containers import ImageLocation
from replay_spawner.fetching import sentence_for

SILENCE_SECONDS = 300.0
"""Without a word from the engine, a pull has failed. Extracting a layer is reported all the time."""

CONNECT_SECONDS = 10.0
MOST_AT_ONCE = 4

_ON_THE_ENGINE = frozenset({"Pull complete", "Already exists"})


class PullFailed(Exception):
    """The image did not come. ``sentence`` is for the person, the message is the engine's own."""

    def __init__(self, text: str) -> None:
        super().__init__(text[:2000])
        self.sentence = sentence_for(text)


class Pull:
    """One image on its way. Made on the loop; its thread starts at once."""

    _running: ClassVar[dict[ImageLocation, "Pull"]] = {}
    _at_once = threading.BoundedSemaphore(MOST_AT_ONCE)

    def __init__(self, location: ImageLocation, client: Callable[[], Any]) -> None:
        self.layers = self.layers_done = 0
        self._location = location
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        # Where nobody waits any more, nobody asks why it failed.
        self._done.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._listeners: set[Callable[[Pull], None]] = set()
        threading.Thread(target=self._run, name="replay-pull", daemon=True).start()

    @property
    def step(self) -> tuple[int, str]:
        """How far it is: percent of a start, and in words."""
        if not self.layers:
            return 10, "Fetching the image"
        return (
            10 + 40 * self.layers_done // self.layers,
            f"Fetching the image ({self.layers_done} of {self.layers} layers)",
        )

    @classmethod
    async def wait(cls, location: ImageLocation, client: Callable[[], Any], listener: Callable[["Pull"], None]) -> None:
        """Return when the engine says that it has the image; ``listener`` is called as layers come.

        ``client`` makes or returns docker-py's client; it is called in the pull's thread. Raises `PullFailed`.
        """
        pull = cls._running.get(location)
        if pull is None:
            pull = cls._running[location] = cls(location, client)
        pull._listeners.add(listener)
        listener(pull)
        try:
            await asyncio.shield(pull._done)
        finally:
            pull._listeners.discard(listener)

    def _run(self) -> None:
        failure: PullFailed | None = PullFailed("the pull ended without a word")
        try:
            with self._at_once:
                self._read()
            failure = None
        except PullFailed as error:
            failure = error
        except (DockerException, requests.RequestException, OSError, ValueError) as error:
            failure = PullFailed(f"{type(error).__name__}: {error}")
        finally:
            self._on_the_loop(self._finish, failure)

    def _read(self) -> None:
        repository, digest = self._location.repository or "", self._location.digest
        client = self._client()
        # Credentials may have been renewed since the hub started.
        client.reload_config()
        registry, _ = resolve_repository_name(repository)
        credentials = get_config_header(client, registry)
        # docker-py's own `pull` takes a digest for a tag where it parses one, and never stops waiting.
        response: requests.Response = client.post(
            f"{client.base_url}/v{client.api_version}/images/create",
            params={"fromImage": repository, "tag": digest},
            headers={"X-Registry-Auth": credentials} if credentials else {},
            stream=True,
            timeout=(CONNECT_SECONDS, SILENCE_SECONDS),
        )
        with closing(response):
            if not response.ok:
                raise PullFailed(_message(response.text))
            states: dict[str, bool] = {}
            for line in response.iter_lines():
                if line:
                    self._take(json.loads(line), states)

    def _take(self, told: dict[str, Any], states: dict[str, bool]) -> None:
        """A failure comes within an answer that began well."""
        if "error" in told:
            raise PullFailed(str(told["error"]))
        layer, status = told.get("id"), told.get("status", "")
        if layer is None or status.startswith("Pulling from"):
            return
        before = (len(states), sum(states.values()))
        states[layer] = status in _ON_THE_ENGINE
        after = (len(states), sum(states.values()))
        if after != before:
            self._on_the_loop(self._tell, *after)

    def _on_the_loop(self, function: Callable[..., None], *values: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: the hub has ended
            self._loop.call_soon_threadsafe(function, *values)

    def _tell(self, layers: int, layers_done: int) -> None:
        self.layers, self.layers_done = layers, layers_done
        for listener in list(self._listeners):
            listener(self)

    def _finish(self, failure: PullFailed | None) -> None:
        del self._running[self._location]
        if failure is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(failure)


def _message(body: str) -> str:
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body
