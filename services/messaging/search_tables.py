"""The tables of searching: what each message is found by, and how far each conversation has been gone through."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR


def add_search_tables(metadata: MetaData) -> None:
    """Puts them beside the other tables of messaging."""
    Table(
        "search_entries",
        metadata,
        Column("conversation_id", Uuid(as_uuid=False), nullable=False),
        Column("message_id", Uuid(as_uuid=False), nullable=False),
        Column("workspace_id", Uuid(as_uuid=False), nullable=False),
        Column("words", TSVECTOR, nullable=False),  # of its plain text, with their places
        Column("keys", ARRAY(Uuid(as_uuid=False)), nullable=False),  # search_keys.py
        PrimaryKeyConstraint("conversation_id", "message_id", name="search_entries_pkey"),
        ForeignKeyConstraint(
            ["conversation_id", "message_id"],
            ["messages.conversation_id", "messages.id"],
            name="search_entries_message_fkey",
            ondelete="CASCADE",
        ),
        # Both columns in one index: it passes over what only one of them finds. What waits to be put into it is read
        # whole by every search, so little may wait.
        Index(
            "search_entries_found_by",
            "words",
            "keys",
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": "1024"},
        ),
        # Starting the processes would take longer than what a search reads.
        postgresql_with={"parallel_workers": "0"},
    )
    Table(
        "search_positions",
        metadata,
        Column("conversation_id", Uuid(as_uuid=False), nullable=False),
        Column("event_seq", BigInteger, nullable=False, server_default=text("0")),  # gone through up to this event
        PrimaryKeyConstraint("conversation_id", name="search_positions_pkey"),
        ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="search_positions_conversation_fkey", ondelete="CASCADE"
        ),
        CheckConstraint("event_seq >= 0", name="search_positions_number"),
    )
