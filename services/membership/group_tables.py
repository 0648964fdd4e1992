"""The tables of groups: role schemes, the tree, who is in it, invites and bans (ADR 7)."""

from sqlalchemy import (
    ARRAY,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from services.chassis.tables import CLOCK

GROUPS = MetaData()

role_schemes = Table(
    "role_schemes",
    GROUPS,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), comment="empty for the built-in ones, which every workspace has"),
    Column("name", Text(collation="C"), nullable=False),
    Column("owning_role", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1"), comment="what the etag is made of"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="role_schemes_pkey"),
    ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="role_schemes_workspace_fkey", ondelete="CASCADE"),
    # Deferred: scheme and roles refer to each other, and roles are replaced in more than one statement.
    ForeignKeyConstraint(
        ["id", "owning_role"],
        ["scheme_roles.scheme_id", "scheme_roles.role"],
        name="role_schemes_owning_role_fkey",
        deferrable=True,
        initially="DEFERRED",
        use_alter=True,
    ),
    CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="role_schemes_name_length"),
    Index("role_schemes_name", "workspace_id", "name", unique=True),
)

scheme_roles = Table(
    "scheme_roles",
    GROUPS,
    Column("scheme_id", Uuid(as_uuid=False), nullable=False),
    Column("role", Text(collation="C"), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("capabilities", ARRAY(Text), nullable=False, comment="'*' is everything"),
    PrimaryKeyConstraint("scheme_id", "role", name="scheme_roles_pkey"),
    UniqueConstraint("scheme_id", "rank", name="scheme_roles_rank_key", deferrable=True, initially="DEFERRED"),
    ForeignKeyConstraint(["scheme_id"], ["role_schemes.id"], name="scheme_roles_scheme_fkey", ondelete="CASCADE"),
    CheckConstraint("role ~ '^[a-z][a-z0-9_]{0,31}$'", name="scheme_roles_form"),
    CheckConstraint("rank BETWEEN 1 AND 1000", name="scheme_roles_rank"),
)

groups = Table(
    "groups",
    GROUPS,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("path", ARRAY(Uuid(as_uuid=False)), nullable=False, comment="from the topmost group down to itself"),
    Column(
        "parent_path",
        ARRAY(Uuid(as_uuid=False)),
        Computed("NULLIF(trim_array(path, 1), '{}'::uuid[])", persisted=True),
    ),
    Column("scheme_id", Uuid(as_uuid=False), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("avatar_url", Text, nullable=False, server_default=text("''")),
    Column("archived_at", DateTime(timezone=True), comment="when nobody was left to own it"),
    Column("version", Integer, nullable=False, server_default=text("1"), comment="what the etag is made of"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="groups_pkey"),
    UniqueConstraint("workspace_id", "id", "scheme_id", name="groups_scheme_key"),
    # Also the order of ListDescendants: a subtree is one range of it.
    UniqueConstraint("workspace_id", "path", "scheme_id", name="groups_path_key"),
    ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="groups_workspace_fkey", ondelete="CASCADE"),
    ForeignKeyConstraint(["scheme_id"], ["role_schemes.id"], name="groups_scheme_fkey"),
    # With groups_path_end: what is above a group is a group, of the same scheme, and a cycle cannot be written down.
    ForeignKeyConstraint(
        ["workspace_id", "parent_path", "scheme_id"],
        ["groups.workspace_id", "groups.path", "groups.scheme_id"],
        name="groups_parent_fkey",
    ),
    CheckConstraint("path[cardinality(path)] = id", name="groups_path_end"),
    CheckConstraint("cardinality(path) BETWEEN 1 AND 32", name="groups_depth"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="groups_name_length"),
    CheckConstraint("char_length(description) <= 2000", name="groups_description_length"),
    CheckConstraint("char_length(avatar_url) <= 2000", name="groups_avatar_url_length"),
    Index("groups_children", "workspace_id", "parent_path", "id"),
    Index("groups_of_scheme", "scheme_id"),
)

group_members = Table(
    "group_members",
    GROUPS,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("group_id", Uuid(as_uuid=False), nullable=False),
    Column("member_id", Uuid(as_uuid=False), nullable=False),
    Column("scheme_id", Uuid(as_uuid=False), nullable=False),
    Column("role", Text(collation="C"), nullable=False),
    Column("group_invite_id", Uuid(as_uuid=False), comment="which invite they came through"),
    Column("version", Integer, nullable=False, server_default=text("1"), comment="what the etag is made of"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="group_members_pkey"),
    UniqueConstraint("group_id", "member_id", name="group_members_member_key"),
    ForeignKeyConstraint(
        ["workspace_id", "group_id", "scheme_id"],
        ["groups.workspace_id", "groups.id", "groups.scheme_id"],
        name="group_members_group_fkey",
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["workspace_id", "member_id"],
        ["members.workspace_id", "members.id"],
        name="group_members_member_fkey",
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["scheme_id", "role"], ["scheme_roles.scheme_id", "scheme_roles.role"], name="group_members_role_fkey"
    ),
    ForeignKeyConstraint(
        ["workspace_id", "group_invite_id"],
        ["group_invites.workspace_id", "group_invites.id"],
        name="group_members_invite_fkey",
        ondelete="SET NULL (group_invite_id)",
    ),
    # By the member first, and no longer than that: what somebody holds in ten groups is one descent, not ten.
    Index("group_members_of_member", "member_id", "group_id"),
    Index("group_members_role", "scheme_id", "role", "group_id"),
    Index(
        "group_members_invite",
        "workspace_id",
        "group_invite_id",
        postgresql_where=text("group_invite_id IS NOT NULL"),
    ),
)

group_invites = Table(
    "group_invites",
    GROUPS,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("group_id", Uuid(as_uuid=False), nullable=False),
    Column("scheme_id", Uuid(as_uuid=False), nullable=False),
    Column("role", Text(collation="C"), nullable=False),
    Column("workspace_role", Text, comment="empty: for members of the workspace only"),
    Column("code_hash", LargeBinary, nullable=False, comment="the code is derived from the id, and stored nowhere"),
    Column("created_by_member_id", Uuid(as_uuid=False), comment="empty once they are gone, and then of no use"),
    Column("max_uses", Integer, comment="empty means no limit"),
    Column("uses", Integer, nullable=False, server_default=text("0")),
    Column("expire_at", DateTime(timezone=True), comment="empty: until it is revoked"),
    Column("revoked_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="group_invites_pkey"),
    UniqueConstraint("workspace_id", "id", name="group_invites_workspace_id_key"),
    UniqueConstraint("code_hash", name="group_invites_code_hash_key"),
    ForeignKeyConstraint(
        ["workspace_id", "group_id", "scheme_id"],
        ["groups.workspace_id", "groups.id", "groups.scheme_id"],
        name="group_invites_group_fkey",
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["scheme_id", "role"], ["scheme_roles.scheme_id", "scheme_roles.role"], name="group_invites_role_fkey"
    ),
    ForeignKeyConstraint(
        ["workspace_id", "created_by_member_id"],
        ["members.workspace_id", "members.id"],
        name="group_invites_created_by_fkey",
        ondelete="SET NULL (created_by_member_id)",
    ),
    CheckConstraint("workspace_role IN ('viewer', 'member')", name="group_invites_workspace_role"),
    CheckConstraint("max_uses >= 1", name="group_invites_max_uses"),
    CheckConstraint("uses >= 0 AND uses <= max_uses", name="group_invites_uses"),
    Index("group_invites_group", "workspace_id", "group_id", "id"),
    Index("group_invites_role", "scheme_id", "role"),
    Index("group_invites_created_by", "workspace_id", "created_by_member_id"),
)

group_bans = Table(
    "group_bans",
    GROUPS,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("group_id", Uuid(as_uuid=False), nullable=False),
    Column("scheme_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False, comment="member or not"),
    Column("reason", Text, nullable=False, server_default=text("''")),
    Column("banned_by_member_id", Uuid(as_uuid=False), comment="empty once they are gone"),
    Column("expire_at", DateTime(timezone=True), comment="empty: until it is lifted"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column(
        "was_member",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="when banned, as far as who banned could see; only then is their name shown",
    ),
    PrimaryKeyConstraint("id", name="group_bans_pkey"),
    UniqueConstraint("group_id", "user_id", name="group_bans_user_key"),
    ForeignKeyConstraint(
        ["workspace_id", "group_id", "scheme_id"],
        ["groups.workspace_id", "groups.id", "groups.scheme_id"],
        name="group_bans_group_fkey",
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["workspace_id", "banned_by_member_id"],
        ["members.workspace_id", "members.id"],
        name="group_bans_banned_by_fkey",
        ondelete="SET NULL (banned_by_member_id)",
    ),
    CheckConstraint("char_length(reason) <= 500", name="group_bans_reason_length"),
    Index("group_bans_of_user", "user_id", "workspace_id", "group_id"),
    Index("group_bans_banned_by", "workspace_id", "banned_by_member_id"),
    Index("group_bans_listed", "workspace_id", "group_id", "id"),
)
