"""A control group for one build: what all the programs of its steps together may have of memory and processes.

BuildKit runs each step below the group named by ``--cgroup-parent``. Linux, both versions of control groups; the
service makes the group itself, so it needs root on the engine's machine and an engine with the ``cgroupfs`` driver.
Elsewhere an administrator names a group of their own (a systemd slice, say) whose limits they set.

BuildKit counts the group's name among what makes a step the same step. So groups have few names, which builds use one
after the other: with a name for each build no step would ever be taken from a cache.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path("/sys/fs/cgroup")
PARENT = "replay-builds"
LOCKS = Path("/run/replay-builds")
"""Who holds the lock on a name here has the group of that name. It ends with the process, whatever ends that."""

MOST_GROUPS = 1000


@dataclass(frozen=True, slots=True)
class BuildGroup:
    """A control group, by its name."""

    name: str
    root: Path = ROOT

    @property
    def engine_name(self) -> str:
        """For ``--cgroup-parent``."""
        return f"/{PARENT}/{self.name}"

    @property
    def _is_unified(self) -> bool:
        return (self.root / "cgroup.controllers").exists()

    def _folder(self, controller: str) -> Path:
        return (self.root if self._is_unified else self.root / controller) / PARENT / self.name

    def create(self, memory: int | None, processes: int | None) -> None:
        """``memory`` in bytes, without swap where the kernel counts it. Raises `OSError` where that cannot be had."""
        if self._is_unified:
            for folder in (self.root, self.root / PARENT):
                folder.mkdir(exist_ok=True)
                (folder / "cgroup.subtree_control").write_text("+memory +pids")
        if memory is not None:
            folder = self._folder("memory")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ("memory.max" if self._is_unified else "memory.limit_in_bytes")).write_text(str(memory))
            swap, value = ("memory.swap.max", 0) if self._is_unified else ("memory.memsw.limit_in_bytes", memory)
            with suppress(OSError):  # A kernel that does not count swap has no such file.
                (folder / swap).write_text(str(value))
        if processes is not None:
            folder = self._folder("pids")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "pids.max").write_text(str(processes))

    def exists(self) -> bool:
        return any(True for _ in self._folders())

    def has_hit_memory(self) -> bool:
        """Whether its programs had all the memory that they may have."""
        folder = self._folder("memory")
        if self._is_unified:
            return _counts(folder / "memory.events", "oom_kill")
        # The older version counts failures in the group that failed, which is gone with its step: how much there was stays.
        limit, most = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.max_usage_in_bytes")
        return limit is not None and most is not None and most >= limit * 0.99

    def has_hit_processes(self) -> bool:
        """Whether its programs had all the processes that they may have."""
        folder = self._folder("pids")
        limit, most = _number(folder / "pids.max"), _number(folder / "pids.peak")
        return _counts(folder / "pids.events", "max") or (limit is not None and most is not None and most >= limit)

    def has_processes(self) -> bool:
        """Whether anything in it still runs."""
        for folder in self._folders():
            for path in folder.rglob("cgroup.procs"):
                with suppress(OSError):
                    if path.read_text().strip():
                        return True
        return False

    def remove(self) -> None:
        """No error where it is not there; what still runs in it keeps it."""
        for folder in self._folders():
            for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
                with suppress(OSError):
                    os.rmdir(path)
            with suppress(OSError):
                os.rmdir(folder)

    def _folders(self) -> Iterator[Path]:
        """In each hierarchy: the engine makes the group in those that nothing was asked of, too."""
        if not self.root.is_dir():
            return  # no Linux
        roots = [self.root] if self._is_unified else [path for path in self.root.iterdir() if path.is_dir()]
        for root in roots:
            folder = root / PARENT / self.name
            if folder.is_dir():
                yield folder


@dataclass(slots=True)
class GroupClaim:
    """A group that this process has for itself, until it lets go of it or ends."""

    group: BuildGroup
    _lock: int

    @classmethod
    def first_free(cls, root: Path = ROOT, locks: Path = LOCKS) -> Self:
        """The first group that no build has, and in which nothing of an earlier build runs any more. Raises `OSError`."""
        for number in range(1, MOST_GROUPS + 1):
            claim = cls.of(str(number), root, locks)
            if claim is not None:
                return claim
        raise OSError(f"there are {MOST_GROUPS} control groups of builds, and all are taken")

    @classmethod
    def of(cls, name: str, root: Path = ROOT, locks: Path = LOCKS) -> Self | None:
        """That group, without what an earlier build has left in it; ``None`` where it is taken. Raises `OSError`."""
        locks.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(locks / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        claim = cls(BuildGroup(name, root), lock)
        if claim.group.has_processes():
            claim.release()
            return None
        claim.group.remove()
        return claim

    def release(self) -> None:
        """Somebody else may have the group. No error where it was released before."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def remove_idle_groups(root: Path = ROOT, locks: Path = LOCKS) -> None:
    """Removes what builds have left that were killed. Nothing of a build that runs. Raises `OSError`."""
    if not locks.is_dir():
        return
    for lock in locks.iterdir():
        if not BuildGroup(lock.name, root).exists():
            continue  # Nobody who wants the name should find it taken for nothing.
        claim = GroupClaim.of(lock.name, root, locks)
        if claim is not None:
            claim.release()


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there in this kernel, or “max”
        return None


def _counts(file: Path, name: str) -> bool:
    """Whether a file of ``name number`` lines has more than 0 by that name."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith(f"{name} ") and line != f"{name} 0" for line in lines)
