"""Conversations, participants, and messages in 16 hash partitions by conversation."""

import sqlalchemy as sa
from alembic import op

from services.chassis.migrations import create_frame_tables, drop_frame_tables
from services.chassis.tables import CLOCK

revision = "0001"
down_revision = None

PARTITIONS = 16


def upgrade() -> None:
    """Makes the tables."""
    create_frame_tables()
    _create_conversations()
    _create_participants()
    _create_messages()


def downgrade() -> None:
    """Drops them; the partitions go with messages."""
    for table in ("messages", "participants", "conversations"):
        op.drop_table(table)
    drop_frame_tables()


def _create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("visibility", sa.Text(), nullable=False),
        sa.Column("created_by_member_id", sa.Uuid(), nullable=False),
        sa.Column(
            "last_seq",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="the latest message's number",
        ),
        sa.Column(
            "last_event_seq",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="the latest event's number",
        ),
        sa.Column(
            "revision",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("1"),
            comment="raised when sight is taken away",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="conversations_pkey"),
        sa.CheckConstraint("kind = 'channel'", name="conversations_kind"),
        sa.CheckConstraint("visibility IN ('public', 'private')", name="conversations_visibility"),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="conversations_name"),
        sa.CheckConstraint("last_seq >= 0 AND last_event_seq >= last_seq", name="conversations_numbers"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index("conversations_workspace", "conversations", ["workspace_id", "id"])


def _create_participants() -> None:
    op.create_table(
        "participants",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("joined_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("conversation_id", "member_id", name="participants_pkey"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="participants_conversation_fkey", ondelete="CASCADE"
        ),
    )
    op.create_index("participants_member", "participants", ["member_id"])
    op.create_index("participants_user", "participants", ["user_id", "conversation_id"])


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("sender_member_id", sa.Uuid(), nullable=False),
        sa.Column("sender_user_id", sa.Uuid(), nullable=False),
        sa.Column("client_message_id", sa.Uuid(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("conversation_id", "seq", name="messages_pkey"),
        sa.UniqueConstraint("conversation_id", "id", name="messages_id"),
        sa.UniqueConstraint("conversation_id", "sender_user_id", "client_message_id", name="messages_client_id"),
        sa.UniqueConstraint("conversation_id", "event_seq", name="messages_event_seq"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="messages_conversation_fkey", ondelete="CASCADE"
        ),
        sa.CheckConstraint("seq >= 1 AND event_seq >= seq", name="messages_numbers"),
        postgresql_partition_by="HASH (conversation_id)",
    )
    for number in range(PARTITIONS):
        # A partition must be an ordinary table of its own; Alembic has no construct for it.
        op.execute(
            f"CREATE TABLE messages_p{number:02} PARTITION OF messages "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )
