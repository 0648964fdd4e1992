"""Members' handles, titles and suspension; bans; user groups; what invitations and workspaces need besides.

Taken back, it stops if somebody is suspended: nobody would be, afterwards.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

CLOCK = sa.text("statement_timestamp()")


def upgrade() -> None:
    """Adds to the tables of the first release, and makes those that need nothing but them."""
    _extend_workspaces()
    _extend_members()
    _extend_invitations()
    _create_workspace_bans()
    _create_user_groups()
    _create_handles()
    _create_workspace_limits()


def _extend_workspaces() -> None:
    op.add_column(
        "workspaces", sa.Column("archived_at", sa.DateTime(timezone=True), comment="when nobody was left to run it")
    )
    op.add_column(
        "workspaces",
        sa.Column(
            "deleted_at", sa.DateTime(timezone=True), comment="from then on nobody is a member; the row stays, nameless"
        ),
    )
    op.create_index(
        "workspaces_archived",
        "workspaces",
        ["id"],
        postgresql_where=sa.text("archived_at IS NOT NULL AND deleted_at IS NULL"),
    )
    op.drop_constraint("workspace_heads_workspace_fkey", "workspace_heads", type_="foreignkey")
    op.create_foreign_key("workspace_heads_workspace_fkey", "workspace_heads", "workspaces", ["workspace_id"], ["id"])
    op.add_column(
        "workspace_heads",
        sa.Column(
            "activity_number",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="of the newest activity",
        ),
    )
    op.add_column("workspace_heads", sa.Column("activity_hash", sa.LargeBinary(), comment="the newest activity's"))
    op.create_check_constraint(
        "workspace_heads_hash", "workspace_heads", "(activity_number = 0) = (activity_hash IS NULL)"
    )


def _extend_members() -> None:
    op.alter_column(
        "members",
        "state",
        comment="pending and suspended confer nothing",
        existing_comment="pending confers nothing and is hidden",
    )
    for column in (
        sa.Column("group_invite_id", sa.Uuid(), comment="which code they came into the workspace by"),
        sa.Column("inviter_member_id", sa.Uuid(), comment="who invited them"),
        sa.Column("title", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("suspended_at", sa.DateTime(timezone=True)),
        sa.Column(
            "version", sa.Integer(), nullable=False, server_default=sa.text("1"), comment="what the etag is made of"
        ),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
    ):
        op.add_column("members", column)
    for name in ("members_state", "members_pending_is_guest", "members_active_has_joined"):
        op.drop_constraint(name, "members", type_="check")
    for name, condition in (
        ("members_state", "state IN ('pending', 'active', 'suspended')"),
        ("members_pending_is_guest", "state <> 'pending' OR (kind = 'guest' AND redemption_id IS NOT NULL)"),
        ("members_joined_unless_pending", "(state <> 'pending') = (joined_at IS NOT NULL)"),
        ("members_suspended_since", "(state = 'suspended') = (suspended_at IS NOT NULL)"),
        ("members_title_length", "char_length(title) <= 100"),
        ("members_came_one_way", "num_nonnulls(invitation_id, group_invite_id) <= 1"),
    ):
        op.create_check_constraint(name, "members", condition)
    op.create_foreign_key(
        "members_inviter_fkey",
        "members",
        "members",
        ["workspace_id", "inviter_member_id"],
        ["workspace_id", "id"],
        ondelete="SET NULL (inviter_member_id)",
    )
    op.create_index("members_user", "members", ["user_id", "workspace_id"])
    op.create_index(
        "members_admins",
        "members",
        ["workspace_id", "id"],
        postgresql_where=sa.text("role = 'admin' AND state = 'active'"),
    )
    for name in ("group_invite", "inviter_member"):
        op.create_index(
            f"members_{name.removesuffix('_member')}",
            "members",
            ["workspace_id", f"{name}_id"],
            postgresql_where=sa.text(f"{name}_id IS NOT NULL"),
        )


def _extend_invitations() -> None:
    op.alter_column(
        "invitations",
        "email",
        nullable=True,
        comment="as it was written; forgotten 30 days after the invitation's time",
        existing_comment="as it was written",
    )
    op.alter_column("invitations", "normalized_email", nullable=True)
    op.alter_column(
        "invitations",
        "token_hash",
        comment="the token is derived, and stored nowhere",
        existing_comment="the token is derived from the id, and stored nowhere",
    )
    op.add_column("invitations", sa.Column("declined_at", sa.DateTime(timezone=True)))
    op.add_column(
        "invitations",
        sa.Column(
            "rotation", sa.Integer(), nullable=False, server_default=sa.text("0"), comment="how often it was resent"
        ),
    )
    op.add_column("invitations", sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK))
    op.execute("UPDATE invitations SET sent_at = created_at")
    op.drop_constraint("invitations_ended_once", "invitations", type_="check")
    for name, condition in (
        ("invitations_ended_once", "num_nonnulls(accepted_at, revoked_at, declined_at) <= 1"),
        ("invitations_email", "(email IS NULL) = (normalized_email IS NULL)"),
        ("invitations_rotation", "rotation >= 0"),
    ):
        op.create_check_constraint(name, "invitations", condition)
    op.drop_index("invitations_open", "invitations")
    op.create_index(
        "invitations_open",
        "invitations",
        ["workspace_id", "normalized_email"],
        unique=True,
        postgresql_where=sa.text("accepted_at IS NULL AND revoked_at IS NULL AND declined_at IS NULL"),
    )
    op.create_index("invitations_sent", "invitations", ["workspace_id", "sent_at"])
    op.create_index(
        "invitations_to_forget", "invitations", ["expire_at"], postgresql_where=sa.text("email IS NOT NULL")
    )


def _create_workspace_bans() -> None:
    op.create_table(
        "workspace_bans",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), comment="member or not"),
        sa.Column("email", sa.Text(), comment="as it was written"),
        sa.Column("normalized_email", sa.Text(collation="C")),
        sa.Column("reason", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("banned_by_member_id", sa.Uuid(), comment="empty once they are gone"),
        sa.Column("expire_at", sa.DateTime(timezone=True), comment="empty: until it is lifted"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column(
            "was_member",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="when banned, as far as who banned could see; only then is their name shown",
        ),
        sa.PrimaryKeyConstraint("id", name="workspace_bans_pkey"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="workspace_bans_workspace_fkey", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "banned_by_member_id"],
            ["members.workspace_id", "members.id"],
            name="workspace_bans_banned_by_fkey",
            ondelete="SET NULL (banned_by_member_id)",
        ),
        sa.CheckConstraint("num_nonnulls(user_id, normalized_email) = 1", name="workspace_bans_subject"),
        sa.CheckConstraint("(email IS NULL) = (normalized_email IS NULL)", name="workspace_bans_email"),
        sa.CheckConstraint("char_length(reason) <= 500", name="workspace_bans_reason_length"),
    )
    op.create_index("workspace_bans_user", "workspace_bans", ["workspace_id", "user_id"], unique=True)
    op.create_index("workspace_bans_address", "workspace_bans", ["workspace_id", "normalized_email"], unique=True)
    op.create_index(
        "workspace_bans_of_user", "workspace_bans", ["user_id"], postgresql_where=sa.text("user_id IS NOT NULL")
    )
    op.create_index("workspace_bans_banned_by", "workspace_bans", ["workspace_id", "banned_by_member_id"])
    op.create_index("workspace_bans_listed", "workspace_bans", ["workspace_id", "id"])


def _create_user_groups() -> None:
    op.create_table(
        "user_groups",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("version", sa.Integer(), nullable=False, server_default=sa.text("1"), comment="of its members too"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="user_groups_pkey"),
        sa.UniqueConstraint("workspace_id", "id", name="user_groups_workspace_id_key"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="user_groups_workspace_fkey", ondelete="CASCADE"
        ),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="user_groups_name_length"),
        sa.CheckConstraint("char_length(description) <= 2000", name="user_groups_description_length"),
    )
    op.create_table(
        "user_group_members",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("user_group_id", sa.Uuid(), nullable=False),
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("user_group_id", "member_id", name="user_group_members_pkey"),
        sa.ForeignKeyConstraint(
            ["workspace_id", "user_group_id"],
            ["user_groups.workspace_id", "user_groups.id"],
            name="user_group_members_user_group_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "member_id"],
            ["members.workspace_id", "members.id"],
            name="user_group_members_member_fkey",
            ondelete="CASCADE",
        ),
    )
    op.create_index("user_group_members_member", "user_group_members", ["workspace_id", "member_id", "user_group_id"])


def _create_handles() -> None:
    op.create_table(
        "handles",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("handle", sa.Text(collation="C"), nullable=False),
        sa.Column("member_id", sa.Uuid()),
        sa.Column("user_group_id", sa.Uuid()),
        sa.Column("released_at", sa.DateTime(timezone=True), comment="reserved for 30 days from then on"),
        sa.Column("former_user_id", sa.Uuid(), comment="the person for whom it is reserved"),
        sa.PrimaryKeyConstraint("workspace_id", "handle", name="handles_pkey"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="handles_workspace_fkey", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["workspace_id", "member_id"], ["members.workspace_id", "members.id"], name="handles_member_fkey"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "user_group_id"],
            ["user_groups.workspace_id", "user_groups.id"],
            name="handles_user_group_fkey",
        ),
        sa.CheckConstraint("handle ~ '^[a-z0-9._-]{2,32}$'", name="handles_form"),
        sa.CheckConstraint("handle NOT IN ('here', 'channel', 'everyone', 'all')", name="handles_reserved"),
        sa.CheckConstraint(
            "num_nonnulls(member_id, user_group_id) = CASE WHEN released_at IS NULL THEN 1 ELSE 0 END",
            name="handles_holder",
        ),
        sa.CheckConstraint("former_user_id IS NULL OR released_at IS NOT NULL", name="handles_former"),
    )
    op.create_index("handles_member", "handles", ["workspace_id", "member_id"], unique=True)
    op.create_index("handles_user_group", "handles", ["workspace_id", "user_group_id"], unique=True)
    op.create_index(
        "handles_former_user", "handles", ["former_user_id"], postgresql_where=sa.text("former_user_id IS NOT NULL")
    )
    op.create_index("handles_released", "handles", ["released_at"], postgresql_where=sa.text("released_at IS NOT NULL"))


def _create_workspace_limits() -> None:
    op.create_table(
        "workspace_limits",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "name", name="workspace_limits_pkey"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="workspace_limits_workspace_fkey", ondelete="CASCADE"
        ),
        sa.CheckConstraint("value >= 0", name="workspace_limits_value"),
    )


def downgrade() -> None:
    """Takes it all back."""
    for table in ("workspace_limits", "handles", "user_group_members", "user_groups", "workspace_bans"):
        op.drop_table(table)
    _restore_invitations()
    _restore_members()
    _restore_workspaces()


def _restore_invitations() -> None:
    for index in ("invitations_to_forget", "invitations_sent", "invitations_open"):
        op.drop_index(index, "invitations")
    for name in ("invitations_rotation", "invitations_email", "invitations_ended_once"):
        op.drop_constraint(name, "invitations", type_="check")
    # What the first release has no word for: declined is revoked, and a forgotten address is nobody's.
    op.execute("UPDATE invitations SET revoked_at = declined_at WHERE declined_at IS NOT NULL")
    op.execute(
        "UPDATE invitations SET revoked_at = expire_at WHERE email IS NULL AND accepted_at IS NULL AND revoked_at IS NULL"
    )
    op.execute("UPDATE invitations SET email = '', normalized_email = '' WHERE email IS NULL")
    for column in ("sent_at", "rotation", "declined_at"):
        op.drop_column("invitations", column)
    op.create_check_constraint("invitations_ended_once", "invitations", "accepted_at IS NULL OR revoked_at IS NULL")
    op.create_index(
        "invitations_open",
        "invitations",
        ["workspace_id", "normalized_email"],
        unique=True,
        postgresql_where=sa.text("accepted_at IS NULL AND revoked_at IS NULL"),
    )
    op.alter_column("invitations", "token_hash", comment="the token is derived from the id, and stored nowhere")
    op.alter_column("invitations", "normalized_email", nullable=False)
    op.alter_column("invitations", "email", nullable=False, comment="as it was written")


def _restore_members() -> None:
    for index in ("members_inviter", "members_group_invite", "members_admins", "members_user"):
        op.drop_index(index, "members")
    op.drop_constraint("members_inviter_fkey", "members", type_="foreignkey")
    for name in (
        "members_came_one_way",
        "members_title_length",
        "members_suspended_since",
        "members_joined_unless_pending",
        "members_pending_is_guest",
        "members_state",
    ):
        op.drop_constraint(name, "members", type_="check")
    for column in ("updated_at", "version", "suspended_at", "title", "inviter_member_id", "group_invite_id"):
        op.drop_column("members", column)
    for name, condition in (
        ("members_state", "state IN ('pending', 'active')"),
        ("members_pending_is_guest", "state = 'active' OR (kind = 'guest' AND redemption_id IS NOT NULL)"),
        ("members_active_has_joined", "(state = 'active') = (joined_at IS NOT NULL)"),
    ):
        op.create_check_constraint(name, "members", condition)
    op.alter_column("members", "state", comment="pending confers nothing and is hidden")


def _restore_workspaces() -> None:
    op.drop_constraint("workspace_heads_hash", "workspace_heads", type_="check")
    op.drop_column("workspace_heads", "activity_hash")
    op.drop_column("workspace_heads", "activity_number")
    op.drop_constraint("workspace_heads_workspace_fkey", "workspace_heads", type_="foreignkey")
    op.create_foreign_key(
        "workspace_heads_workspace_fkey", "workspace_heads", "workspaces", ["workspace_id"], ["id"], ondelete="CASCADE"
    )
    op.drop_index("workspaces_archived", "workspaces")
    op.execute("DELETE FROM workspaces WHERE deleted_at IS NOT NULL")
    op.drop_column("workspaces", "deleted_at")
    op.drop_column("workspaces", "archived_at")
