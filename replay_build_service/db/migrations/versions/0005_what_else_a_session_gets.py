"""Which second repository's files a session gets

Revision: 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("launches", sa.Column("content", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("launches", "content")
