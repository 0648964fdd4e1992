"""Redemptions that were decided are forgotten after an hour."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes the index that they are found by."""
    op.create_index(
        "redemptions_decided", "redemptions", ["started_at"], postgresql_where=sa.text("state <> 'STARTED'")
    )


def downgrade() -> None:
    """Removes it."""
    op.drop_index("redemptions_decided", "redemptions")
