"""By which the sweep finds those whose time ended them long ago."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

ENDED = sa.text("state = 'ENDED' AND ended_at IS NULL")


def upgrade() -> None:
    """Makes the index."""
    op.create_index("guests_to_remove", "guests", ["grace_end_at"], postgresql_where=ENDED)


def downgrade() -> None:
    """Drops it."""
    op.drop_index("guests_to_remove", "guests")
