"""``oneclient``'s part in the tests: a file system of spaces in user space, whose provider can die.

It speaks the kernel's own protocol (linux/fuse.h) on ``/dev/fuse``, so it needs no library, and root to mount.

    python tests/fuse_spaces.py --dead FILE --space-id ID… FOLDER

Each space is a folder with the file ``data.txt``, and is called as its id. While FILE is there, requests are read and never
answered: whoever makes one waits, and not even a signal ends that.
"""

import argparse
import ctypes
import errno
import os
import stat
import struct
import time
from enum import IntEnum
from pathlib import Path

_HEADER = struct.Struct("<IIQQIIIHH")
_ANSWER = struct.Struct("<IiQ")
_NOSUID, _NODEV = 2, 4
CONTENT = b"what a space holds\n"


class Request(IntEnum):
    """What the kernel asks (linux/fuse.h)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    ACCESS = 34
    BATCH_FORGET = 42


class Spaces:
    """Numbers of files: 1 is the root, then two for each space, its folder and the file in it."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def attributes(self, node: int) -> bytes:
        is_file = node % 2 == 1 and node != 1
        mode = stat.S_IFREG | 0o644 if is_file else stat.S_IFDIR | 0o755
        size = len(CONTENT) if is_file else 0
        return struct.pack("<6Q10I", node, size, 1, 0, 0, 0, 0, 0, 0, mode, 2, 0, 0, 0, 4096, 0)

    def child(self, folder: int, name: str) -> int | None:
        if folder == 1:
            return 2 + 2 * self._names.index(name) if name in self._names else None
        return folder + 1 if name == "data.txt" else None

    def entries(self, folder: int) -> list[tuple[str, int]]:
        if folder == 1:
            return [(name, 2 + 2 * number) for number, name in enumerate(self._names)]
        return [("data.txt", folder + 1)]

    def answer(self, opcode: int, node: int, body: bytes) -> bytes | int:
        """What is answered, or the number of an error. The kernel may remember nothing of it, so that it always asks."""
        match opcode:
            case Request.INIT:
                return struct.pack("<4I", 7, 31, 65536, 0) + struct.pack("<HHIIHH", 12, 9, 65536, 1, 32, 0) + bytes(32)
            case Request.LOOKUP:
                found = self.child(node, body.rstrip(b"\0").decode())
                if found is None:
                    return errno.ENOENT
                return struct.pack("<4Q2I", found, 0, 0, 0, 0, 0) + self.attributes(found)
            case Request.GETATTR:
                return struct.pack("<Q2I", 0, 0, 0) + self.attributes(node)
            case Request.OPEN | Request.OPENDIR:
                return struct.pack("<Q2I", 0, 0, 0)
            case Request.READ:
                _, offset, size = struct.unpack_from("<QQI", body)
                return CONTENT[offset : offset + size]
            case Request.READDIR:
                _, offset, _ = struct.unpack_from("<QQI", body)
                return b"".join(_entry(*one) for one in list(enumerate(self.entries(node), 1))[offset:])
            case Request.STATFS:
                return struct.pack("<5Q2I2I6I", 0, 0, 0, 0, 0, 4096, 255, 4096, 0, *(0,) * 6)
            case Request.RELEASE | Request.FLUSH | Request.RELEASEDIR | Request.ACCESS:
                return b""
            case _:
                return errno.ENOSYS


def _entry(position: int, entry: tuple[str, int]) -> bytes:
    name = entry[0].encode()
    packed = struct.pack("<QQII", entry[1], position, len(name), 0) + name
    return packed + bytes(-len(packed) % 8)


def serve(folder: Path, names: list[str], dead: Path) -> None:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"spaces", str(folder).encode(), b"fuse", _NOSUID | _NODEV, options):
        raise OSError(ctypes.get_errno(), f"{folder} cannot be mounted at")
    spaces = Spaces(names)
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError as error:
            if error.errno == errno.ENODEV:  # it is mounted no more
                return
            if error.errno in {errno.EINTR, errno.ENOENT}:
                continue
            raise
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        while dead.exists():
            time.sleep(0.02)  # A provider that is dead says nothing; somebody else ends this program.
        if opcode in {Request.FORGET, Request.BATCH_FORGET}:
            continue
        answered = spaces.answer(opcode, node, request[_HEADER.size :])
        error, content = (answered, b"") if isinstance(answered, int) else (0, answered)
        os.write(device, _ANSWER.pack(_ANSWER.size + len(content), -error, unique) + content)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dead", type=Path, required=True)
    parser.add_argument("--space-id", action="append", default=[])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if not os.environ.get("ONECLIENT_ACCESS_TOKEN"):
        raise SystemExit("There is no token.")
    serve(options.folder, options.space_id, options.dead)


if __name__ == "__main__":
    main()
