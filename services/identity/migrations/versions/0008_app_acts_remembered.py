"""That an app acted for a user is kept with the user: its entries in the security log go after a year.

What is in the log already is remembered when it goes (security.REMEMBER): here it would hold up every session's check.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds the time."""
    op.add_column(
        "users",
        sa.Column("app_acted_at", sa.DateTime(timezone=True), comment="an app's key could sign them in: since when"),
    )


def downgrade() -> None:
    """Undoes it."""
    op.drop_column("users", "app_acted_at")
