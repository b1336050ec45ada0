"""The demonstration's example repositories, made into bare git repositories from the files in ``demo/repositories/``.

The same files always give the same commits (author, committer and dates are fixed), so that links to a commit, and what
was built from it, survive a restart of the demonstration. This room knows git and files, and nothing of Replay.

    from demo.repositories import publish
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Published", "publish", "publish_folder"]

SOURCES = Path(__file__).parent / "repositories"
BRANCH = "main"

_EXAMPLES = {
    "hello-notebook": "A notebook with a requirements.txt: what Python runs it, and from which commit it came.",
    "pyproject-example": "A small package with a pyproject.toml, and a notebook that uses it.",
    "broken-requirements": "A requirements.txt that nobody can install: what a failed build looks like.",
}
_WHO_AND_WHEN = {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in {
        "NAME": "Replay demo",
        "EMAIL": "demo@example.org",
        "DATE": "2026-01-01T12:00:00+00:00",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Published:
    """An example that can be linked to."""

    name: str
    """The bare repository is ``<root>/<name>.git``."""
    description: str
    """One sentence for a list of links."""
    branch: str


def publish(root: Path) -> list[Published]:
    """Make or update the bare repositories of all examples below ``root``.

    Raises `subprocess.CalledProcessError` where git fails, `OSError` where the folder cannot be written.
    """
    for name, description in _EXAMPLES.items():
        publish_folder(SOURCES / name, root / f"{name}.git", message=description)
    return [Published(name, description, BRANCH) for name, description in _EXAMPLES.items()]


def publish_folder(source: Path, repository: Path, *, message: str, branch: str = BRANCH) -> str:
    """Make the content of a folder the one commit of a branch; the commit's SHA. The branch stays where nothing changed.

    An earlier commit of the branch stays in the repository and can still be fetched by its SHA.
    """
    if not (repository / "HEAD").is_file():
        repository.mkdir(parents=True, exist_ok=True)
        _git(repository, {}, "init", "--quiet", "--bare", "--template=", f"--initial-branch={branch}", ".")
    with tempfile.TemporaryDirectory(prefix="replay-demo-") as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index"), "GIT_WORK_TREE": str(source.resolve())}
        _git(repository, index, "-c", "core.bare=false", "add", "--all", "--force", ".", folder=source)
        tree = _git(repository, index, "-c", "core.bare=false", "write-tree")
    commit = _git(repository, _WHO_AND_WHEN, "commit-tree", tree, "-m", message)
    if commit != _git(repository, {}, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}"):
        _git(repository, {}, "update-ref", f"refs/heads/{branch}", commit)
    return commit


def _git(repository: Path, environment: Mapping[str, str], *command: str, folder: Path | None = None) -> str:
    clean = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.devnull,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_DIR": str(repository.resolve()),
        **environment,
    }
    done = subprocess.run(
        ["git", *command], cwd=folder or repository, env=clean, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()
