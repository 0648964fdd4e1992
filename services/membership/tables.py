"""The schema `membership`. Locks: the workspaces row first, its workspace_heads row last."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
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

from services.chassis.tables import CLOCK, add_frame_tables

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
    PrimaryKeyConstraint("id", name="workspaces_pkey"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="workspaces_name_length"),
)

# Apart from workspaces, because it is locked at the end of a transaction and the workspace at its beginning.
workspace_heads = Table(
    "workspace_heads",
    METADATA,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("access_revision", BigInteger, nullable=False, server_default=text("1")),
    PrimaryKeyConstraint("workspace_id", name="workspace_heads_pkey"),
    ForeignKeyConstraint(
        ["workspace_id"], ["workspaces.id"], name="workspace_heads_workspace_fkey", ondelete="CASCADE"
    ),
)

members = Table(
    "members",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False, comment="UUIDv7, new at each joining, so the order of joining"),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("role", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False, comment="pending confers nothing and is hidden"),
    Column("redemption_id", Uuid(as_uuid=False), comment="of guest: what the pending member was added under"),
    Column("invitation_id", Uuid(as_uuid=False), comment="which invitation they came through"),
    Column("joined_at", DateTime(timezone=True), comment="empty while pending"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
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
    CheckConstraint("role IN ('admin', 'member', 'viewer')", name="members_role"),
    CheckConstraint("kind IN ('full', 'guest')", name="members_kind"),
    CheckConstraint("state IN ('pending', 'active')", name="members_state"),
    CheckConstraint(
        "state = 'active' OR (kind = 'guest' AND redemption_id IS NOT NULL)", name="members_pending_is_guest"
    ),
    CheckConstraint("kind = 'full' OR role <> 'admin'", name="members_guest_is_no_admin"),
    CheckConstraint("(state = 'active') = (joined_at IS NOT NULL)", name="members_active_has_joined"),
    Index("members_redemption", "redemption_id", unique=True, postgresql_where=text("redemption_id IS NOT NULL")),
    Index("members_invitation", "invitation_id", unique=True, postgresql_where=text("invitation_id IS NOT NULL")),
)

invitations = Table(
    "invitations",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("email", Text, nullable=False, comment="as it was written"),
    Column("normalized_email", Text(collation="C"), nullable=False),
    Column("role", Text, nullable=False),
    Column("token_hash", LargeBinary, nullable=False, comment="the token is derived from the id, and stored nowhere"),
    Column("inviter_member_id", Uuid(as_uuid=False), comment="empty once the sender is gone, and then of no use"),
    Column("expire_at", DateTime(timezone=True), nullable=False),
    Column("accepted_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
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
    CheckConstraint("accepted_at IS NULL OR revoked_at IS NULL", name="invitations_ended_once"),
    Index(
        "invitations_open",
        "workspace_id",
        "normalized_email",
        unique=True,
        postgresql_where=text("accepted_at IS NULL AND revoked_at IS NULL"),
    ),
    Index("invitations_inviter", "workspace_id", "inviter_member_id"),
)

add_frame_tables(METADATA)
