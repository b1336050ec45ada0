"""What the build service keeps. Nobody else opens a database session."""

from replay_build_service.db.engine import NewerSchema, OldSchema, UnusableDatabase, open_database, shown_url, upgrade
from replay_build_service.db.inspection import inspect_database
from replay_build_service.db.store import Store

__all__ = [
    "NewerSchema",
    "OldSchema",
    "Store",
    "UnusableDatabase",
    "inspect_database",
    "open_database",
    "shown_url",
    "upgrade",
]
