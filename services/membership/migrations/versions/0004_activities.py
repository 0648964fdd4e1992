"""The activity log (ADR 8), and who has departed."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

CLOCK = sa.text("statement_timestamp()")


def upgrade() -> None:
    """Makes the tables, and takes from the service's role what it must not be able to do to them."""
    _create_activities()
    _create_people_and_details()
    _create_departed_users()
    op.execute("REVOKE UPDATE, DELETE ON activities FROM membership")
    op.execute("REVOKE UPDATE ON activity_people, activity_details FROM membership")


def _create_activities() -> None:
    op.create_table(
        "activities",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column(
            "number", sa.BigInteger(), nullable=False, comment="1, 2, 3 … in the workspace, given out by its head"
        ),
        sa.Column("happened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("action", sa.Text(collation="C"), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("actor_ref", sa.Uuid(), comment="of activity_people; empty: the suite, or a service account"),
        sa.Column("actor_account_id", sa.Uuid(), comment="the service account"),
        sa.Column("target_type", sa.Text(collation="C"), nullable=False),
        sa.Column("target_id", sa.Uuid(), comment="a thing; empty for people"),
        sa.Column("target_ref", sa.Uuid(), comment="of activity_people"),
        sa.Column("metadata", postgresql.JSONB(), nullable=False, comment="nothing about people"),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("actor_details_hash", sa.LargeBinary(), comment="of the salt and body in activity_details"),
        sa.Column("target_details_hash", sa.LargeBinary(), comment="likewise"),
        sa.Column("hash", sa.LargeBinary(), nullable=False, comment="of this row and the hash before it"),
        sa.PrimaryKeyConstraint("workspace_id", "number", name="activities_pkey"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspace_heads.workspace_id"], name="activities_head_fkey"),
        sa.CheckConstraint("number >= 1", name="activities_number"),
        sa.CheckConstraint("outcome IN ('done', 'refused')", name="activities_outcome"),
        sa.CheckConstraint("octet_length(hash) = 32", name="activities_hash_length"),
        sa.CheckConstraint("num_nonnulls(actor_ref, actor_account_id) <= 1", name="activities_one_actor"),
    )
    op.create_index("activities_actor", "activities", ["workspace_id", "actor_ref", "number"])
    op.create_index("activities_action", "activities", ["workspace_id", "action", "number"])
    op.create_index("activities_target", "activities", ["workspace_id", "target_type", "target_id", "number"])
    op.create_index("activities_person", "activities", ["workspace_id", "target_ref", "number"])
    op.create_index("activities_time", "activities", ["workspace_id", "happened_at"])
    op.create_index(
        "activities_refused",
        "activities",
        ["workspace_id", "actor_ref", "happened_at"],
        postgresql_where=sa.text("outcome = 'refused'"),
    )


def _create_people_and_details() -> None:
    op.create_table(
        "activity_people",
        sa.Column("ref", sa.Uuid(), nullable=False, comment="random, of one person in one workspace"),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("ref", name="activity_people_pkey"),
        sa.UniqueConstraint("workspace_id", "user_id", name="activity_people_user_key"),
    )
    op.create_index("activity_people_of_user", "activity_people", ["user_id"])
    op.create_table(
        "activity_details",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column("ref", sa.Uuid(), nullable=False, comment="of activity_people: whose it is"),
        sa.Column(
            "salt", sa.LargeBinary(), nullable=False, comment="32 random bytes: once gone, the hash tells nothing"
        ),
        sa.Column("body", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "number", "about", name="activity_details_pkey"),
        sa.CheckConstraint("about IN ('actor', 'target')", name="activity_details_about"),
        sa.CheckConstraint("octet_length(salt) = 32", name="activity_details_salt_length"),
    )
    op.create_index("activity_details_ref", "activity_details", ["ref"])


def _create_departed_users() -> None:
    op.create_table(
        "departed_users",
        sa.Column("user_id", sa.Uuid(), nullable=False, comment="identity has deleted them; forgotten after 7 days"),
        sa.Column("departed_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("user_id", name="departed_users_pkey"),
    )
    op.create_index("departed_users_at", "departed_users", ["departed_at"])
    op.create_index(
        "workspaces_created_by", "workspaces", ["created_by"], postgresql_where=sa.text("created_by IS NOT NULL")
    )


def downgrade() -> None:
    """Drops them, and begins every chain anew."""
    op.drop_index("workspaces_created_by", table_name="workspaces")
    for table in ("departed_users", "activity_details", "activity_people", "activities"):
        op.drop_table(table)
    op.execute("UPDATE workspace_heads SET activity_number = 0, activity_hash = NULL")
