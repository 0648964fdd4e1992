"""The tables of guest's schema."""

from sqlalchemy import (
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

METADATA = MetaData()

guest_invites = Table(
    "guest_invites",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("token_hash", LargeBinary, nullable=False),
    Column("created_by_member_id", Uuid(as_uuid=False), nullable=False),
    Column("guest_ttl", Interval, nullable=False, comment="in hours and less: a day would depend on a time zone"),
    Column("max_uses", Integer, comment="null means no limit"),
    Column("uses", Integer, nullable=False, server_default=text("0")),
    Column("expire_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="guest_invites_pkey"),
    UniqueConstraint("token_hash", name="guest_invites_token_hash_key"),
    CheckConstraint("uses >= 0 AND uses <= max_uses", name="guest_invites_uses_check"),
    CheckConstraint("guest_ttl > interval '0'", name="guest_invites_guest_ttl_check"),
    Index("guest_invites_workspace", "workspace_id", "id"),
)

guest_invite_channels = Table(
    "guest_invite_channels",
    METADATA,
    Column("invite_id", Uuid(as_uuid=False), nullable=False),
    Column("conversation_id", Uuid(as_uuid=False), nullable=False),
    PrimaryKeyConstraint("invite_id", "conversation_id", name="guest_invite_channels_pkey"),
    ForeignKeyConstraint(
        ["invite_id"], ["guest_invites.id"], ondelete="CASCADE", name="guest_invite_channels_invite_id_fkey"
    ),
)

redemptions = Table(
    "redemptions",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("invite_id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("state", Text, nullable=False, server_default=text("'STARTED'")),
    Column(
        "started_at", DateTime(timezone=True), nullable=False, server_default=CLOCK, comment="anew when it is taken up"
    ),
    PrimaryKeyConstraint("id", name="redemptions_pkey"),
    ForeignKeyConstraint(["invite_id"], ["guest_invites.id"], ondelete="CASCADE", name="redemptions_invite_id_fkey"),
    CheckConstraint("state IN ('STARTED', 'COMMITTED', 'ABANDONED')", name="redemptions_state_check"),
    # One at a time for a person: two calls of theirs share it, so that only one of them can decide.
    Index(
        "redemptions_started_key", "workspace_id", "user_id", unique=True, postgresql_where=text("state = 'STARTED'")
    ),
    Index("redemptions_started", "started_at", postgresql_where=text("state = 'STARTED'")),
    Index("redemptions_invite", "invite_id"),
)

guests = Table(
    "guests",
    METADATA,
    Column("member_id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("invite_id", Uuid(as_uuid=False), nullable=False),
    Column("sponsor_member_id", Uuid(as_uuid=False), nullable=False),
    Column("expire_at", DateTime(timezone=True), nullable=False),
    Column("grace_end_at", DateTime(timezone=True), nullable=False),
    Column("generation", Integer, nullable=False, server_default=text("1"), comment="raised by each change; the etag"),
    Column("expiry_job_id", Uuid(as_uuid=False), nullable=False, comment="minted anew by each extension"),
    Column("state", Text, nullable=False, server_default=text("'ACTIVE'"), comment="as last seen by the expiry job"),
    Column("ended_at", DateTime(timezone=True), comment="when the member behind it was removed"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("member_id", name="guests_pkey"),
    ForeignKeyConstraint(["invite_id"], ["guest_invites.id"], name="guests_invite_id_fkey"),
    UniqueConstraint("expiry_job_id", name="guests_expiry_job_id_key"),
    CheckConstraint("state IN ('ACTIVE', 'LOCKED', 'ENDED')", name="guests_state_check"),
    CheckConstraint("ended_at IS NULL OR state = 'ENDED'", name="guests_ended_at_check"),
    CheckConstraint("grace_end_at >= expire_at", name="guests_grace_end_at_check"),
    CheckConstraint("generation >= 1", name="guests_generation_check"),
    Index("guests_person_key", "workspace_id", "user_id", unique=True, postgresql_where=text("ended_at IS NULL")),
    Index("guests_to_lock", "expire_at", postgresql_where=text("state = 'ACTIVE'")),
    Index("guests_to_end", "grace_end_at", postgresql_where=text("state = 'LOCKED'")),
    Index("guests_invite", "invite_id"),
)

guest_grants = Table(
    "guest_grants",
    METADATA,
    Column("member_id", Uuid(as_uuid=False), nullable=False),
    Column("conversation_id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("member_id", "conversation_id", name="guest_grants_pkey"),
    ForeignKeyConstraint(["member_id"], ["guests.member_id"], ondelete="CASCADE", name="guest_grants_member_id_fkey"),
    Index("guest_grants_conversation", "conversation_id"),
)

add_frame_tables(METADATA)
