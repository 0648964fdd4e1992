"""Security events of imports are never forgotten, and not in the way of those that are."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Leaves them out of the index by which the others are found."""
    op.drop_index("security_events_created_at", "security_events")
    op.create_index(
        "security_events_created_at",
        "security_events",
        ["created_at"],
        postgresql_where=sa.text("kind <> 'user_imported'"),
    )


def downgrade() -> None:
    """As it was."""
    op.drop_index("security_events_created_at", "security_events")
    op.create_index("security_events_created_at", "security_events", ["created_at"])
