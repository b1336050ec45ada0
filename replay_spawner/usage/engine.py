"""The figures of a session that is a container, from what the engine answers. Pure.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerStats
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from replay_spawner.usage.base import Usage, UsageSource

_FRACTION = re.compile(r"\.(\d+)")


def usage_of_container(
    first: Mapping[str, Any], second: Mapping[str, Any], inspected: Mapping[str, Any], out_of_memory: int | None
) -> Usage | None:
    """Read two answers of the engine's about a container, and what it is made of.

    ``out_of_memory`` is how often the engine saw its memory run out; none where it does not tell. None where it has ended
    meanwhile: then the engine's figures are empty.
    """
    memory = _memory(second.get("memory_stats") or {})
    if memory is None:
        return None
    host = inspected.get("HostConfig") or {}
    kills = out_of_memory
    if (inspected.get("State") or {}).get("OOMKilled"):
        # Of any process of it, while it runs; the engine forgets single events after a while.
        kills = max(1, kills or 0)
    return Usage(
        UsageSource.ENGINE,
        memory_used=memory,
        memory_limit=host.get("Memory") or None,
        cpu_used=_cores(first, second),
        cpu_limit=_cores_at_most(host),
        oom_kills=kills,
    )


def _memory(told: Mapping[str, Any]) -> int | None:
    """Bytes without the cache of files, as ``docker stats`` counts: in cgroups of the first version and of the second."""
    used = told.get("usage")
    if used is None:
        return None
    details = told.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return int(used - cache if cache < used else used)


def _cores(first: Mapping[str, Any], second: Mapping[str, Any]) -> float | None:
    seconds = _seconds_between(first.get("read"), second.get("read"))
    before, after = _nanoseconds(first), _nanoseconds(second)
    if not seconds or before is None or after is None or after < before:
        return None
    return (after - before) / 1e9 / seconds


def _nanoseconds(told: Mapping[str, Any]) -> int | None:
    used: int | None = ((told.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage")
    return used


def _seconds_between(first: Any, second: Any) -> float | None:
    try:
        return (time_of(second) - time_of(first)).total_seconds()
    except (TypeError, ValueError):
        return None


def time_of(text: str) -> datetime:
    """The engine's, with up to nine digits of a second, of which Python reads six."""
    told = datetime.fromisoformat(_FRACTION.sub(lambda found: f".{found[1][:6]:0<6}", text))
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def _cores_at_most(host: Mapping[str, Any]) -> float | None:
    if host.get("NanoCpus"):
        return host["NanoCpus"] / 1e9
    quota, period = host.get("CpuQuota") or 0, host.get("CpuPeriod") or 100_000
    return quota / period if quota > 0 else None
