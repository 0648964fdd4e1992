"""The indexes by which worn-out tokens are found, and what is still to be done about somebody."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Makes them."""
    op.drop_index("verification_tokens_expire_at", "verification_tokens")
    op.create_index(
        "verification_tokens_expire_at",
        "verification_tokens",
        ["expire_at"],
        postgresql_where=sa.text("used_at IS NULL"),
    )
    op.create_index(
        "verification_tokens_used_at",
        "verification_tokens",
        ["used_at"],
        postgresql_where=sa.text("used_at IS NOT NULL"),
    )
    op.create_index("outbox_subject_id", "outbox", ["subject_id"], postgresql_where=sa.text("subject_id IS NOT NULL"))


def downgrade() -> None:
    """Undoes it."""
    op.drop_index("outbox_subject_id", "outbox")
    op.drop_index("verification_tokens_used_at", "verification_tokens")
    op.drop_index("verification_tokens_expire_at", "verification_tokens")
    op.create_index("verification_tokens_expire_at", "verification_tokens", ["expire_at"])
