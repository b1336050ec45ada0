"""Alembic's entry: runs on the connection that ``db.engine.upgrade`` hands over."""

from alembic import context

from replay_build_service.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
