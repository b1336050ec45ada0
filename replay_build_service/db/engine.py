"""How a database is opened and brought to the present schema."""

import shutil
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_MIGRATIONS = Path(__file__).parent / "migrations"


UPGRADE_COMMAND = "replay-build-service upgrade-db"


class UnusableDatabase(Exception):
    """The service cannot work with this database; the sentence says what to do.

    UnusableDatabase
    ├── OldSchema     an upgrade helps
    └── NewerSchema   only a newer version of Replay helps
    """


class OldSchema(UnusableDatabase):
    """The database's schema is older than this version's; the sentence says which command helps."""


class NewerSchema(UnusableDatabase):
    """The database is at a revision that this version does not know."""


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def shown_url(url: str) -> str:
    """The database's URL for people, without its password. Raises `UnusableDatabase` for what is no URL."""
    parsed = _parsed(url)
    return parsed.set(drivername=parsed.get_backend_name()).render_as_string(hide_password=True)


def is_there(url: str) -> bool:
    """Whether there may be a database already: `open_database` would not make one. Raises `UnusableDatabase`."""
    parsed = _parsed(url)
    return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file()


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        # Not the text itself: it may hold a password.
        raise UnusableDatabase(
            "The database's URL (db_url) is none. It should read like sqlite:////srv/replay.sqlite."
        ) from error


def _synchronous(url: str) -> URL:
    parsed = _parsed(url)
    return parsed.set(drivername=parsed.get_backend_name())


def _revisions(connection: Connection) -> tuple[str | None, str | None]:
    """The database's revision and this version's. Raises `NewerSchema` where this version does not know the former."""
    scripts = ScriptDirectory.from_config(_alembic_config())
    current = MigrationContext.configure(connection).get_current_revision()
    try:
        scripts.get_revisions(current or ())
    except CommandError as error:
        raise NewerSchema(
            f"The database {shown_url(str(connection.engine.url))} is at revision {current}, which "
            "this version of Replay does not know: it was made by a newer version of Replay. Install that one."
        ) from error
    return current, scripts.get_current_head()


def upgrade(url: str) -> str:
    """Bring the database at ``url`` to the present schema; returns a sentence of what was done.

    A SQLite file that holds something is first copied to ``<file>.<time>.backup`` beside it. Raises `UnusableDatabase`.
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
            copy = _copy_sqlite(Path(file))
            backup = f" A copy of what was there is in {copy}."
        with engine.begin() as connection:
            config = _alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return f"The database went from revision {current or 'none'} to {head}.{backup}"
    finally:
        engine.dispose()


def _copy_sqlite(file: Path) -> Path:
    """A copy beside the file, readable by the same accounts. Through SQLite: what was committed last is in another file."""
    copy = file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}.backup")
    copy.touch(mode=0o600)
    shutil.copymode(file, copy)
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


@asynccontextmanager
async def open_database(url: str, upgrade_command: str = UPGRADE_COMMAND) -> AsyncGenerator[AsyncEngine]:
    """The engine of a database whose schema is this version's; closed at the end.

    A new SQLite file is made and filled. Raises `UnusableDatabase`: `OldSchema`, which names ``upgrade_command``, where a
    database that holds something is of an older revision, and `NewerSchema`.
    """
    parsed = _parsed(url)
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
                f"The database {shown_url(url)} is at revision {current or 'none'} and this version wants {head}. "
                "Stop the hub, and run with the same environment variables: " + upgrade_command
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
