"""Answers whose secrets are past their time are found by an index."""

from services.chassis.migrations import drop_index_of_sealed_answers, index_sealed_answers

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Makes it."""
    index_sealed_answers()


def downgrade() -> None:
    """Undoes it."""
    drop_index_of_sealed_answers()
