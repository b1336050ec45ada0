"""A control group for one build: what all the programs of its steps together may have of memory and processes.

BuildKit runs each step below the group named by ``--cgroup-parent``. Linux, both versions of control groups; the
service makes the group itself, so it needs root on the engine's machine and an engine with the ``cgroupfs`` driver.
Elsewhere an administrator names a group of their own (a systemd slice, say) whose limits they set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PARENT = "replay-builds"


@dataclass(frozen=True, slots=True)
class BuildGroup:
    """The control group of one build."""

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
        roots = [self.root] if self._is_unified else [path for path in self.root.iterdir() if path.is_dir()]
        for root in roots:
            folder = root / PARENT / self.name
            if folder.is_dir():
                yield folder


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
