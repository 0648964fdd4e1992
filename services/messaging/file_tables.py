"""The tables of files. Their bytes are in the store of blobs; how they got there is in uploads.py."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)

from services.chassis.tables import CLOCK


def add_file_tables(metadata: MetaData) -> None:
    """Puts them beside the other tables of messaging."""
    _add_files(metadata)
    _add_parts(metadata)
    Table(
        "workspace_storage",
        metadata,
        Column("workspace_id", Uuid(as_uuid=False), nullable=False),
        Column("bytes", BigInteger, nullable=False),  # the announced sizes of all its files
        PrimaryKeyConstraint("workspace_id", name="workspace_storage_pkey"),
        CheckConstraint("bytes >= 0", name="workspace_storage_bytes"),
    )


def _add_files(metadata: MetaData) -> None:
    Table(
        "files",
        metadata,
        Column("id", Uuid(as_uuid=False), nullable=False),
        Column("workspace_id", Uuid(as_uuid=False), nullable=False),
        Column("conversation_id", Uuid(as_uuid=False), nullable=False),
        Column("message_id", Uuid(as_uuid=False)),  # NULL until a message takes it up
        Column("uploader_member_id", Uuid(as_uuid=False), nullable=False),
        Column("uploader_user_id", Uuid(as_uuid=False), nullable=False),
        Column("name", Text, nullable=False),
        Column("mime_type", Text, nullable=False),
        Column("size_bytes", BigInteger, nullable=False),
        Column("sha256", LargeBinary, nullable=False),
        Column("header", LargeBinary),
        Column("state", Text, nullable=False, server_default="uploading"),
        Column("received_bytes", BigInteger, nullable=False, server_default=text("0")),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
        Column("completed_at", DateTime(timezone=True)),
        Column("attached_at", DateTime(timezone=True)),
        PrimaryKeyConstraint("id", name="files_pkey"),
        # Without a cascade: files that went along unseen would leave their bytes and their share of the quota behind.
        ForeignKeyConstraint(["conversation_id"], ["conversations.id"], name="files_conversation_fkey"),
        CheckConstraint("char_length(name) BETWEEN 1 AND 255", name="files_name"),
        CheckConstraint("char_length(mime_type) BETWEEN 1 AND 127", name="files_mime_type"),
        CheckConstraint("size_bytes >= 1 AND received_bytes BETWEEN 0 AND size_bytes", name="files_size"),
        CheckConstraint("octet_length(sha256) = 32", name="files_sha256"),
        CheckConstraint("octet_length(header) = 24", name="files_header"),
        CheckConstraint("state IN ('uploading', 'ready')", name="files_state"),
        CheckConstraint(
            "(state = 'ready') = (completed_at IS NOT NULL) AND (state = 'uploading' OR received_bytes = size_bytes)",
            name="files_complete",
        ),
        CheckConstraint(
            "(message_id IS NULL) = (attached_at IS NULL) AND (message_id IS NULL OR state = 'ready')",
            name="files_attached",
        ),
        Index("files_of_conversation", "conversation_id", "id"),
        Index("files_of_message", "conversation_id", "message_id", postgresql_where=text("message_id IS NOT NULL")),
        Index("files_unattached", "created_at", postgresql_where=text("message_id IS NULL")),
        Index("files_unattached_by_member", "uploader_member_id", postgresql_where=text("message_id IS NULL")),
    )


def _add_parts(metadata: MetaData) -> None:
    Table(
        "file_parts",
        metadata,
        Column("file_id", Uuid(as_uuid=False), nullable=False),
        Column("number", Integer, nullable=False, autoincrement=False),
        Column("sha256", LargeBinary, nullable=False),
        PrimaryKeyConstraint("file_id", "number", name="file_parts_pkey"),
        ForeignKeyConstraint(["file_id"], ["files.id"], name="file_parts_file_fkey", ondelete="CASCADE"),
        CheckConstraint("number >= 0", name="file_parts_number"),
        CheckConstraint("octet_length(sha256) = 32", name="file_parts_sha256"),
    )
