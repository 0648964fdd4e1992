"""messaging's tables. Messages are hash-partitioned by conversation, so every unique key holds conversation_id."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from services.chassis.tables import CLOCK, add_frame_tables

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
    PrimaryKeyConstraint("id", name="conversations_pkey"),
    CheckConstraint("kind = 'channel'", name="conversations_kind"),
    CheckConstraint("visibility IN ('public', 'private')", name="conversations_visibility"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="conversations_name"),
    CheckConstraint("last_seq >= 0 AND last_event_seq >= last_seq", name="conversations_numbers"),
    Index("conversations_workspace", "workspace_id", "id"),
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
    Column("text", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("conversation_id", "seq", name="messages_pkey"),
    UniqueConstraint("conversation_id", "id", name="messages_id"),
    UniqueConstraint("conversation_id", "sender_user_id", "client_message_id", name="messages_client_id"),
    UniqueConstraint("conversation_id", "event_seq", name="messages_event_seq"),
    ForeignKeyConstraint(
        ["conversation_id"], ["conversations.id"], name="messages_conversation_fkey", ondelete="CASCADE"
    ),
    CheckConstraint("seq >= 1 AND event_seq >= seq", name="messages_numbers"),
    postgresql_partition_by="HASH (conversation_id)",
)

add_frame_tables(METADATA)
