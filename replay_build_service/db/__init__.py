"""What the build service keeps. Nobody else opens a database session."""

from replay_build_service.db.engine import OldSchema, open_database, upgrade
from replay_build_service.db.store import Store

__all__ = ["OldSchema", "Store", "open_database", "upgrade"]
