"""Who is in groups that have conversations, other limits for single workspaces, read states by person."""

import sqlalchemy as sa
from alembic import op

from services.chassis.tables import CLOCK

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Makes two tables and an index."""
    op.create_table(
        "group_syncs",
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.Column("synced", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("group_id", name="group_syncs_pkey"),
        sa.CheckConstraint("synced >= 0 AND generation >= synced", name="group_syncs_generation"),
    )
    op.create_index("group_syncs_due", "group_syncs", ["due_at"])
    op.create_index("group_syncs_workspace", "group_syncs", ["workspace_id"])
    op.create_table(
        "workspace_limits",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "name", name="workspace_limits_pkey"),
        sa.CheckConstraint("value >= 0", name="workspace_limits_value"),
    )
    op.create_index("read_states_user", "read_states", ["user_id", "conversation_id"])


def downgrade() -> None:
    """Takes them back."""
    op.drop_index("read_states_user", "read_states")
    op.drop_table("workspace_limits")
    op.drop_table("group_syncs")
