"""What messages are found by. The service fills it from what there is, oldest first, when it starts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Makes the tables, and an index for the conversations that everybody sees."""
    op.create_table(
        "search_entries",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("words", postgresql.TSVECTOR(), nullable=False),
        sa.Column("keys", sa.ARRAY(sa.Uuid()), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "message_id", name="search_entries_pkey"),
        sa.ForeignKeyConstraint(
            ["conversation_id", "message_id"],
            ["messages.conversation_id", "messages.id"],
            name="search_entries_message_fkey",
            ondelete="CASCADE",
        ),
        postgresql_with={"parallel_workers": "0"},
    )
    op.create_index(
        "search_entries_found_by",
        "search_entries",
        ["words", "keys"],
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": "1024"},
    )
    op.create_table(
        "search_positions",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("conversation_id", name="search_positions_pkey"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="search_positions_conversation_fkey", ondelete="CASCADE"
        ),
        sa.CheckConstraint("event_seq >= 0", name="search_positions_number"),
    )
    op.create_index(
        "conversations_public", "conversations", ["workspace_id"], postgresql_where=sa.text("visibility = 'public'")
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_index("conversations_public", "conversations")
    op.drop_table("search_positions")
    op.drop_table("search_entries")
