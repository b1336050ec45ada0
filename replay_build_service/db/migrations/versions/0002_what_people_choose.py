"""The VO that a person chose last, terms that they agreed to, and what a launch's session gets

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vo_choices",
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("user"),
    )
    op.create_table(
        "terms_agreed",
        sa.Column("user", sa.String(length=255), nullable=False),
        sa.Column("vo", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("agreed_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("user", "vo", "version"),
    )
    op.add_column("launches", sa.Column("features", sa.Text(), nullable=True))
    op.add_column("launches", sa.Column("maximum_age", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("launches", "maximum_age")
    op.drop_column("launches", "features")
    op.drop_table("terms_agreed")
    op.drop_table("vo_choices")
