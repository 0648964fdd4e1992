"""Role schemes with the two built-in ones, groups, who is in them, invites and bans (ADR 7)."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

CLOCK = sa.text("statement_timestamp()")

COMMUNITY = "00000000-0000-7000-8000-000000000001"
EDUCATION = "00000000-0000-7000-8000-000000000002"
BUILT_IN = (
    (
        COMMUNITY,
        "community",
        "owner",
        (
            ("owner", 400, ("*",)),
            (
                "admin",
                300,
                (
                    "group.read",
                    "group.manage",
                    "group.members.manage",
                    "group.members.invite",
                    "group.members.ban",
                    "group.moderate",
                    "group.conversations.create",
                    "group.messages.send",
                ),
            ),
            (
                "moderator",
                200,
                (
                    "group.read",
                    "group.members.invite",
                    "group.members.ban",
                    "group.moderate",
                    "group.conversations.create",
                    "group.messages.send",
                ),
            ),
            ("member", 100, ("group.read", "group.messages.send")),
        ),
    ),
    (
        EDUCATION,
        "education",
        "group_admin",
        (
            ("system_admin", 400, ("*",)),
            (
                "group_admin",
                300,
                (
                    "group.read",
                    "group.manage",
                    "group.delete",
                    "group.members.manage",
                    "group.members.invite",
                    "group.members.ban",
                    "group.moderate",
                    "group.conversations.create",
                    "group.messages.send",
                    "settings.manage",
                    "tools.create",
                    "tools.use",
                    "assignments.create",
                    "analytics.view",
                ),
            ),
            (
                "teacher",
                200,
                (
                    "group.read",
                    "group.moderate",
                    "group.conversations.create",
                    "group.messages.send",
                    "tools.create",
                    "tools.use",
                    "assignments.create",
                    "analytics.view",
                ),
            ),
            ("student", 100, ("group.read", "group.messages.send", "tools.use")),
        ),
    ),
)


def upgrade() -> None:
    """Makes the tables."""
    _create_schemes()
    _create_groups()
    _create_group_invites()
    _create_group_members()
    _create_group_bans()
    op.create_foreign_key(
        "members_group_invite_fkey",
        "members",
        "group_invites",
        ["workspace_id", "group_invite_id"],
        ["workspace_id", "id"],
        ondelete="SET NULL (group_invite_id)",
    )
    _add_built_in_schemes()


def _create_schemes() -> None:
    op.create_table(
        "role_schemes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), comment="empty for the built-in ones, which every workspace has"),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("owning_role", sa.Text(), nullable=False),
        sa.Column(
            "version", sa.Integer(), nullable=False, server_default=sa.text("1"), comment="what the etag is made of"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="role_schemes_pkey"),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspaces.id"], name="role_schemes_workspace_fkey", ondelete="CASCADE"
        ),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="role_schemes_name_length"),
    )
    op.create_index("role_schemes_name", "role_schemes", ["workspace_id", "name"], unique=True)
    op.create_table(
        "scheme_roles",
        sa.Column("scheme_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(collation="C"), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("capabilities", sa.ARRAY(sa.Text()), nullable=False, comment="'*' is everything"),
        sa.PrimaryKeyConstraint("scheme_id", "role", name="scheme_roles_pkey"),
        sa.UniqueConstraint("scheme_id", "rank", name="scheme_roles_rank_key", deferrable=True, initially="DEFERRED"),
        sa.ForeignKeyConstraint(
            ["scheme_id"], ["role_schemes.id"], name="scheme_roles_scheme_fkey", ondelete="CASCADE"
        ),
        sa.CheckConstraint("role ~ '^[a-z][a-z0-9_]{0,31}$'", name="scheme_roles_form"),
        sa.CheckConstraint("rank BETWEEN 1 AND 1000", name="scheme_roles_rank"),
    )
    op.create_foreign_key(
        "role_schemes_owning_role_fkey",
        "role_schemes",
        "scheme_roles",
        ["id", "owning_role"],
        ["scheme_id", "role"],
        deferrable=True,
        initially="DEFERRED",
    )


def _create_groups() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.ARRAY(sa.Uuid()), nullable=False, comment="from the topmost group down to itself"),
        sa.Column(
            "parent_path",
            sa.ARRAY(sa.Uuid()),
            sa.Computed("NULLIF(trim_array(path, 1), '{}'::uuid[])", persisted=True),
        ),
        sa.Column("scheme_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("avatar_url", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("archived_at", sa.DateTime(timezone=True), comment="when nobody was left to own it"),
        sa.Column(
            "version", sa.Integer(), nullable=False, server_default=sa.text("1"), comment="what the etag is made of"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="groups_pkey"),
        sa.UniqueConstraint("workspace_id", "id", "scheme_id", name="groups_scheme_key"),
        sa.UniqueConstraint("workspace_id", "path", "scheme_id", name="groups_path_key"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="groups_workspace_fkey", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["scheme_id"], ["role_schemes.id"], name="groups_scheme_fkey"),
        sa.ForeignKeyConstraint(
            ["workspace_id", "parent_path", "scheme_id"],
            ["groups.workspace_id", "groups.path", "groups.scheme_id"],
            name="groups_parent_fkey",
        ),
        sa.CheckConstraint("path[cardinality(path)] = id", name="groups_path_end"),
        sa.CheckConstraint("cardinality(path) BETWEEN 1 AND 32", name="groups_depth"),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="groups_name_length"),
        sa.CheckConstraint("char_length(description) <= 2000", name="groups_description_length"),
        sa.CheckConstraint("char_length(avatar_url) <= 2000", name="groups_avatar_url_length"),
    )
    op.create_index("groups_children", "groups", ["workspace_id", "parent_path", "id"])
    op.create_index("groups_of_scheme", "groups", ["scheme_id"])


def _create_group_invites() -> None:
    op.create_table(
        "group_invites",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("scheme_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(collation="C"), nullable=False),
        sa.Column("workspace_role", sa.Text(), comment="empty: for members of the workspace only"),
        sa.Column(
            "code_hash", sa.LargeBinary(), nullable=False, comment="the code is derived from the id, and stored nowhere"
        ),
        sa.Column("created_by_member_id", sa.Uuid(), comment="empty once they are gone, and then of no use"),
        sa.Column("max_uses", sa.Integer(), comment="empty means no limit"),
        sa.Column("uses", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("expire_at", sa.DateTime(timezone=True), comment="empty: until it is revoked"),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="group_invites_pkey"),
        sa.UniqueConstraint("workspace_id", "id", name="group_invites_workspace_id_key"),
        sa.UniqueConstraint("code_hash", name="group_invites_code_hash_key"),
        sa.ForeignKeyConstraint(
            ["workspace_id", "group_id", "scheme_id"],
            ["groups.workspace_id", "groups.id", "groups.scheme_id"],
            name="group_invites_group_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["scheme_id", "role"], ["scheme_roles.scheme_id", "scheme_roles.role"], name="group_invites_role_fkey"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "created_by_member_id"],
            ["members.workspace_id", "members.id"],
            name="group_invites_created_by_fkey",
            ondelete="SET NULL (created_by_member_id)",
        ),
        sa.CheckConstraint("workspace_role IN ('viewer', 'member')", name="group_invites_workspace_role"),
        sa.CheckConstraint("max_uses >= 1", name="group_invites_max_uses"),
        sa.CheckConstraint("uses >= 0 AND uses <= max_uses", name="group_invites_uses"),
    )
    op.create_index("group_invites_group", "group_invites", ["workspace_id", "group_id", "id"])
    op.create_index("group_invites_role", "group_invites", ["scheme_id", "role"])
    op.create_index("group_invites_created_by", "group_invites", ["workspace_id", "created_by_member_id"])


def _create_group_members() -> None:
    op.create_table(
        "group_members",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("scheme_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(collation="C"), nullable=False),
        sa.Column("group_invite_id", sa.Uuid(), comment="which invite they came through"),
        sa.Column(
            "version", sa.Integer(), nullable=False, server_default=sa.text("1"), comment="what the etag is made of"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="group_members_pkey"),
        sa.UniqueConstraint("group_id", "member_id", name="group_members_member_key"),
        sa.ForeignKeyConstraint(
            ["workspace_id", "group_id", "scheme_id"],
            ["groups.workspace_id", "groups.id", "groups.scheme_id"],
            name="group_members_group_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "member_id"],
            ["members.workspace_id", "members.id"],
            name="group_members_member_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["scheme_id", "role"], ["scheme_roles.scheme_id", "scheme_roles.role"], name="group_members_role_fkey"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "group_invite_id"],
            ["group_invites.workspace_id", "group_invites.id"],
            name="group_members_invite_fkey",
            ondelete="SET NULL (group_invite_id)",
        ),
    )
    op.create_index("group_members_of_member", "group_members", ["member_id", "group_id"])
    op.create_index("group_members_role", "group_members", ["scheme_id", "role", "group_id"])
    op.create_index(
        "group_members_invite",
        "group_members",
        ["workspace_id", "group_invite_id"],
        postgresql_where=sa.text("group_invite_id IS NOT NULL"),
    )


def _create_group_bans() -> None:
    op.create_table(
        "group_bans",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.Uuid(), nullable=False),
        sa.Column("scheme_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False, comment="member or not"),
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
        sa.PrimaryKeyConstraint("id", name="group_bans_pkey"),
        sa.UniqueConstraint("group_id", "user_id", name="group_bans_user_key"),
        sa.ForeignKeyConstraint(
            ["workspace_id", "group_id", "scheme_id"],
            ["groups.workspace_id", "groups.id", "groups.scheme_id"],
            name="group_bans_group_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "banned_by_member_id"],
            ["members.workspace_id", "members.id"],
            name="group_bans_banned_by_fkey",
            ondelete="SET NULL (banned_by_member_id)",
        ),
        sa.CheckConstraint("char_length(reason) <= 500", name="group_bans_reason_length"),
    )
    op.create_index("group_bans_of_user", "group_bans", ["user_id", "workspace_id", "group_id"])
    op.create_index("group_bans_banned_by", "group_bans", ["workspace_id", "banned_by_member_id"])
    op.create_index("group_bans_listed", "group_bans", ["workspace_id", "group_id", "id"])


def _add_built_in_schemes() -> None:
    scheme = sa.text("INSERT INTO role_schemes (id, name, owning_role) VALUES (CAST(:id AS uuid), :name, :owning_role)")
    role = sa.text(
        "INSERT INTO scheme_roles (scheme_id, role, rank, capabilities) VALUES (CAST(:id AS uuid), :role, :rank, CAST(:capabilities AS text[]))"
    )
    for scheme_id, name, owning_role, roles in BUILT_IN:
        op.execute(scheme.bindparams(id=scheme_id, name=name, owning_role=owning_role))
        for each, rank, capabilities in roles:
            op.execute(role.bindparams(id=scheme_id, role=each, rank=rank, capabilities=list(capabilities)))
    # What is deferred must be done before the next migration alters these tables.
    op.execute("SET CONSTRAINTS ALL IMMEDIATE")


def downgrade() -> None:
    """Drops them."""
    op.drop_constraint("members_group_invite_fkey", "members", type_="foreignkey")
    op.drop_constraint("role_schemes_owning_role_fkey", "role_schemes", type_="foreignkey")
    for table in ("group_bans", "group_members", "group_invites", "groups", "scheme_roles", "role_schemes"):
        op.drop_table(table)
