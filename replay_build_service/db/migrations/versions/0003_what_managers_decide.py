"""What managers of VOs decide, their audit log, and what a session had reserved

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_APPEND_ONLY = """
CREATE TRIGGER audit_is_never_{done} BEFORE {statement} ON audit
BEGIN SELECT RAISE(ABORT, 'The audit log is only ever added to.'); END
"""


def upgrade() -> None:
    for column in (
        sa.Column("running_at", sa.DateTime(), nullable=True),
        sa.Column("memory_reserved", sa.BigInteger(), nullable=True),
        sa.Column("cores_reserved", sa.Double(), nullable=True),
        sa.Column("gpus_reserved", sa.Integer(), nullable=True),
    ):
        op.add_column("launches", column)
    op.create_index("launches_of_a_vo", "launches", ["vo", "created_at"], unique=False)
    op.create_table(
        "vo_standing",
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("banner", sa.Text(), nullable=True),
        sa.Column("terms_version", sa.String(length=64), nullable=True),
        sa.Column("terms_text", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("vo"),
    )
    op.create_table(
        "vo_rules",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("effect", sa.String(length=8), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_by", sa.String(length=255), nullable=False),
        sa.Column("decided_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("one_rule_per_pattern", "vo_rules", ["vo", "pattern"], unique=True)
    op.create_table(
        "vo_blocks",
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(), nullable=True),
        sa.Column("decided_by", sa.String(length=255), nullable=False),
        sa.Column("decided_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("vo", "user"),
    )
    op.create_table(
        "vo_events",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("repo", sa.Text(), nullable=False),
        sa.Column("urlpath", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.DateTime(), nullable=False),
        sa.Column("ends_at", sa.DateTime(), nullable=False),
        sa.Column("people", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=128), nullable=True),
        sa.Column("image_name", sa.String(length=512), nullable=True),
        sa.Column("build_id", sa.String(length=32), nullable=True),
        sa.Column("decided_by", sa.String(length=255), nullable=False),
        sa.Column("decided_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("events_of_a_vo", "vo_events", ["vo", "ends_at"], unique=False)
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_of_a_vo", "audit", ["vo", "id"], unique=False)
    if op.get_bind().dialect.name == "sqlite":
        for done, statement in (("changed", "UPDATE"), ("removed", "DELETE")):
            op.execute(_APPEND_ONLY.format(done=done, statement=statement))


def downgrade() -> None:
    for table in ("audit", "vo_events", "vo_blocks", "vo_rules", "vo_standing"):
        op.drop_table(table)
    op.drop_index("launches_of_a_vo", "launches")
    for name in ("gpus_reserved", "cores_reserved", "memory_reserved", "running_at"):
        op.drop_column("launches", name)
