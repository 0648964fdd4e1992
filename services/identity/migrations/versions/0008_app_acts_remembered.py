"""That an app acted for a user is kept with the user: its entries in the security log go after a year."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds the time; where it is known, it is that of the first such entry that is left, or of a session."""
    op.add_column(
        "users",
        sa.Column("app_acted_at", sa.DateTime(timezone=True), comment="an app's key could sign them in: since when"),
    )
    op.execute("""
        UPDATE users SET app_acted_at = acts.since
        FROM (
            SELECT user_id, min(created_at) AS since
            FROM (
                SELECT user_id, created_at FROM sessions WHERE from_adapter
                UNION ALL
                SELECT user_id, created_at FROM security_events
                WHERE service_account_id IS NOT NULL AND kind IN ('signed_in', 'email_changed')
                UNION ALL
                SELECT user_id, created_at FROM security_events changes
                WHERE kind = 'email_changed' AND EXISTS (
                    SELECT FROM security_events WHERE user_id = changes.user_id AND kind = 'user_imported'
                )
            ) each_act
            GROUP BY user_id
        ) acts
        WHERE users.id = acts.user_id
    """)


def downgrade() -> None:
    """Undoes it."""
    op.drop_column("users", "app_acted_at")
