"""What a member announced and no message holds is found by the member: nobody who is removed is asked where."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

UNATTACHED = sa.text("message_id IS NULL")


def upgrade() -> None:
    """Makes the index anew."""
    _index("uploader_member_id")


def downgrade() -> None:
    """Undoes it."""
    _index("workspace_id", "uploader_member_id")


def _index(*columns: str) -> None:
    op.drop_index("files_unattached_of_member", "files")
    op.create_index("files_unattached_of_member", "files", list(columns), postgresql_where=UNATTACHED)
