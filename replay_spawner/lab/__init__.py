"""JupyterLab's small extension for sessions: files that spawners put where JupyterLab looks for extensions.

It tells the session's own server when a person does something, and shows in JupyterLab when the session is about to end: with
“Stay” and “Download my work”. What it tells and reads are two sections of Jupyter Server's configuration: ``replay_activity``
and ``replay_session``. It is TypeScript (``frontend/``), bundled beside the pages, and needs nothing installed in a session: a
JupyterLab 4 or a Notebook 7 finds it in any ``labextensions`` folder of its data path, and everything else never looks there.
Nothing here knows a spawner.
"""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

NAME = "replay-session"
"""The extension's, and of its folder in ``labextensions``."""

DATA = Path(__file__).parent
"""A folder for ``JUPYTER_PATH``: for sessions that see this machine's files. It has ``labextensions`` and no kernels or settings."""

CONTAINER_FOLDER = PurePosixPath("/usr/local/share/jupyter/labextensions", NAME)
"""Where the extension's own files go in a container. It is on every Jupyter's data path whatever ``JUPYTER_PATH`` says there, so that an
image keeps its own (jupyter_core: “JUPYTER_PATH is purely additive”, system-wide paths come last)."""


class LabExtensionMissing(Exception):
    """The extension was not bundled: a checkout before ``make .stamps/pages``."""


def lab_files() -> Mapping[str, bytes]:
    """The extension's files by name, all of them in its one folder (`CONTAINER_FOLDER` in a container): 20 KB at most together.

    Raises `LabExtensionMissing`: a session starts without it, and whoever starts it says so in the log.
    """
    folder = DATA / "labextensions" / NAME
    try:
        return {name: (folder / name).read_bytes() for name in ("package.json", "session.js")}
    except FileNotFoundError as error:
        raise LabExtensionMissing(
            f"JupyterLab's extension lacks {error.filename}: make it with “make .stamps/pages” or “npm run build”."
        ) from error


def data_path(environment: Mapping[str, str]) -> str:
    """``JUPYTER_PATH`` for a session that sees this machine's files and has this ``environment`` otherwise: what it names stays, first."""
    return os.pathsep.join([entry for entry in (environment.get("JUPYTER_PATH"), str(DATA)) if entry])
