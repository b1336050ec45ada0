"""A stand-in for Software Heritage's API: https://archive.softwareheritage.org/api/1/.

- Revisions, releases, snapshots, directories, contents: https://docs.softwareheritage.org/devel/swh-web/uri-scheme-api.html; a snapshot's
  branches from a name on, ``branches_from`` and ``branches_count`` (uri-scheme-api-snapshot.html).
- ``/resolve/SWHID/``: uri-scheme-api-archive.html. What is not archived answers 404.
- The vault (uri-scheme-api-vault.html): POST asks for a directory to be packed, GET tells how far that is, ``raw/`` redirects to the store.
- ``X-RateLimit-*`` on every answer: https://archive.softwareheritage.org/api/#rate-limiting

The names of directories and contents are git's, made by git itself.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_build_service.sources.swh import SoftwareHeritage
from tests.archives.server import Answer, ArchiveServer, Request

NOT_ARCHIVED = Answer.of_json({"exception": "NotFoundExc", "reason": "not found"}, 404)
SUBMODULE = "160000"


@dataclass(frozen=True)
class _Entry:
    mode: str
    kind: str
    id: str
    name: str


class SwhServer(ArchiveServer):
    """The archive, with what tests put there."""

    provider = "swh"
    has_versions = False

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[str, bytes] = {}
        self.hidden: set[str] = set()
        self.directories: dict[str, list[_Entry]] = {}
        self.revisions: dict[str, str] = {}
        self.releases: dict[str, dict[str, Any]] = {}
        self.snapshots: dict[str, dict[str, dict[str, str] | None]] = {}
        self.looks_until_packed = 2
        """How often somebody has to look until the vault is done."""
        self.packing_fails = False
        self.packs: dict[str, str] = {}
        """Which other directory the vault packs in a directory's place."""
        self._looks: dict[str, int] = {}
        self.replaced: dict[str, bytes] = {}
        """What the vault packs in a content's place, by the content's id."""

    def source(self) -> SoftwareHeritage:
        return SoftwareHeritage(self.url, pause=0.01)

    # ---- what is archived

    def directory(
        self,
        files: Mapping[str, bytes],
        *,
        executable: frozenset[str] = frozenset(),
        links: Mapping[str, str] | None = None,
        submodules: Mapping[str, str] | None = None,
    ) -> str:
        """All of it as one directory, whose id is given."""
        with tempfile.TemporaryDirectory() as place:

            def git(*command: str, given: bytes = b"") -> str:
                environment = {"PATH": os.environ["PATH"], "GIT_DIR": f"{place}/git", "GIT_CONFIG_GLOBAL": "/dev/null"}
                run = subprocess.run(["git", *command], input=given, env=environment, check=True, capture_output=True)
                return run.stdout.decode()

            git("init", "-q", "--bare", f"{place}/git")
            lines: list[str] = []
            for path, body in files.items():
                number = git("hash-object", "-w", "--stdin", given=body).strip()
                self.contents[number] = body
                lines.append(f"{'100755' if path in executable else '100644'} {number}\t{path}")
            for path, target in (links or {}).items():
                number = git("hash-object", "-w", "--stdin", given=target.encode()).strip()
                self.contents[number] = target.encode()
                lines.append(f"120000 {number}\t{path}")
            lines += [f"{SUBMODULE} {number}\t{path}" for path, number in (submodules or {}).items()]
            git("update-index", "--add", "--index-info", given="".join(f"{line}\n" for line in lines).encode())
            root = git("write-tree").strip()
            for tree in [root, *re.findall(r" tree ([0-9a-f]{40})\t", git("ls-tree", "-r", "-t", root))]:
                listed = re.findall(r"(\d+) (\w+) ([0-9a-f]{40})\t(.+)", git("ls-tree", tree))
                self.directories[tree] = [_Entry(*entry) for entry in listed]
        return root

    def revision(self, directory: str) -> str:
        number = _number("revision", directory)
        self.revisions[number] = directory
        return number

    def release(self, target: str, kind: str, name: str = "v1.0") -> str:
        number = _number("release", target)
        self.releases[number] = {"id": number, "name": name, "target": target, "target_type": kind, "message": ""}
        return number

    def snapshot(self, branches: Mapping[str, tuple[str, str] | None]) -> str:
        """Branches by name: the kind of what each points at, and which it is; none of one that dangles."""
        number = _number("snapshot", repr(sorted(branches)))
        self.snapshots[number] = {
            name: None if target is None else {"target_type": target[0], "target": target[1], "target_url": ""}
            for name, target in branches.items()
        }
        return number

    # ---- what it answers

    def respond(self, request: Request, line: str) -> Answer:
        answer = super().respond(request, line)
        headers = {"X-RateLimit-Limit": "120", "X-RateLimit-Remaining": "100", "X-RateLimit-Reset": "1700000000"}
        return Answer(answer.status, answer.body, {**headers, **answer.headers}, answer.delay, answer.sent)

    def answer(self, request: Request) -> Answer:
        if (match := re.fullmatch(r"/store/([0-9a-f]{40})", request.path)) is not None:
            return Answer.of_bytes(self._packed(match[1]))
        path = request.path.removeprefix("/api/1/")
        if (match := re.fullmatch(r"vault/flat/swh:1:dir:([0-9a-f]{40})/(raw/)?", path)) is not None:
            return self._vault(match[1], request, is_raw=bool(match[2]))
        if (match := re.fullmatch(r"content/sha1_git:([0-9a-f]{40})/(raw/)?", path)) is not None:
            return self._content(match[1], is_raw=bool(match[2]))
        if (match := re.fullmatch(r"resolve/swh:1:dir:([0-9a-f]{40})/", path)) is not None:
            known = match[1] in self.directories
            return Answer.of_json({"object_type": "directory", "object_id": match[1]}) if known else NOT_ARCHIVED
        if (match := re.fullmatch(r"(directory|revision|release|snapshot)/([0-9a-f]{40})/", path)) is not None:
            return self._object(match[1], match[2], request)
        return NOT_ARCHIVED

    def _object(self, kind: str, number: str, request: Request) -> Answer:
        if kind == "directory" and number in self.directories:
            return Answer.of_json([self._listed(number, entry) for entry in self.directories[number]])
        if kind == "revision" and number in self.revisions:
            return Answer.of_json(
                {"id": number, "directory": self.revisions[number], "message": "A change", "parents": []}
            )
        if kind == "release" and number in self.releases:
            return Answer.of_json(self.releases[number])
        if kind == "snapshot" and number in self.snapshots:
            first, most = request.query.get("branches_from", ""), int(request.query.get("branches_count", "1000"))
            names = sorted(name for name in self.snapshots[number] if name >= first)
            branches = {name: self.snapshots[number][name] for name in names[:most]}
            after = names[most] if len(names) > most else None
            return Answer.of_json({"id": number, "branches": branches, "next_branch": after})
        return NOT_ARCHIVED

    def _listed(self, directory: str, entry: _Entry) -> dict[str, Any]:
        kinds = {"blob": "file", "tree": "dir", "commit": "rev"}
        return {
            "dir_id": directory,
            "name": entry.name,
            "type": kinds[entry.kind],
            "target": entry.id,
            "perms": int(entry.mode, 8),
            "target_url": "",
        }

    def _content(self, number: str, *, is_raw: bool) -> Answer:
        body = self.contents.get(number)
        if body is None:
            return NOT_ARCHIVED
        if is_raw:
            return Answer.of_bytes(self.replaced.get(number, body))
        sums = {"sha1": hashlib.sha1(body).hexdigest(), "sha1_git": number, "sha256": hashlib.sha256(body).hexdigest()}
        status = "hidden" if number in self.hidden else "visible"
        return Answer.of_json({"checksums": sums, "length": len(body), "status": status, "data_url": ""})

    def _vault(self, number: str, request: Request, *, is_raw: bool) -> Answer:
        if number not in self.directories or (number not in self._looks and request.method != "POST"):
            return NOT_ARCHIVED
        if is_raw:
            return Answer.redirect(f"{self.url}/store/{number}?se=2099")
        looks = self._looks[number] = self._looks.get(number, -1) + 1
        status = "pending" if looks < self.looks_until_packed else "failed" if self.packing_fails else "done"
        return Answer.of_json(
            {
                "id": 1,
                "swhid": f"swh:1:dir:{number}",
                "status": "new" if looks == 0 and status == "pending" else status,
                "progress_message": "Processing…",
                "fetch_url": f"{self.url}{request.path}raw/",
            }
        )

    def _packed(self, number: str) -> bytes:
        """As swh-vault packs it: one folder of the SWHID's name, and empty ones where other repositories would be."""
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:gz") as packed:
            self._pack(packed, self.packs.get(number, number), f"swh:1:dir:{number}")
        return made.getvalue()

    def _pack(self, packed: tarfile.TarFile, number: str, name: str) -> None:
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        packed.addfile(folder)
        for entry in self.directories[number]:
            below = f"{name}/{entry.name}"
            if entry.kind == "tree":
                self._pack(packed, entry.id, below)
                continue
            member = tarfile.TarInfo(below)
            body = self.replaced.get(entry.id, self.contents.get(entry.id, b""))
            if entry.mode == SUBMODULE:
                member.type, member.mode, body = tarfile.DIRTYPE, 0o755, b""
            elif entry.mode == "120000":
                member.type, member.linkname, body = tarfile.SYMTYPE, body.decode(), b""
            else:
                member.mode = 0o755 if entry.mode == "100755" else 0o644
                member.size = len(body)
            packed.addfile(member, io.BytesIO(body))


def _number(kind: str, target: str) -> str:
    """Some name: Replay takes the archive's word for what a revision, a release or a snapshot leads to."""
    return hashlib.sha1(f"{kind} {target}".encode()).hexdigest()


def modes(folder: Path) -> dict[str, str]:
    """What each path below a folder is: ``file``, ``executable``, ``folder``, or ``-> TARGET``."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            what = f"-> {path.readlink()}"
        elif path.is_dir():
            what = "folder"
        else:
            what = "executable" if path.stat().st_mode & 0o100 else "file"
        found[str(path.relative_to(folder))] = what
    return found
