"""How far the erasure of a person's messages has come, and the indexes by which worn-out rows are found."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

NOWHERE = sa.text("'00000000-0000-0000-0000-000000000000'")


def upgrade() -> None:
    """Makes them."""
    op.create_table(
        "erasures",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False, server_default=NOWHERE),
        sa.Column("client_message_id", sa.Uuid(), nullable=False, server_default=NOWHERE),
        sa.PrimaryKeyConstraint("user_id", name="erasures_pkey"),
    )
    op.create_index(
        "conversations_retention",
        "conversations",
        ["id"],
        postgresql_where=sa.text("retention_seconds IS NOT NULL"),
    )


def downgrade() -> None:
    """Undoes it."""
    op.drop_index("conversations_retention", "conversations")
    op.drop_table("erasures")
