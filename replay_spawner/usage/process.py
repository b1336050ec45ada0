"""The figures of a session that is processes of this machine: its server, and all that this has started."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress

import psutil

from replay_spawner.usage.base import Usage, UsageSource

SAMPLE_SECONDS = 0.2
"""Between two looks at the processor's time, which is counted in hundredths of a second."""


def usage_of_tree(pid: int) -> Usage | None:
    """What a server and its descendants use; none where there is no such process. Takes `SAMPLE_SECONDS`: for a thread."""
    tree = _tree(pid)
    before, began = _cpu_seconds(tree), time.monotonic()
    time.sleep(SAMPLE_SECONDS)
    after, seconds = _cpu_seconds(tree), time.monotonic() - began
    memory = sum(_memory(process) for process in tree)
    if not after:
        return None
    used = sum(max(0.0, after[process] - before.get(process, 0.0)) for process in after)
    return Usage(
        UsageSource.PROCESS, memory_used=memory, memory_limit=_limit(pid), cpu_used=used / seconds, cpu_limit=None
    )


def _tree(pid: int) -> list[psutil.Process]:
    if not pid:
        return []
    try:
        server = psutil.Process(pid)
        return [server, *server.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu_seconds(tree: list[psutil.Process]) -> Mapping[psutil.Process, float]:
    """Of those that are there still."""
    found: dict[psutil.Process, float] = {}
    for process in tree:
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                times = process.cpu_times()
                found[process] = times.user + times.system
    return found


def _memory(process: psutil.Process) -> int:
    """Bytes. What processes share is counted once, where the kernel says so much."""
    try:
        told = process.memory_full_info()
        return int(getattr(told, "pss", 0) or told.uss)
    except psutil.AccessDenied:
        with suppress(psutil.Error):
            return int(process.memory_info().rss)
    except psutil.Error:
        pass
    return 0


def _limit(pid: int) -> int | None:
    """Bytes that each process of it may have: ``RLIMIT_DATA``, which the spawner sets on Linux."""
    if sys.platform != "linux":
        return None
    import resource

    try:
        soft, _ = psutil.Process(pid).rlimit(psutil.RLIMIT_DATA)
    except psutil.Error:
        return None
    return None if soft == resource.RLIM_INFINITY else int(soft)
