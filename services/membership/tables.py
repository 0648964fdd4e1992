"""The schema `membership`; groups and activities are in modules of their own.

Locks: the workspaces row first, its workspace_heads row last; no transaction locks two workspaces.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from services.chassis.tables import CLOCK, add_frame_tables
from services.membership.activity_tables import ACTIVITIES
from services.membership.group_tables import GROUPS

METADATA = MetaData()

workspaces = Table(
    "workspaces",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("name", Text, nullable=False),
    Column("created_by", Uuid(as_uuid=False), comment="user id; empty once that person is deleted"),
    Column("version", Integer, nullable=False, server_default=text("1"), comment="what the etag is made of"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("archived_at", DateTime(timezone=True), comment="when nobody was left to run it"),
    Column("deleted_at", DateTime(timezone=True), comment="from then on nobody is a member; the row stays, nameless"),
    Column("message_edit_window", Interval, comment="in days of 24 h; empty: messages are edited without limit"),
    PrimaryKeyConstraint("id", name="workspaces_pkey"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="workspaces_name_length"),
    CheckConstraint(
        "message_edit_window BETWEEN interval '0' AND interval '366 days'", name="workspaces_message_edit_window"
    ),
    Index("workspaces_archived", "id", postgresql_where=text("archived_at IS NOT NULL AND deleted_at IS NULL")),
    Index("workspaces_created_by", "created_by", postgresql_where=text("created_by IS NOT NULL")),
)

# Apart from workspaces, because it is locked at the end of a transaction and the workspace at its beginning.
workspace_heads = Table(
    "workspace_heads",
    METADATA,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("access_revision", BigInteger, nullable=False, server_default=text("1")),
    Column("activity_number", BigInteger, nullable=False, server_default=text("0"), comment="of the newest activity"),
    Column("activity_hash", LargeBinary, comment="the newest activity's"),
    PrimaryKeyConstraint("workspace_id", name="workspace_heads_pkey"),
    # No CASCADE: the chain outlives what it tells of.
    ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="workspace_heads_workspace_fkey"),
    CheckConstraint("(activity_number = 0) = (activity_hash IS NULL)", name="workspace_heads_hash"),
)

members = Table(
    "members",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False, comment="UUIDv7, new at each joining, so the order of joining"),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("role", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, comment="pending and suspended confer nothing"),
    Column("redemption_id", Uuid(as_uuid=False), comment="of guest: what the pending member was added under"),
    Column("invitation_id", Uuid(as_uuid=False), comment="which invitation they came through"),
    Column("joined_at", DateTime(timezone=True), comment="empty while pending"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("group_invite_id", Uuid(as_uuid=False), comment="which code they came into the workspace by"),
    Column("inviter_member_id", Uuid(as_uuid=False), comment="who invited them"),
    Column("title", Text, nullable=False, server_default=text("''")),
    Column("suspended_at", DateTime(timezone=True)),
    Column("version", Integer, nullable=False, server_default=text("1"), comment="what the etag is made of"),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="members_pkey"),
    UniqueConstraint("workspace_id", "user_id", name="members_workspace_user_key"),
    # For pages in the order of joining, and for references that cannot leave the workspace.
    UniqueConstraint("workspace_id", "id", name="members_workspace_id_key"),
    ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="members_workspace_fkey", ondelete="CASCADE"),
    ForeignKeyConstraint(
        ["workspace_id", "invitation_id"],
        ["invitations.workspace_id", "invitations.id"],
        name="members_invitation_fkey",
        ondelete="SET NULL (invitation_id)",
        use_alter=True,
    ),
    ForeignKeyConstraint(
        ["workspace_id", "group_invite_id"],
        ["group_invites.workspace_id", "group_invites.id"],
        name="members_group_invite_fkey",
        ondelete="SET NULL (group_invite_id)",
        use_alter=True,
    ),
    ForeignKeyConstraint(
        ["workspace_id", "inviter_member_id"],
        ["members.workspace_id", "members.id"],
        name="members_inviter_fkey",
        ondelete="SET NULL (inviter_member_id)",
    ),
    CheckConstraint("role IN ('admin', 'member', 'viewer')", name="members_role"),
    CheckConstraint("kind IN ('full', 'guest')", name="members_kind"),
    CheckConstraint("state IN ('pending', 'active', 'suspended')", name="members_state"),
    CheckConstraint(
        "state <> 'pending' OR (kind = 'guest' AND redemption_id IS NOT NULL)", name="members_pending_is_guest"
    ),
    CheckConstraint("kind = 'full' OR role <> 'admin'", name="members_guest_is_no_admin"),
    CheckConstraint("(state <> 'pending') = (joined_at IS NOT NULL)", name="members_joined_unless_pending"),
    CheckConstraint("(state = 'suspended') = (suspended_at IS NOT NULL)", name="members_suspended_since"),
    CheckConstraint("char_length(title) <= 100", name="members_title_length"),
    CheckConstraint("num_nonnulls(invitation_id, group_invite_id) <= 1", name="members_came_one_way"),
    Index("members_user", "user_id", "workspace_id"),
    Index("members_admins", "workspace_id", "id", postgresql_where=text("role = 'admin' AND state = 'active'")),
    Index(
        "members_group_invite",
        "workspace_id",
        "group_invite_id",
        postgresql_where=text("group_invite_id IS NOT NULL"),
    ),
    Index(
        "members_inviter", "workspace_id", "inviter_member_id", postgresql_where=text("inviter_member_id IS NOT NULL")
    ),
    Index("members_redemption", "redemption_id", unique=True, postgresql_where=text("redemption_id IS NOT NULL")),
    Index("members_invitation", "invitation_id", unique=True, postgresql_where=text("invitation_id IS NOT NULL")),
)

invitations = Table(
    "invitations",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("email", Text, comment="as it was written; forgotten 30 days after the invitation's time"),
    Column("normalized_email", Text(collation="C")),
    Column("role", Text, nullable=False),
    Column("token_hash", LargeBinary, nullable=False, comment="the token is derived, and stored nowhere"),
    Column("inviter_member_id", Uuid(as_uuid=False), comment="empty once the sender is gone, and then of no use"),
    Column("expire_at", DateTime(timezone=True), nullable=False),
    Column("accepted_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("declined_at", DateTime(timezone=True)),
    Column("rotation", Integer, nullable=False, server_default=text("0"), comment="how often it was resent"),
    Column("sent_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="invitations_pkey"),
    UniqueConstraint("workspace_id", "id", name="invitations_workspace_id_key"),
    UniqueConstraint("token_hash", name="invitations_token_hash_key"),
    ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="invitations_workspace_fkey", ondelete="CASCADE"),
    # The row outlives its sender, so that who accepted it still shows where they came from.
    ForeignKeyConstraint(
        ["workspace_id", "inviter_member_id"],
        ["members.workspace_id", "members.id"],
        name="invitations_inviter_fkey",
        ondelete="SET NULL (inviter_member_id)",
    ),
    CheckConstraint("role IN ('admin', 'member', 'viewer')", name="invitations_role"),
    CheckConstraint("num_nonnulls(accepted_at, revoked_at, declined_at) <= 1", name="invitations_ended_once"),
    CheckConstraint("(email IS NULL) = (normalized_email IS NULL)", name="invitations_email"),
    CheckConstraint("rotation >= 0", name="invitations_rotation"),
    Index(
        "invitations_open",
        "workspace_id",
        "normalized_email",
        unique=True,
        postgresql_where=text("accepted_at IS NULL AND revoked_at IS NULL AND declined_at IS NULL"),
    ),
    Index("invitations_inviter", "workspace_id", "inviter_member_id"),
    Index("invitations_sent", "workspace_id", "sent_at"),
    Index("invitations_to_forget", "expire_at", postgresql_where=text("email IS NOT NULL")),
)

workspace_bans = Table(
    "workspace_bans",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), comment="member or not"),
    Column("email", Text, comment="as it was written"),
    Column("normalized_email", Text(collation="C")),
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
    PrimaryKeyConstraint("id", name="workspace_bans_pkey"),
    ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="workspace_bans_workspace_fkey", ondelete="CASCADE"),
    ForeignKeyConstraint(
        ["workspace_id", "banned_by_member_id"],
        ["members.workspace_id", "members.id"],
        name="workspace_bans_banned_by_fkey",
        ondelete="SET NULL (banned_by_member_id)",
    ),
    CheckConstraint("num_nonnulls(user_id, normalized_email) = 1", name="workspace_bans_subject"),
    CheckConstraint("(email IS NULL) = (normalized_email IS NULL)", name="workspace_bans_email"),
    CheckConstraint("char_length(reason) <= 500", name="workspace_bans_reason_length"),
    Index("workspace_bans_user", "workspace_id", "user_id", unique=True),
    Index("workspace_bans_address", "workspace_id", "normalized_email", unique=True),
    Index("workspace_bans_of_user", "user_id", postgresql_where=text("user_id IS NOT NULL")),
    Index("workspace_bans_banned_by", "workspace_id", "banned_by_member_id"),
    Index("workspace_bans_listed", "workspace_id", "id"),
)

user_groups = Table(
    "user_groups",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("version", Integer, nullable=False, server_default=text("1"), comment="of its members too"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="user_groups_pkey"),
    UniqueConstraint("workspace_id", "id", name="user_groups_workspace_id_key"),
    ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="user_groups_workspace_fkey", ondelete="CASCADE"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="user_groups_name_length"),
    CheckConstraint("char_length(description) <= 2000", name="user_groups_description_length"),
)

user_group_members = Table(
    "user_group_members",
    METADATA,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("user_group_id", Uuid(as_uuid=False), nullable=False),
    Column("member_id", Uuid(as_uuid=False), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("user_group_id", "member_id", name="user_group_members_pkey"),
    ForeignKeyConstraint(
        ["workspace_id", "user_group_id"],
        ["user_groups.workspace_id", "user_groups.id"],
        name="user_group_members_user_group_fkey",
        ondelete="CASCADE",
    ),
    ForeignKeyConstraint(
        ["workspace_id", "member_id"],
        ["members.workspace_id", "members.id"],
        name="user_group_members_member_fkey",
        ondelete="CASCADE",
    ),
    Index("user_group_members_member", "workspace_id", "member_id", "user_group_id"),
)

# One namespace for people and user groups. A row without a holder is a tombstone.
handles = Table(
    "handles",
    METADATA,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("handle", Text(collation="C"), nullable=False),
    Column("member_id", Uuid(as_uuid=False)),
    Column("user_group_id", Uuid(as_uuid=False)),
    Column("released_at", DateTime(timezone=True), comment="reserved for 30 days from then on"),
    Column("former_user_id", Uuid(as_uuid=False), comment="the person for whom it is reserved"),
    PrimaryKeyConstraint("workspace_id", "handle", name="handles_pkey"),
    ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="handles_workspace_fkey", ondelete="CASCADE"),
    # No CASCADE: a handle that went with its holder would leave no tombstone. It is released first.
    ForeignKeyConstraint(
        ["workspace_id", "member_id"], ["members.workspace_id", "members.id"], name="handles_member_fkey"
    ),
    ForeignKeyConstraint(
        ["workspace_id", "user_group_id"],
        ["user_groups.workspace_id", "user_groups.id"],
        name="handles_user_group_fkey",
    ),
    CheckConstraint("handle ~ '^[a-z0-9._-]{2,32}$'", name="handles_form"),
    CheckConstraint("handle NOT IN ('here', 'channel', 'everyone', 'all')", name="handles_reserved"),
    CheckConstraint(
        "num_nonnulls(member_id, user_group_id) = CASE WHEN released_at IS NULL THEN 1 ELSE 0 END",
        name="handles_holder",
    ),
    CheckConstraint("former_user_id IS NULL OR released_at IS NOT NULL", name="handles_former"),
    Index("handles_member", "workspace_id", "member_id", unique=True),
    Index("handles_user_group", "workspace_id", "user_group_id", unique=True),
    Index("handles_former_user", "former_user_id", postgresql_where=text("former_user_id IS NOT NULL")),
    Index("handles_released", "released_at", postgresql_where=text("released_at IS NOT NULL")),
)

# Where an operator allows a workspace more or less than limits.py says.
workspace_limits = Table(
    "workspace_limits",
    METADATA,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("name", Text, nullable=False),
    Column("value", Integer, nullable=False),
    PrimaryKeyConstraint("workspace_id", "name", name="workspace_limits_pkey"),
    ForeignKeyConstraint(
        ["workspace_id"], ["workspaces.id"], name="workspace_limits_workspace_fkey", ondelete="CASCADE"
    ),
    CheckConstraint("value >= 0", name="workspace_limits_value"),
)

# A call that was let in before its caller was deleted may still be on its way: nobody in here joins or is named.
departed_users = Table(
    "departed_users",
    METADATA,
    Column("user_id", Uuid(as_uuid=False), nullable=False, comment="identity has deleted them; forgotten after 7 days"),
    Column("departed_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("user_id", name="departed_users_pkey"),
    Index("departed_users_at", "departed_at"),
)

# Somebody who was never disabled has no row.
disabled_users = Table(
    "disabled_users",
    METADATA,
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("is_disabled", Boolean, nullable=False, comment="no: enabled again"),
    Column("revision", BigInteger, nullable=False, comment="identity's: an older event changes nothing"),
    PrimaryKeyConstraint("user_id", name="disabled_users_pkey"),
)

# Each mail of an invitation is three rows: of its workspace, its sender and its recipient.
daily_uses = Table(
    "daily_uses",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("subject", LargeBinary, nullable=False, comment="the hash of a limit's name and whose it is"),
    Column("used_at", DateTime(timezone=True), nullable=False, server_default=CLOCK, comment="forgotten after 24 h"),
    PrimaryKeyConstraint("id", name="daily_uses_pkey"),
    Index("daily_uses_subject", "subject", "used_at"),
    Index("daily_uses_old", "used_at"),
)

for table in (*GROUPS.tables.values(), *ACTIVITIES.tables.values()):
    table.to_metadata(METADATA)

add_frame_tables(METADATA)
