"""When a session that runs was last used, so that its person is warned before it ends

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "session_ends",
        sa.Column("launch_id", sa.String(length=32), nullable=False),
        sa.Column("used_at", sa.DateTime(), nullable=True),
        sa.Column("limit_seconds", sa.Double(), nullable=True),
        sa.Column("warning_seconds", sa.Double(), nullable=True),
        sa.Column("kept_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("launch_id"),
    )


def downgrade() -> None:
    op.drop_table("session_ends")
