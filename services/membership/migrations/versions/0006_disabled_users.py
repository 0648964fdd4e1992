"""Who is kept out by identity: they run no workspace, own no group, and inherit neither."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds the table, empty: whoever was disabled before is told of with their next change."""
    op.create_table(
        "disabled_users",
        sa.Column("user_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("is_disabled", sa.Boolean(), nullable=False, comment="no: enabled again"),
        sa.Column("revision", sa.BigInteger(), nullable=False, comment="identity's: an older event changes nothing"),
        sa.PrimaryKeyConstraint("user_id", name="disabled_users_pkey"),
    )


def downgrade() -> None:
    """Takes it back."""
    op.drop_table("disabled_users")
