"""What the build service keeps. Nobody else opens a database session."""

from replay_build_service.db.engine import (
    NewerSchema,
    OldSchema,
    UnusableDatabase,
    is_there,
    open_database,
    shown_url,
    upgrade,
)
from replay_build_service.db.inspection import inspect_database
from replay_build_service.db.store import Store

__all__ = [
    "NewerSchema",
    "OldSchema",
    "Store",
    "UnusableDatabase",
    "inspect_database",
    "is_there",
    "open_database",
    "shown_url",
    "upgrade",
]
