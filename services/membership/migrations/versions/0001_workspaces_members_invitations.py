"""Workspaces, their heads, members and invitations."""

import sqlalchemy as sa
from alembic import op

from services.chassis.migrations import create_frame_tables, drop_frame_tables

revision = "0001"
down_revision = None

CLOCK = sa.text("statement_timestamp()")


def upgrade() -> None:
    """Makes every table of the first release."""
    create_frame_tables()
    _create_workspaces()
    _create_members()
    _create_invitations()
    op.create_foreign_key(
        "members_invitation_fkey",
        "members",
        "invitations",
        ["workspace_id", "invitation_id"],
        ["workspace_id", "id"],
        ondelete="SET NULL (invitation_id)",
    )


def _create_workspaces() -> None:
    op.create_table(
        "workspaces",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Uuid(), comment="user id; empty once that person is deleted"),
        sa.Column(
            "version", sa.Integer(), nullable=False, server_default=sa.text("1"), comment="what the etag is made of"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="workspaces_pkey"),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="workspaces_name_length"),
    )
    op.create_table(
        "workspace_heads",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("access_revision", sa.BigInteger(), nullable=False, server_default=sa.text("1")),
        sa.PrimaryKeyConstraint("workspace_id", name="workspace_heads_pkey"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="workspace_heads_workspace_fkey", ondelete="CASCADE"
        ),
    )


def _create_members() -> None:
    op.create_table(
        "members",
        sa.Column("id", sa.Uuid(), nullable=False, comment="UUIDv7, new at each joining, so the order of joining"),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="pending confers nothing and is hidden"),
        sa.Column("redemption_id", sa.Uuid(), comment="of guest: what the pending member was added under"),
        sa.Column("invitation_id", sa.Uuid(), comment="which invitation they came through"),
        sa.Column("joined_at", sa.DateTime(timezone=True), comment="empty while pending"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="members_pkey"),
        sa.UniqueConstraint("workspace_id", "user_id", name="members_workspace_user_key"),
        sa.UniqueConstraint("workspace_id", "id", name="members_workspace_id_key"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="members_workspace_fkey", ondelete="CASCADE"),
        sa.CheckConstraint("role IN ('admin', 'member', 'viewer')", name="members_role"),
        sa.CheckConstraint("kind IN ('full', 'guest')", name="members_kind"),
        sa.CheckConstraint("state IN ('pending', 'active')", name="members_state"),
        sa.CheckConstraint(
            "state = 'active' OR (kind = 'guest' AND redemption_id IS NOT NULL)", name="members_pending_is_guest"
        ),
        sa.CheckConstraint("kind = 'full' OR role <> 'admin'", name="members_guest_is_no_admin"),
        sa.CheckConstraint("(state = 'active') = (joined_at IS NOT NULL)", name="members_active_has_joined"),
    )
    for column in ("redemption", "invitation"):
        op.create_index(
            f"members_{column}",
            "members",
            [f"{column}_id"],
            unique=True,
            postgresql_where=sa.text(f"{column}_id IS NOT NULL"),
        )


def _create_invitations() -> None:
    op.create_table(
        "invitations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False, comment="as it was written"),
        sa.Column("normalized_email", sa.Text(collation="C"), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column(
            "token_hash",
            sa.LargeBinary(),
            nullable=False,
            comment="the token is derived from the id, and stored nowhere",
        ),
        sa.Column("inviter_member_id", sa.Uuid(), comment="empty once the sender is gone, and then of no use"),
        sa.Column("expire_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="invitations_pkey"),
        sa.UniqueConstraint("workspace_id", "id", name="invitations_workspace_id_key"),
        sa.UniqueConstraint("token_hash", name="invitations_token_hash_key"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="invitations_workspace_fkey", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "inviter_member_id"],
            ["members.workspace_id", "members.id"],
            name="invitations_inviter_fkey",
            ondelete="SET NULL (inviter_member_id)",
        ),
        sa.CheckConstraint("role IN ('admin', 'member', 'viewer')", name="invitations_role"),
        sa.CheckConstraint("accepted_at IS NULL OR revoked_at IS NULL", name="invitations_ended_once"),
    )
    op.create_index(
        "invitations_open",
        "invitations",
        ["workspace_id", "normalized_email"],
        unique=True,
        postgresql_where=sa.text("accepted_at IS NULL AND revoked_at IS NULL"),
    )
    op.create_index("invitations_inviter", "invitations", ["workspace_id", "inviter_member_id"])


def downgrade() -> None:
    """Drops them all."""
    op.drop_constraint("members_invitation_fkey", "members", type_="foreignkey")
    for table in ("invitations", "members", "workspace_heads", "workspaces"):
        op.drop_table(table)
    drop_frame_tables()
