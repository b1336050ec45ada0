"""How a database is opened and brought to the present schema."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_MIGRATIONS = Path(__file__).parent / "migrations"


class OldSchema(Exception):
    """The database's schema is not the one of this version; the sentence says which command helps."""


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _synchronous(url: str) -> str:
    return make_url(url).set(drivername=make_url(url).get_backend_name()).render_as_string(hide_password=False)


def _revisions(connection: Connection) -> tuple[str | None, str | None]:
    current = MigrationContext.configure(connection).get_current_revision()
    return current, ScriptDirectory.from_config(_alembic_config()).get_current_head()


def upgrade(url: str) -> str:
    """Bring the database at ``url`` to the present schema; returns a sentence of what was done.

    A SQLite file that holds something is first copied to ``<file>.<time>.backup`` beside it.
    """
    engine = create_engine(_synchronous(url))
    try:
        with engine.connect() as connection:
            current, head = _revisions(connection)
            tables = inspect(connection).get_table_names()
        if current == head:
            return f"The database is at revision {head} already."
        backup = ""
        file = engine.url.database
        if engine.dialect.name == "sqlite" and file and tables:
            copy = Path(f"{file}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup")
            shutil.copy2(file, copy)
            backup = f" A copy of what was there is in {copy}."
        with engine.begin() as connection:
            config = _alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return f"The database went from revision {current or 'none'} to {head}.{backup}"
    finally:
        engine.dispose()


@asynccontextmanager
async def open_database(url: str) -> AsyncGenerator[AsyncEngine]:
    """The engine of a database whose schema is this version's; closed at the end.

    A new SQLite file is made and filled. Raises `OldSchema` where a database that holds something is of another revision.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        parsed = parsed.set(drivername="sqlite+aiosqlite")
        _make_sqlite_file(Path(parsed.database or ""), url)
    engine = create_async_engine(parsed, connect_args=_connect_args(parsed.get_backend_name()))
    if engine.dialect.name == "sqlite":
        _make_sqlite_transactional(engine)
    try:
        async with engine.connect() as connection:
            current, head = await connection.run_sync(_revisions)
        if current != head:
            raise OldSchema(
                f"The database is at revision {current or 'none'} and this version wants {head}. "
                "Stop the service and run: replay-build-service upgrade-db"
            )
        yield engine
    finally:
        await engine.dispose()


def _make_sqlite_file(file: Path, url: str) -> None:
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
        upgrade(url)


def _connect_args(backend: str) -> dict[str, Any]:
    return {"timeout": 30} if backend == "sqlite" else {}


def _make_sqlite_transactional(engine: AsyncEngine) -> None:
    """WAL, so that readers do not wait; and writers that say at the start that they will write, so that none deadlocks.

    https://www.sqlite.org/wal.html and SQLAlchemy's notes on SQLite transactions.
    """

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction] - registered by the decorator
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction] - registered by the decorator
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
