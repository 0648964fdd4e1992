"""Guests whom membership has not let in yet are told apart: if it never does, their link has its use back."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds the mark. Who is there already keeps their use: nobody knows any more."""
    op.add_column(
        "guests",
        sa.Column(
            "unconfirmed",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="membership is not known to have let them in: if it does not, the link has its use back",
        ),
    )


def downgrade() -> None:
    """Removes it."""
    op.drop_column("guests", "unconfirmed")
