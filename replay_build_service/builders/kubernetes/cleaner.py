"""Keeps an engine's disk from filling: ``python3 -m replay_build_service.builders.kubernetes.cleaner``.

It runs beside each engine of the chart's. When the disk is fuller than it should be, what was not used for long goes: cached
layers of builds, and images that no container has, the oldest first. Images are in the registry, so nothing is lost.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any, Self, cast
from urllib.parse import quote, urlsplit

import httpx

log = logging.getLogger(__name__)

AGES = (timedelta(days=7), timedelta(days=1), timedelta(hours=6))
"""What was not used for so long goes first."""

_ANSWER_SECONDS = 30.0
_PRUNE_SECONDS = 1800.0
"""Layers are removed while the engine is asked."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that an engine has."""

    id: str
    references: tuple[str, ...]
    """All its names. It goes with the last one."""
    since: datetime
    """When it was built here, or came here, as far as the engine knows."""


class Engine:
    """The Docker Engine API, https://docs.docker.com/reference/api/engine/, as much of it as cleaning needs."""

    def __init__(self, address: str) -> None:
        """``unix:///path``. Raises `ValueError` for another kind."""
        parts = urlsplit(address)
        if parts.scheme != "unix" or not parts.path:
            raise ValueError(f"{address!r} should read unix:///path.")
        transport = httpx.HTTPTransport(uds=parts.path)
        self._client = httpx.Client(transport=transport, base_url="http://engine", timeout=_ANSWER_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def unused_images(self) -> list[Image]:
        """Those that no container has, be it running or not; the oldest first. Raises `httpx.HTTPError`."""
        used = {container["ImageID"] for container in self._get("/containers/json", all="true")}
        listed = self._get("/images/json")
        return sorted((self._image(one) for one in listed if one["Id"] not in used), key=lambda image: image.since)

    def _image(self, listed: dict[str, Any]) -> Image:
        references = [
            *(name for name in listed.get("RepoTags") or () if name != "<none>:<none>"),
            *(name for name in listed.get("RepoDigests") or () if not name.startswith("<none>@")),
        ]
        told = self._client.get(f"/images/{quote(listed['Id'], safe=':')}/json")
        known = cast("dict[str, dict[str, str]]", told.json()) if told.is_success else {}
        tagged = known.get("Metadata", {}).get("LastTagTime", "")
        since = max(datetime.fromtimestamp(listed["Created"], UTC), _time(tagged))
        return Image(listed["Id"], tuple(references), since)

    def remove(self, image: Image) -> bool:
        """Whether it is gone: what a container has meanwhile stays, as the engine sees to. Raises `httpx.HTTPError`."""
        for name in image.references or (image.id,):
            answer = self._client.delete(f"/images/{quote(name, safe='/:@')}", timeout=_PRUNE_SECONDS)
            if answer.status_code == 409:
                return False
            if answer.status_code != 404:
                answer.raise_for_status()
        return True

    def prune_cache(self, unused_for: timedelta) -> None:
        """Remove layers that no build used for so long. Raises `httpx.HTTPError`."""
        age = f'{{"until":{{"{round(unused_for.total_seconds())}s":true}}}}'
        parameters = {"all": "true", "filters": age}
        self._client.post("/build/prune", params=parameters, timeout=_PRUNE_SECONDS).raise_for_status()

    def _get(self, path: str, **parameters: str) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._client.get(path, params=parameters).raise_for_status().json())


def _time(text: str) -> datetime:
    """The engine's time; long ago where it knows none."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def used_percent(folder: str) -> float:
    """How full the disk is that this folder is on, as ``df`` tells it. Raises `OSError`."""
    disk = os.statvfs(folder)
    used = disk.f_blocks - disk.f_bfree
    return 100 * used / max(1, used + disk.f_bavail)


def clean(engine: Engine, used: Callable[[], float], stop_percent: float, minimum_age: timedelta) -> bool:
    """Remove until no more than ``stop_percent`` are used; whether it came to that. Raises `httpx.HTTPError`."""
    for age in _ages(minimum_age):
        engine.prune_cache(age)
        if used() <= stop_percent:
            return True
        for image in engine.unused_images():
            if datetime.now(UTC) - image.since < age:
                break  # And so are all that follow.
            if engine.remove(image):
                log.info("Removed %s", ", ".join(image.references) or image.id)
            if used() <= stop_percent:
                return True
        # What only these images had kept is now the cache's alone.
        engine.prune_cache(age)
        if used() <= stop_percent:
            return True
    return False


def _ages(minimum_age: timedelta) -> Iterable[timedelta]:
    """From long ago to just now."""
    return [*(age for age in AGES if age > minimum_age), minimum_age]


def look(engine: Engine, options: argparse.Namespace) -> None:
    """Clean where it is time to. Faults are logged: the next look is another try."""
    try:
        before = used_percent(options.data)
        if before < options.start_percent:
            return
        log.info("%.0f %% of %s are used: cleaning", before, options.data)
        minimum_age = timedelta(seconds=options.minimum_age)
        is_enough = clean(engine, lambda: used_percent(options.data), options.stop_percent, minimum_age)
        after = used_percent(options.data)
        if is_enough:
            log.info("%.0f %% of %s are used now", after, options.data)
        else:
            log.warning("%.0f %% of %s are used, and nothing there is old enough to go", after, options.data)
    except (httpx.HTTPError, OSError, ValueError, KeyError) as error:
        log.warning("Cleaning did not work: %r", error)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; ends the process where it makes no sense."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", default="unix:///var/run/docker.sock", help="the engine's socket")
    parser.add_argument("--data", default="/var/lib/docker", help="a folder on the disk that the engine fills")
    parser.add_argument("--start-percent", type=float, default=80, help="how full the disk is when cleaning begins")
    parser.add_argument("--stop-percent", type=float, default=60, help="how full it is when that is enough")
    parser.add_argument("--interval", type=float, default=300, help="seconds between looks")
    parser.add_argument("--minimum-age", type=float, default=7200, help="seconds for which everything stays")
    options = parser.parse_args(arguments)
    if options.stop_percent >= options.start_percent:
        parser.error("cleaning has to stop at a lower percentage than it starts at")
    return options


def main() -> None:
    """Look again and again, until SIGTERM."""
    options = parse(sys.argv[1:])
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = threading.Event()
    # The first process of a container is sent nothing that it does not ask for.

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with Engine(options.engine) as engine:
        while not stop.is_set():
            look(engine, options)
            stop.wait(options.interval)


if __name__ == "__main__":
    main()
