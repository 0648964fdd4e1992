"""Tokens of sessions that are over are found and deleted before the sessions, a batch at a time."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Says of each session whether it still has tokens, and lets one be nobody's."""
    op.alter_column("sessions", "user_id", nullable=True, comment="none: of somebody who was deleted")
    op.add_column(
        "sessions",
        sa.Column(
            "has_tokens",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("true"),
            comment="some may be left to be forgotten",
        ),
    )
    op.create_index("sessions_with_tokens", "sessions", ["idle_expire_at"], postgresql_where=sa.text("has_tokens"))


def downgrade() -> None:
    """Undoes it; sessions that are nobody's go."""
    op.drop_index("sessions_with_tokens", "sessions")
    op.drop_column("sessions", "has_tokens")
    op.execute("DELETE FROM sessions WHERE user_id IS NULL")
    op.alter_column("sessions", "user_id", nullable=False, comment=None)
