"""What a person made in a session, as one archive: read over Jupyter's own HTTP API, packed while it is read, never kept.

The session is a stranger's program. Nothing that it says of names, sizes or kinds is believed, and what it does not answer is told
in the archive itself. Nothing here knows the hub, the database or the web.
"""

from replay_build_service.work.archive import ABSENCES, Limits, pack
from replay_build_service.work.session_files import (
    Entry,
    JupyterFiles,
    Listing,
    SessionFiles,
    SessionSilent,
    Unreadable,
)

__all__ = [
    "ABSENCES",
    "Entry",
    "JupyterFiles",
    "Limits",
    "Listing",
    "SessionFiles",
    "SessionSilent",
    "Unreadable",
    "pack",
]
