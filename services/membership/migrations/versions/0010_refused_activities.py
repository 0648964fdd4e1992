"""The index by which a log's refused attempts are listed, however few of its rows they are."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Makes it."""
    op.create_index(
        "activities_refused_number",
        "activities",
        ["workspace_id", "number"],
        postgresql_where=sa.text("outcome = 'refused'"),
    )


def downgrade() -> None:
    """Undoes it."""
    op.drop_index("activities_refused_number", "activities")
