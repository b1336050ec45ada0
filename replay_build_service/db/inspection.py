"""A database looked at from outside: is it there, of which schema, does it take writes. Nothing is made, nothing changed."""

import sqlite3
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from replay_build_service.db.engine import UPGRADE_COMMAND, UnusableDatabase, open_database, shown_url

_LOCKED_SECONDS = 5


async def inspect_database(url: str, upgrade_command: str = UPGRADE_COMMAND) -> str:
    """The revision of a database that the service could work with. Raises `UnusableDatabase`."""
    shown = shown_url(url)
    file = _sqlite_file(url)
    if file is not None and not file.exists():
        raise UnusableDatabase(f"There is no database {shown} yet; the service makes it when it first starts.")
    try:
        async with open_database(url, upgrade_command) as engine, engine.connect() as connection:
            if file is not None:
                await connection.exec_driver_sql(f"PRAGMA busy_timeout = {_LOCKED_SECONDS * 1000}")
                await connection.rollback()
            return await _written(await connection.execution_options(writes=True))
    except (SQLAlchemyError, sqlite3.Error, OSError, ImportError) as error:
        raise UnusableDatabase(f"The database {shown} cannot be used: {_reason(error)}.") from error


async def _written(connection: AsyncConnection) -> str:
    """The revision, after a write that is taken back."""
    transaction = await connection.begin()
    try:
        revision = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one()
        await connection.execute(text("UPDATE alembic_version SET version_num = version_num"))
        return revision
    finally:
        await transaction.rollback()


def _sqlite_file(url: str) -> Path | None:
    parsed = make_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


def _reason(error: Exception) -> str:
    """What the driver said, without the statement and its parameters."""
    said = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return said.splitlines()[0][:200].removesuffix(".")
