"""Indexes: the reactions that events tell of by person, direct conversations by who opened them, public ones in order."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

EMOJI = sa.text("emoji IS NOT NULL")
DIRECT = sa.text("kind = 'direct'")
PUBLIC = sa.text("visibility = 'public'")


def upgrade() -> None:
    """Makes them."""
    op.create_index("conversation_events_emoji", "conversation_events", ["user_id"], postgresql_where=EMOJI)
    op.create_index(
        "conversations_opened", "conversations", ["created_by_member_id", "created_at"], postgresql_where=DIRECT
    )
    op.drop_index("conversations_public", "conversations")
    op.create_index("conversations_public", "conversations", ["workspace_id", "id"], postgresql_where=PUBLIC)


def downgrade() -> None:
    """Undoes it."""
    op.drop_index("conversations_public", "conversations")
    op.create_index("conversations_public", "conversations", ["workspace_id"], postgresql_where=PUBLIC)
    op.drop_index("conversations_opened", "conversations")
    op.drop_index("conversation_events_emoji", "conversation_events")
