"""messaging's tables. Messages are hash-partitioned by conversation, so every unique key holds conversation_id."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from services.chassis.tables import CLOCK, add_frame_tables
from services.messaging.file_tables import add_file_tables
from services.messaging.search_tables import add_search_tables

METADATA = MetaData()

conversations = Table(
    "conversations",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("visibility", Text, nullable=False),
    Column("created_by_member_id", Uuid(as_uuid=False), nullable=False),
    Column("last_seq", BigInteger, nullable=False, server_default=text("0"), comment="the latest message's number"),
    Column("last_event_seq", BigInteger, nullable=False, server_default=text("0"), comment="the latest event's number"),
    Column("revision", BigInteger, nullable=False, server_default=text("1"), comment="raised when sight is taken away"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("topic", Text, nullable=False, server_default=""),
    Column("group_id", Uuid(as_uuid=False)),  # whose members take part, in a group conversation
    Column("direct_key", LargeBinary),  # SHA-256 of the sorted member ids, in a direct conversation
    Column("retention_seconds", BigInteger),  # messages are seen for so long; for ever if NULL
    Column("archived_at", DateTime(timezone=True)),
    Column("version", BigInteger, nullable=False, server_default=text("1")),  # the etag
    PrimaryKeyConstraint("id", name="conversations_pkey"),
    UniqueConstraint("workspace_id", "direct_key", name="conversations_direct_key"),
    CheckConstraint("kind IN ('channel', 'group', 'direct')", name="conversations_kind"),
    CheckConstraint("(kind = 'group') = (group_id IS NOT NULL)", name="conversations_group"),
    CheckConstraint("(kind = 'direct') = (direct_key IS NOT NULL)", name="conversations_direct"),
    CheckConstraint("visibility IN ('public', 'private')", name="conversations_visibility"),
    CheckConstraint("kind = 'channel' OR visibility = 'private'", name="conversations_private"),
    CheckConstraint(
        "CASE WHEN kind = 'direct' THEN name = '' ELSE char_length(name) BETWEEN 1 AND 100 END",
        name="conversations_name",
    ),
    CheckConstraint("char_length(topic) <= 1000", name="conversations_topic"),
    CheckConstraint("retention_seconds > 0", name="conversations_retention"),
    CheckConstraint("last_seq >= 0 AND last_event_seq >= last_seq", name="conversations_numbers"),
    Index("conversations_workspace", "workspace_id", "id"),
    Index("conversations_retention", "id", postgresql_where=text("retention_seconds IS NOT NULL")),
    Index("conversations_public", "workspace_id", "id", postgresql_where=text("visibility = 'public'")),
    Index(
        "conversations_private_channels",
        "workspace_id",
        "id",
        postgresql_where=text("kind = 'channel' AND visibility = 'private'"),
    ),
    Index("conversations_opened", "created_by_member_id", "created_at", postgresql_where=text("kind = 'direct'")),
    Index("conversations_of_group", "workspace_id", "group_id", postgresql_where=text("group_id IS NOT NULL")),
    # Every send updates the row: room on its page keeps that update off the indexes.
    postgresql_with={"fillfactor": 50},
)

participants = Table(
    "participants",
    METADATA,
    Column("conversation_id", Uuid(as_uuid=False), nullable=False),
    Column("member_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("joined_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("conversation_id", "member_id", name="participants_pkey"),
    ForeignKeyConstraint(
        ["conversation_id"], ["conversations.id"], name="participants_conversation_fkey", ondelete="CASCADE"
    ),
    Index("participants_member", "member_id"),
    Index("participants_user", "user_id", "conversation_id"),
)

messages = Table(
    "messages",
    METADATA,
    Column("conversation_id", Uuid(as_uuid=False), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("event_seq", BigInteger, nullable=False),
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("sender_member_id", Uuid(as_uuid=False), nullable=False),
    Column("sender_user_id", Uuid(as_uuid=False), nullable=False),
    Column("client_message_id", Uuid(as_uuid=False), nullable=False),
    Column("text", Text),  # or ciphertext, or neither once it is deleted
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("ciphertext", LargeBinary),
    Column("scheme", Text),  # how it is encrypted, in the product's words
    Column("header", LargeBinary),
    Column("body_mac", Uuid(as_uuid=False)),  # of what was sent, to know it again when it is sent again
    Column("reply_to_id", Uuid(as_uuid=False)),
    Column("mentioned_member_ids", ARRAY(Uuid(as_uuid=False))),
    Column("mentioned_user_group_ids", ARRAY(Uuid(as_uuid=False))),
    Column("mentions_everyone", Boolean, nullable=False, server_default=text("false")),
    Column("file_count", SmallInteger, nullable=False, server_default=text("0")),
    Column("version", Integer, nullable=False, server_default=text("1")),  # raised by each edit; the etag
    Column("edited_at", DateTime(timezone=True)),
    Column("deleted_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("conversation_id", "seq", name="messages_pkey"),
    UniqueConstraint("conversation_id", "id", name="messages_id"),
    UniqueConstraint("conversation_id", "sender_user_id", "client_message_id", name="messages_client_id"),
    UniqueConstraint("conversation_id", "event_seq", name="messages_event_seq"),
    ForeignKeyConstraint(
        ["conversation_id"], ["conversations.id"], name="messages_conversation_fkey", ondelete="CASCADE"
    ),
    CheckConstraint("seq >= 1 AND event_seq >= seq", name="messages_numbers"),
    CheckConstraint(
        "num_nonnulls(text, ciphertext) = CASE WHEN deleted_at IS NULL THEN 1 ELSE 0 END"
        " AND (ciphertext IS NULL) = (scheme IS NULL)",
        name="messages_content",
    ),
    Index("messages_replies", "conversation_id", "reply_to_id", postgresql_where=text("reply_to_id IS NOT NULL")),
    postgresql_partition_by="HASH (conversation_id)",
)

# What happened besides new messages. It holds no content: that is read from where it is now, so that nothing which was
# deleted is still told.
conversation_events = Table(
    "conversation_events",
    METADATA,
    Column("conversation_id", Uuid(as_uuid=False), nullable=False),
    Column("event_seq", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("message_id", Uuid(as_uuid=False)),
    Column("file_id", Uuid(as_uuid=False)),
    Column("member_id", Uuid(as_uuid=False)),  # who reacted, joined or left
    Column("user_id", Uuid(as_uuid=False)),
    Column("emoji", Text),  # of a reaction; NULL once the message is deleted, or the person erased
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("conversation_id", "event_seq", name="conversation_events_pkey"),
    ForeignKeyConstraint(
        ["conversation_id"], ["conversations.id"], name="conversation_events_conversation_fkey", ondelete="CASCADE"
    ),
    CheckConstraint(
        "kind IN ('message_edited', 'message_deleted', 'reaction_added', 'reaction_removed', 'participant_joined',"
        " 'participant_left', 'conversation_updated', 'file_deleted')",
        name="conversation_events_kind",
    ),
    CheckConstraint("event_seq >= 1", name="conversation_events_number"),
    Index("conversation_events_of_message", "conversation_id", "message_id"),
    Index("conversation_events_age", "created_at"),
    Index("conversation_events_emoji", "user_id", postgresql_where=text("emoji IS NOT NULL")),
    postgresql_partition_by="HASH (conversation_id)",
)

message_revisions = Table(
    "message_revisions",
    METADATA,
    Column("conversation_id", Uuid(as_uuid=False), nullable=False),
    Column("message_id", Uuid(as_uuid=False), nullable=False),
    Column("version", Integer, nullable=False),
    Column("text", Text),
    Column("ciphertext", LargeBinary),
    Column("scheme", Text),
    Column("header", LargeBinary),
    Column("created_at", DateTime(timezone=True), nullable=False),  # when this version was written
    PrimaryKeyConstraint("conversation_id", "message_id", "version", name="message_revisions_pkey"),
    ForeignKeyConstraint(
        ["conversation_id", "message_id"],
        ["messages.conversation_id", "messages.id"],
        name="message_revisions_message_fkey",
        ondelete="CASCADE",
    ),
    CheckConstraint("num_nonnulls(text, ciphertext) = 1", name="message_revisions_content"),
)

reactions = Table(
    "reactions",
    METADATA,
    Column("conversation_id", Uuid(as_uuid=False), nullable=False),
    Column("message_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("emoji_key", Text(collation="C"), nullable=False),  # the emoji, without what only changes its looks
    Column("emoji", Text, nullable=False),
    Column("member_id", Uuid(as_uuid=False), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("conversation_id", "message_id", "user_id", "emoji_key", name="reactions_pkey"),
    ForeignKeyConstraint(
        ["conversation_id", "message_id"],
        ["messages.conversation_id", "messages.id"],
        name="reactions_message_fkey",
        ondelete="CASCADE",
    ),
    CheckConstraint("char_length(emoji) BETWEEN 1 AND 32", name="reactions_emoji"),
    Index("reactions_user", "user_id", "conversation_id"),
)

read_states = Table(
    "read_states",
    METADATA,
    Column("conversation_id", Uuid(as_uuid=False), nullable=False),
    Column("member_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("read_seq", BigInteger, nullable=False),  # the last message that was read
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("conversation_id", "member_id", name="read_states_pkey"),
    ForeignKeyConstraint(
        ["conversation_id"], ["conversations.id"], name="read_states_conversation_fkey", ondelete="CASCADE"
    ),
    CheckConstraint("read_seq >= 0", name="read_states_number"),
    Index("read_states_member", "member_id", "updated_at"),
    Index("read_states_user", "user_id", "conversation_id"),
)

# The groups that have conversations, and what was written down of who is in them.
group_syncs = Table(
    "group_syncs",
    METADATA,
    Column("group_id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("generation", BigInteger, nullable=False, server_default=text("1")),  # raised by each change of the group
    Column("synced", BigInteger, nullable=False, server_default=text("0")),  # the latest that is written down
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),  # also the end of a lease
    PrimaryKeyConstraint("group_id", name="group_syncs_pkey"),
    CheckConstraint("synced >= 0 AND generation >= synced", name="group_syncs_generation"),
    Index("group_syncs_due", "due_at"),
    Index("group_syncs_workspace", "workspace_id"),
)

workspace_limits = Table(
    "workspace_limits",
    METADATA,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("name", Text, nullable=False),  # of limits.LIMITS
    Column("value", Integer, nullable=False),
    PrimaryKeyConstraint("workspace_id", "name", name="workspace_limits_pkey"),
    CheckConstraint("value >= 0", name="workspace_limits_value"),
)

NOWHERE = text("'00000000-0000-0000-0000-000000000000'")

# How far the erasure of what a deleted person wrote has come.
erasures = Table(
    "erasures",
    METADATA,
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("conversation_id", Uuid(as_uuid=False), nullable=False, server_default=NOWHERE),
    Column("client_message_id", Uuid(as_uuid=False), nullable=False, server_default=NOWHERE),  # gone through up to here
    PrimaryKeyConstraint("user_id", name="erasures_pkey"),
)

add_file_tables(METADATA)
add_search_tables(METADATA)
add_frame_tables(METADATA)
