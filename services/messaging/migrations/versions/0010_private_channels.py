"""Private channels are found by an index: among them those that nobody takes part in any more."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

PRIVATE_CHANNELS = sa.text("kind = 'channel' AND visibility = 'private'")


def upgrade() -> None:
    """Makes it."""
    op.create_index(
        "conversations_private_channels", "conversations", ["workspace_id", "id"], postgresql_where=PRIVATE_CHANNELS
    )


def downgrade() -> None:
    """Undoes it."""
    op.drop_index("conversations_private_channels", "conversations")
