"""Detached processes: knowing one again, and ending it with everything that it started.

A build runs programs of strangers, which may fork, leave their session and forget their parent. On Linux the runner is
the reaper of its descendants, so they stay below it. Where the runner itself was killed, its descendants are found by
their session, their process group, or the build's folder, which they work in or have as their home.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from replay_build_service.builders.detached.folder import ProcessIdentity

_SAME_START = 1.0
"""Seconds. psutil derives the start from the time of boot, which moves a little when the clock is set."""

UNKNOWN_PROCESS = ProcessIdentity(0, 0.0)
"""In place of a runner's identity that was damaged: there never is such a process."""

_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2)"""

_children: dict[int, subprocess.Popen[bytes]] = {}
"""The runners that this process started, until they are reaped. A process has its children as a whole, so one table."""


def identity_of(pid: int) -> ProcessIdentity:
    """Raises `psutil.NoSuchProcess`."""
    return ProcessIdentity(pid, psutil.Process(pid).create_time())


def launch_detached(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str], output: Path
) -> subprocess.Popen[bytes]:
    """A process in a session of its own that outlives this one and has nothing of it but what is given. Raises `OSError`."""
    with output.open("ab") as file:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    _children[child.pid] = child
    return child


def reap_children() -> None:
    """Takes leave of those runners of this process that have ended, so that none stays as a zombie."""
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            _children.pop(pid, None)


def is_running(identity: ProcessIdentity) -> bool:
    """Whether that very process runs; a zombie does not."""
    reap_children()
    return _process(identity) is not None


def _process(identity: ProcessIdentity) -> psutil.Process | None:
    try:
        process = psutil.Process(identity.pid)
        if abs(process.create_time() - identity.created) > _SAME_START or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    return process


def wait_gone(identity: ProcessIdentity, seconds: float) -> bool:
    """Waits, blocking, until that process has ended. False where it has not."""
    deadline = time.monotonic() + seconds
    while is_running(identity):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)  # The system has no event for the end of a process that is not our child.
    return True


def request_end(identity: ProcessIdentity) -> None:
    """Asks the process to end by itself."""
    if (process := _process(identity)) is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()


def end_tree(identity: ProcessIdentity, folder: Path, seconds: float = 10.0) -> None:
    """Ends that process, if it runs, and all that it left or that lives in ``folder``. Blocking, at most ``seconds``.

    The process is halted first: it can then neither start more nor let go of what it has. Only for a build whose end is
    not on record: the number of one that ended long ago may be a stranger's by now.
    """
    deadline = time.monotonic() + seconds
    if (process := _process(identity)) is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            _kill(process.children(recursive=True))
            process.kill()
    while (left := list(_left_behind(identity, folder))) and time.monotonic() < deadline:
        _kill(left)
        time.sleep(0.005)  # The system has no event for the end of a process that is not our child.
    wait_gone(identity, max(0.0, deadline - time.monotonic()))


def _left_behind(identity: ProcessIdentity, folder: Path) -> Iterator[psutil.Process]:
    below = f"{folder}/"
    number_is_ours = identity.created >= psutil.boot_time() - _SAME_START and (
        _process(identity) is not None or not psutil.pid_exists(identity.pid) or identity.pid in _children
    )
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in (os.getpid(), identity.pid) or process.status() == psutil.STATUS_ZOMBIE:
                continue
            # A session or a group keeps its leader's number: the kernel gives it to no new process while one is left.
            of_the_session = number_is_ours and identity.pid in (os.getsid(process.pid), os.getpgid(process.pid))
            if (of_the_session and process.create_time() >= identity.created - _SAME_START) or (
                process.uids().real == os.getuid()
                and (process.environ().get("HOME", "").startswith(below) or f"{process.cwd()}/".startswith(below))
            ):
                yield process


def become_reaper() -> None:
    """Orphans among the descendants of this process become its children, instead of those of the system's first process.

    Linux only; elsewhere they are found by `end_tree` alone.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants(seconds: float = 10.0) -> None:
    """Ends everything below this process. Blocking, at most ``seconds``; each round finds what was forked meanwhile."""
    deadline = time.monotonic() + seconds
    own = psutil.Process()
    while (left := own.children(recursive=True)) and time.monotonic() < deadline:
        _kill(left)
        reap_orphans(left)
        time.sleep(0.002)


def reap_orphans(processes: Iterable[psutil.Process]) -> None:
    """Takes leave of children of this process that have ended."""
    for process in processes:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process.kill()
