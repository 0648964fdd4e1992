"""A change of a policy is brought to the guests who are there in batches: how far it has come is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "policy_changes",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column(
            "grace",
            sa.Interval(),
            comment="the most that anybody keeps; null: their times hold, notices are to be planned",
        ),
        sa.Column("maximum_stay", sa.Interval(), comment="the same of their stay; null cuts nobody's"),
        sa.Column(
            "after_member_id",
            sa.Uuid(),
            nullable=False,
            server_default=sa.text("'00000000-0000-0000-0000-000000000000'"),
            comment="whom it was brought to last, in their order",
        ),
        sa.PrimaryKeyConstraint("workspace_id", name="policy_changes_pkey"),
        sa.CheckConstraint("maximum_stay IS NULL OR grace IS NOT NULL", name="policy_changes_stay_with_grace_check"),
    )


def downgrade() -> None:
    """Removes it, with what was left to do: to be done before."""
    op.drop_table("policy_changes")
