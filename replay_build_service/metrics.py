"""What is counted for those who run a site, in Prometheus' form. Labels come from closed sets (hosts: those that the administrator allows), and
are never a repository or a person.

A leaf: the core counts here, ``app`` serves it on an address of its own, which no route of the hub leads to.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from replay_build_service.domain import Build, BuildFailure, Launch, RunnableImage

REGISTRY = CollectorRegistry()
"""Of one process; everything in it starts from nothing when the process does, as Prometheus expects."""

_MINUTES = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 2400.0, 3600.0, 7200.0)
_MOMENTS = (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 60.0, 120.0, 300.0, 600.0, 1800.0)

_builds = Counter(
    "replay_builds",
    "Builds that ended: “succeeded”, or the reason why there is no image.",
    ["result"],
    registry=REGISTRY,
)
_build_seconds = Histogram(
    "replay_build_seconds",
    "From the first person's question for an image to the end of its build, waiting included.",
    buckets=_MINUTES,
    registry=REGISTRY,
)
_builds_going_on = Gauge(
    "replay_builds_going_on", "Builds that this process drives, those that wait included.", registry=REGISTRY
)
_launches = Counter(
    "replay_launches", "Launches that became a server (“ready”) or could not (“failed”).", ["result"], registry=REGISTRY
)
_launch_seconds = Histogram(
    "replay_launch_seconds",
    "From a person's consent to a server that is ready, the build included.",
    buckets=_MOMENTS,
    registry=REGISTRY,
)


@contextmanager
def build_going_on() -> Generator[None]:
    """For as long as this process drives a build."""
    with _builds_going_on.track_inprogress():
        yield


def build_ended(build: Build, outcome: RunnableImage | BuildFailure) -> None:
    """Count a build whose end is on record."""
    _builds.labels(outcome.reason if isinstance(outcome, BuildFailure) else "succeeded").inc()
    _build_seconds.observe(_seconds_since(build.created_at))


def launch_ready(launch: Launch) -> None:
    """Count a launch that has become a server."""
    _launches.labels("ready").inc()
    _launch_seconds.observe(_seconds_since(launch.created_at))


def launch_failed() -> None:
    """Count a launch that did not become a server, and was not given up."""
    _launches.labels("failed").inc()


@contextmanager
def sources_watched(remaining: Mapping[str, int]) -> Generator[None]:
    """Shows ``remaining``, as it is when Prometheus asks: by host, how many more questions a source takes, as it last said."""
    sources = _Sources(remaining)
    REGISTRY.register(sources)
    try:
        yield
    finally:
        REGISTRY.unregister(sources)


class _Sources(Collector):
    def __init__(self, remaining: Mapping[str, int]) -> None:
        self._remaining = remaining

    def collect(self) -> Iterable[Metric]:
        told = "Questions that a source of repositories takes before it wants a pause, as it last said."
        shown = GaugeMetricFamily("replay_source_requests_left", told, labels=["host"])
        for host, left in dict(self._remaining).items():  # a copy: another thread asks
            shown.add_metric([host], left)
        return [shown]


@contextmanager
def served_at(address: str) -> Generator[None]:
    """``GET /metrics`` at ``host:port``, over HTTP, to whoever can reach it; nothing where the address is empty.

    Raises `OSError` where the address cannot be had, `ValueError` where it is none.
    """
    if not address:
        yield
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"metrics_address is {address!r}, and not host:port.")
    server, thread = start_http_server(int(port), host.strip("[]"), REGISTRY)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _seconds_since(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
