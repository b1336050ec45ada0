"""The sidecar's script, with a file system whose provider dies: a real one of the kernel's, in the part of ``oneclient``."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.requirements import ROOT

pytestmark = [pytest.mark.hub_independent, pytest.mark.needs("fuse"), pytest.mark.timeout(120)]

SCRIPT = ROOT / "replay_spawner" / "features" / "datahub" / "mount.sh"
SECONDS = 30
"""For what the script does within few."""


class Sidecar:
    """The script that runs, and what it is given."""

    def __init__(self, folder: Path) -> None:
        self.files, self.tree, self.mounts = folder / "files", folder / "tree", folder / "mount"
        for made in (self.files, self.tree, self.mounts):
            made.mkdir()
        self.mount, self.dead = self.mounts / "spaces", folder / "dead"
        self.give(token="first", spaces=("one", "two"), links=(("One", "one"), ("Two 🐋 'so'", "two")))
        (self.files / "README.md").write_text("Your spaces.\n")
        (self.files / "silent.md").write_text("It does not answer.\n")
        self.process: subprocess.Popen[bytes] | None = None

    def give(self, token: str, spaces: Sequence[str], links: Sequence[tuple[str, str]]) -> None:
        """At once, as the files of a Secret are replaced."""
        contents = {
            "links": "".join(f"{folder}\t{name}\n" for folder, name in links),
            "spaces": "".join(f"{space}\n" for space in spaces),
            "token": token,
        }
        for name, content in contents.items():
            (self.files / f".{name}").write_text(content)
            (self.files / f".{name}").replace(self.files / name)

    def start(self, command: Sequence[str] | None = None) -> None:
        program = [
            sys.executable,
            str(ROOT / "tests" / "fuse_spaces.py"),
            "--dead",
            str(self.dead),
            "{spaces}",
            "{mount}",
        ]
        self.process = subprocess.Popen(
            ["sh", str(SCRIPT), *(command or program)],
            env={
                "PATH": os.environ["PATH"],
                "DATAHUB_FILES": str(self.files),
                "DATAHUB_TREE": str(self.tree),
                "DATAHUB_MOUNT": str(self.mount),
                "DATAHUB_LOOK": "1",
                "DATAHUB_PATIENCE": "1",
                "DATAHUB_ENDURE": "4",
            },
            start_new_session=True,
        )

    def end(self) -> None:
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(SECONDS)
        finally:
            self.dead.unlink(missing_ok=True)
            if self.is_mounted():
                subprocess.run(["umount", "-l", str(self.mount)], check=False)

    def links(self) -> list[str]:
        return sorted(path.name for path in self.tree.iterdir() if path.is_symlink())

    def readme(self) -> str:
        path = self.tree / "README.md"
        return path.read_text() if path.exists() else ""

    def is_mounted(self) -> bool:
        return f" {self.mount} " in Path("/proc/self/mounts").read_text()


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    sidecar = Sidecar(tmp_path)
    try:
        yield sidecar
    finally:
        sidecar.end()


def until(true: Callable[[], bool]) -> float:
    """How many seconds it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < SECONDS
        time.sleep(0.02)
    return time.monotonic() - began


def test_spaces_are_folders_until_the_end(sidecar: Sidecar) -> None:
    (sidecar.tree / "Of before").symlink_to("/nowhere")
    sidecar.start()
    until(lambda: sidecar.links() == ["One", "Two 🐋 'so'"])
    until(lambda: sidecar.readme() == "Your spaces.\n")
    assert (sidecar.tree / "Two 🐋 'so'" / "data.txt").read_text() == "what a space holds\n"
    # Another token, and another choice of spaces.
    sidecar.give("second", ["two"], [("Two", "two")])
    until(lambda: sidecar.links() == ["Two"])
    assert [path.name for path in sidecar.mount.iterdir()] == ["two"]
    # Nothing to be had any more.
    (sidecar.files / "README.md").write_text("There are none.\n")
    sidecar.give("second", [], [])
    until(lambda: not sidecar.links() and sidecar.readme() == "There are none.\n")
    assert not sidecar.is_mounted()
    sidecar.give("second", ["one"], [("One", "one")])
    until(lambda: sidecar.links() == ["One"])
    sidecar.end()
    assert not sidecar.is_mounted()
    assert not sidecar.links()


def test_a_provider_that_dies_hangs_nobody_who_looks_at_the_folder(sidecar: Sidecar) -> None:
    sidecar.start()
    until(lambda: len(sidecar.links()) == 2)
    sidecar.dead.touch()
    # Somebody who is in the middle of it waits.
    reader = subprocess.Popen(["cat", str(sidecar.tree / "One" / "data.txt")], stderr=subprocess.DEVNULL)
    gone = until(lambda: sidecar.links() == [])
    assert gone < 10
    assert reader.poll() is None
    until(lambda: sidecar.readme().startswith("It does not answer.\n\nSince "))
    # Who looks now, as a file browser does, does not wait.
    listed = subprocess.run(["ls", "-laR", str(sidecar.tree)], capture_output=True, text=True, timeout=5, check=True)
    assert "README.md" in listed.stdout
    # And who waited is told.
    assert reader.wait(SECONDS) != 0
    sidecar.dead.unlink()
    until(lambda: len(sidecar.links()) == 2)
    until(lambda: sidecar.readme() == "Your spaces.\n")
    assert (sidecar.tree / "One" / "data.txt").read_text() == "what a space holds\n"


def test_a_program_that_ends_is_started_again(sidecar: Sidecar, tmp_path: Path) -> None:
    count = tmp_path / "count"
    sidecar.start(
        ["sh", "-c", f'echo "$ONECLIENT_ACCESS_TOKEN $*" >>{count}; exit 1', "program", "{spaces}", "{mount}"]
    )
    until(lambda: count.exists() and len(count.read_text().splitlines()) >= 2)
    assert count.read_text().splitlines()[0] == f"first --space-id one --space-id two {sidecar.mount}"
    until(lambda: sidecar.readme().startswith("It does not answer."))
    assert sidecar.links() == []
