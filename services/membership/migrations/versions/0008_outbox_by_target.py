"""The outbox's index is by target: one that is away slows down no other."""

from services.chassis.migrations import index_outbox_by_target, index_outbox_by_time

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Makes it anew."""
    index_outbox_by_target()


def downgrade() -> None:
    """As it was."""
    index_outbox_by_time()
