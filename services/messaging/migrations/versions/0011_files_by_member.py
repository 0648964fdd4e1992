"""What a member announced and no message holds is found by the member: nobody who is removed is asked where."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

UNATTACHED = sa.text("message_id IS NULL")


def upgrade() -> None:
    """Makes the index; the one before goes last, because nobody reads while it does."""
    op.create_index("files_unattached_by_member", "files", ["uploader_member_id"], postgresql_where=UNATTACHED)
    op.drop_index("files_unattached_of_member", "files")


def downgrade() -> None:
    """Undoes it."""
    of_member = ["workspace_id", "uploader_member_id"]
    op.create_index("files_unattached_of_member", "files", of_member, postgresql_where=UNATTACHED)
    op.drop_index("files_unattached_by_member", "files")
