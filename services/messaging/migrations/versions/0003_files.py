"""Files, their parts, and how much room each workspace takes."""

import sqlalchemy as sa
from alembic import op

from services.chassis.tables import CLOCK

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes the tables."""
    _create_files()
    op.create_table(
        "file_parts",
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("file_id", "number", name="file_parts_pkey"),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name="file_parts_file_fkey", ondelete="CASCADE"),
        sa.CheckConstraint("number >= 0", name="file_parts_number"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="file_parts_sha256"),
    )
    op.create_table(
        "workspace_storage",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", name="workspace_storage_pkey"),
        sa.CheckConstraint("bytes >= 0", name="workspace_storage_bytes"),
    )


def downgrade() -> None:
    """Drops them; what is in the store of blobs stays there."""
    for table in ("workspace_storage", "file_parts", "files"):
        op.drop_table(table)


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=True),
        sa.Column("uploader_member_id", sa.Uuid(), nullable=False),
        sa.Column("uploader_user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("mime_type", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False, server_default="uploading"),
        sa.Column("received_bytes", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attached_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="files_pkey"),
        sa.ForeignKeyConstraint(["conversation_id"], ["conversations.id"], name="files_conversation_fkey"),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 255", name="files_name"),
        sa.CheckConstraint("char_length(mime_type) BETWEEN 1 AND 127", name="files_mime_type"),
        sa.CheckConstraint("size_bytes >= 1 AND received_bytes BETWEEN 0 AND size_bytes", name="files_size"),
        sa.CheckConstraint("octet_length(sha256) = 32", name="files_sha256"),
        sa.CheckConstraint("octet_length(header) = 24", name="files_header"),
        sa.CheckConstraint("state IN ('uploading', 'ready')", name="files_state"),
        sa.CheckConstraint(
            "(state = 'ready') = (completed_at IS NOT NULL) AND (state = 'uploading' OR received_bytes = size_bytes)",
            name="files_complete",
        ),
        sa.CheckConstraint(
            "(message_id IS NULL) = (attached_at IS NULL) AND (message_id IS NULL OR state = 'ready')",
            name="files_attached",
        ),
    )
    attached, unattached = sa.text("message_id IS NOT NULL"), sa.text("message_id IS NULL")
    op.create_index("files_of_conversation", "files", ["conversation_id", "id"])
    op.create_index("files_of_message", "files", ["conversation_id", "message_id"], postgresql_where=attached)
    op.create_index("files_unattached", "files", ["created_at"], postgresql_where=unattached)
    op.create_index(
        "files_unattached_of_member", "files", ["workspace_id", "uploader_member_id"], postgresql_where=unattached
    )
