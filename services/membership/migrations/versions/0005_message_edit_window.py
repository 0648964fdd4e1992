"""How long the messages of a workspace may be edited."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds the column, empty: without a limit, as it was."""
    op.add_column(
        "workspaces",
        sa.Column(
            "message_edit_window", sa.Interval(), comment="in days of 24 h; empty: messages are edited without limit"
        ),
    )
    op.create_check_constraint(
        "workspaces_message_edit_window",
        "workspaces",
        "message_edit_window BETWEEN interval '0' AND interval '366 days'",
    )


def downgrade() -> None:
    """Takes it back."""
    op.drop_constraint("workspaces_message_edit_window", "workspaces", type_="check")
    op.drop_column("workspaces", "message_edit_window")
