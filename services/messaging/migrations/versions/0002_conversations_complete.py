"""Group and direct conversations, encrypted messages, edits, tombstones, numbered events, reactions, read states."""

import sqlalchemy as sa
from alembic import op

from services.chassis.tables import CLOCK

revision = "0002"
down_revision = "0001"

PARTITIONS = 16


def upgrade() -> None:
    """Widens the two tables and makes the new ones."""
    _widen_conversations()
    _widen_messages()
    _create_conversation_events()
    _create_message_revisions()
    _create_reactions()
    _create_read_states()


def downgrade() -> None:
    """Undoes it. What the older release has no place for (direct conversations, tombstones) is deleted."""
    for table in ("read_states", "reactions", "message_revisions", "conversation_events"):
        op.drop_table(table)
    op.execute("DELETE FROM conversations WHERE kind <> 'channel'")
    op.execute("DELETE FROM messages WHERE text IS NULL")
    _narrow_messages()
    _narrow_conversations()


def _widen_conversations() -> None:
    for name in ("conversations_kind", "conversations_name"):
        op.drop_constraint(name, "conversations")
    op.add_column("conversations", sa.Column("topic", sa.Text(), nullable=False, server_default=""))
    op.add_column("conversations", sa.Column("group_id", sa.Uuid(), nullable=True))
    op.add_column("conversations", sa.Column("direct_key", sa.LargeBinary(), nullable=True))
    op.add_column("conversations", sa.Column("retention_seconds", sa.BigInteger(), nullable=True))
    op.add_column("conversations", sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("conversations", sa.Column("version", sa.BigInteger(), nullable=False, server_default=sa.text("1")))
    op.create_check_constraint("conversations_kind", "conversations", "kind IN ('channel', 'group', 'direct')")
    op.create_check_constraint("conversations_group", "conversations", "(kind = 'group') = (group_id IS NOT NULL)")
    op.create_check_constraint("conversations_direct", "conversations", "(kind = 'direct') = (direct_key IS NOT NULL)")
    op.create_check_constraint("conversations_private", "conversations", "kind = 'channel' OR visibility = 'private'")
    op.create_check_constraint(
        "conversations_name",
        "conversations",
        "CASE WHEN kind = 'direct' THEN name = '' ELSE char_length(name) BETWEEN 1 AND 100 END",
    )
    op.create_check_constraint("conversations_topic", "conversations", "char_length(topic) <= 1000")
    op.create_check_constraint("conversations_retention", "conversations", "retention_seconds > 0")
    op.create_unique_constraint("conversations_direct_key", "conversations", ["workspace_id", "direct_key"])
    op.create_index(
        "conversations_of_group",
        "conversations",
        ["workspace_id", "group_id"],
        postgresql_where=sa.text("group_id IS NOT NULL"),
    )


def _narrow_conversations() -> None:
    op.drop_index("conversations_of_group", "conversations")
    for name in ("direct_key", "retention", "topic", "name", "private", "direct", "group", "kind"):
        op.drop_constraint(f"conversations_{name}", "conversations")
    for column in ("version", "archived_at", "retention_seconds", "direct_key", "group_id", "topic"):
        op.drop_column("conversations", column)
    op.create_check_constraint("conversations_kind", "conversations", "kind = 'channel'")
    op.create_check_constraint("conversations_name", "conversations", "char_length(name) BETWEEN 1 AND 100")


def _widen_messages() -> None:
    op.alter_column("messages", "text", nullable=True)
    op.add_column("messages", sa.Column("ciphertext", sa.LargeBinary(), nullable=True))
    op.add_column("messages", sa.Column("scheme", sa.Text(), nullable=True))
    op.add_column("messages", sa.Column("header", sa.LargeBinary(), nullable=True))
    op.add_column("messages", sa.Column("body_mac", sa.Uuid(), nullable=True))
    op.add_column("messages", sa.Column("reply_to_id", sa.Uuid(), nullable=True))
    op.add_column("messages", sa.Column("mentioned_member_ids", sa.ARRAY(sa.Uuid()), nullable=True))
    op.add_column("messages", sa.Column("mentioned_user_group_ids", sa.ARRAY(sa.Uuid()), nullable=True))
    op.add_column("messages", sa.Column("mentions_everyone", sa.Boolean(), nullable=False, server_default="false"))
    op.add_column("messages", sa.Column("file_count", sa.SmallInteger(), nullable=False, server_default="0"))
    op.add_column("messages", sa.Column("version", sa.Integer(), nullable=False, server_default="1"))
    op.add_column("messages", sa.Column("edited_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("messages", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(
        "messages_content",
        "messages",
        "num_nonnulls(text, ciphertext) = CASE WHEN deleted_at IS NULL THEN 1 ELSE 0 END"
        " AND (ciphertext IS NULL) = (scheme IS NULL)",
    )
    op.create_index(
        "messages_replies",
        "messages",
        ["conversation_id", "reply_to_id"],
        postgresql_where=sa.text("reply_to_id IS NOT NULL"),
    )


def _narrow_messages() -> None:
    op.drop_index("messages_replies", "messages")
    op.drop_constraint("messages_content", "messages")
    for column in (
        "deleted_at",
        "edited_at",
        "version",
        "file_count",
        "mentions_everyone",
        "mentioned_user_group_ids",
        "mentioned_member_ids",
        "reply_to_id",
        "body_mac",
        "header",
        "scheme",
        "ciphertext",
    ):
        op.drop_column("messages", column)
    op.alter_column("messages", "text", nullable=False)


def _create_conversation_events() -> None:
    op.create_table(
        "conversation_events",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("file_id", sa.Uuid(), nullable=True),
        sa.Column("member_id", sa.Uuid(), nullable=True),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("emoji", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("conversation_id", "event_seq", name="conversation_events_pkey"),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversations.id"],
            name="conversation_events_conversation_fkey",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "kind IN ('message_edited', 'message_deleted', 'reaction_added', 'reaction_removed', 'participant_joined',"
            " 'participant_left', 'conversation_updated', 'file_deleted')",
            name="conversation_events_kind",
        ),
        sa.CheckConstraint("event_seq >= 1", name="conversation_events_number"),
        postgresql_partition_by="HASH (conversation_id)",
    )
    op.create_index("conversation_events_of_message", "conversation_events", ["conversation_id", "message_id"])
    op.create_index("conversation_events_age", "conversation_events", ["created_at"])
    for number in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE conversation_events_p{number:02} PARTITION OF conversation_events "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number})"
        )


def _create_message_revisions() -> None:
    op.create_table(
        "message_revisions",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=True),
        sa.Column("scheme", sa.Text(), nullable=True),
        sa.Column("header", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "message_id", "version", name="message_revisions_pkey"),
        sa.ForeignKeyConstraint(
            ["conversation_id", "message_id"],
            ["messages.conversation_id", "messages.id"],
            name="message_revisions_message_fkey",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("num_nonnulls(text, ciphertext) = 1", name="message_revisions_content"),
    )


def _create_reactions() -> None:
    op.create_table(
        "reactions",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("emoji_key", sa.Text(collation="C"), nullable=False),
        sa.Column("emoji", sa.Text(), nullable=False),
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("conversation_id", "message_id", "user_id", "emoji_key", name="reactions_pkey"),
        sa.ForeignKeyConstraint(
            ["conversation_id", "message_id"],
            ["messages.conversation_id", "messages.id"],
            name="reactions_message_fkey",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("char_length(emoji) BETWEEN 1 AND 32", name="reactions_emoji"),
    )
    op.create_index("reactions_user", "reactions", ["user_id", "conversation_id"])


def _create_read_states() -> None:
    op.create_table(
        "read_states",
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("read_seq", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("conversation_id", "member_id", name="read_states_pkey"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="read_states_conversation_fkey", ondelete="CASCADE"
        ),
        sa.CheckConstraint("read_seq >= 0", name="read_states_number"),
    )
    op.create_index("read_states_member", "read_states", ["member_id", "updated_at"])
