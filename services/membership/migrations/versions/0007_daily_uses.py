"""What people did within a day, for limits that hold in all workspaces together."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds the table, empty: what was done before it does not count."""
    op.create_table(
        "daily_uses",
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("subject", sa.LargeBinary(), nullable=False, comment="the hash of a limit's name and whose it is"),
        sa.Column(
            "used_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("statement_timestamp()"),
            comment="forgotten after 24 h",
        ),
        sa.PrimaryKeyConstraint("id", name="daily_uses_pkey"),
    )
    op.create_index("daily_uses_subject", "daily_uses", ["subject", "used_at"])
    op.create_index("daily_uses_old", "daily_uses", ["used_at"])


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("daily_uses")
