"""The tables of guest's schema."""

from sqlalchemy import (
    ARRAY,
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
    Column("bound_email", Text, comment="normalised; forgotten 30 days after the link's end"),
    Column("bound_domain", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="guest_invites_pkey"),
    UniqueConstraint("token_hash", name="guest_invites_token_hash_key"),
    CheckConstraint("uses >= 0 AND uses <= max_uses", name="guest_invites_uses_check"),
    CheckConstraint("guest_ttl > interval '0'", name="guest_invites_guest_ttl_check"),
    CheckConstraint("num_nonnulls(bound_email, bound_domain) <= 1", name="guest_invites_binding_check"),
    Index("guest_invites_workspace", "workspace_id", "id"),
    Index("guest_invites_made", "workspace_id", "created_at"),
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

# Apart from the uses: who presents a link that is bound to somebody else spends none.
guest_invite_attempts = Table(
    "guest_invite_attempts",
    METADATA,
    Column("invite_id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("attempted_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("invite_id", "user_id", name="guest_invite_attempts_pkey"),
    ForeignKeyConstraint(
        ["invite_id"], ["guest_invites.id"], ondelete="CASCADE", name="guest_invite_attempts_invite_id_fkey"
    ),
    Index("guest_invite_attempts_age", "attempted_at"),
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
    Index("redemptions_decided", "started_at", postgresql_where=text("state <> 'STARTED'")),
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
    Column("ended_at", DateTime(timezone=True), comment="when something else than their time ended them"),
    Column("end_reason", Text, comment="set with ended_at; null means removed"),
    Column("sponsor_gone_at", DateTime(timezone=True), comment="when the sponsor's stay ended"),
    Column(
        "unconfirmed",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="membership is not known to have let them in: if it does not, the link has its use back",
    ),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("member_id", name="guests_pkey"),
    ForeignKeyConstraint(["invite_id"], ["guest_invites.id"], name="guests_invite_id_fkey"),
    UniqueConstraint("expiry_job_id", name="guests_expiry_job_id_key"),
    CheckConstraint("state IN ('ACTIVE', 'LOCKED', 'ENDED')", name="guests_state_check"),
    CheckConstraint("ended_at IS NULL OR state = 'ENDED'", name="guests_ended_at_check"),
    CheckConstraint("grace_end_at >= expire_at", name="guests_grace_end_at_check"),
    CheckConstraint("generation >= 1", name="guests_generation_check"),
    CheckConstraint("end_reason IN ('removed', 'promoted')", name="guests_end_reason_check"),
    CheckConstraint("end_reason IS NULL OR ended_at IS NOT NULL", name="guests_end_reason_with_end_check"),
    Index("guests_person_key", "workspace_id", "user_id", unique=True, postgresql_where=text("ended_at IS NULL")),
    Index("guests_to_lock", "expire_at", postgresql_where=text("state = 'ACTIVE'")),
    Index("guests_to_end", "grace_end_at", postgresql_where=text("state = 'LOCKED'")),
    Index("guests_to_remove", "grace_end_at", postgresql_where=text("state = 'ENDED' AND ended_at IS NULL")),
    Index("guests_invite", "invite_id"),
    Index("guests_workspace", "workspace_id", "member_id"),
    Index("guests_sponsor", "workspace_id", "sponsor_member_id"),
)

guest_grants = Table(
    "guest_grants",
    METADATA,
    Column("member_id", Uuid(as_uuid=False), nullable=False),
    Column("conversation_id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("expire_at", DateTime(timezone=True)),  # null: as long as the guest sees anything
    Column("history_start_at", DateTime(timezone=True)),  # null: the whole history
    PrimaryKeyConstraint("member_id", "conversation_id", name="guest_grants_pkey"),
    ForeignKeyConstraint(["member_id"], ["guests.member_id"], ondelete="CASCADE", name="guest_grants_member_id_fkey"),
    Index("guest_grants_conversation", "conversation_id"),
)

# One for each workspace that has had a link or a guest: it is also what its changes wait for each other by.
guest_policies = Table(
    "guest_policies",
    METADATA,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("grace", Interval, nullable=False, server_default=text("interval '24 hours'")),
    Column("maximum_stay", Interval, nullable=False, server_default=text("interval '8784 hours'")),
    Column("notice_days", ARRAY(Integer), nullable=False, server_default=text("'{14,5,1}'")),
    Column("members_may_invite", Boolean, nullable=False, server_default=text("false")),
    Column("version", BigInteger, nullable=False, server_default=text("1"), comment="the etag"),
    PrimaryKeyConstraint("workspace_id", name="guest_policies_pkey"),
    CheckConstraint("grace BETWEEN interval '0' AND interval '720 hours'", name="guest_policies_grace_check"),
    CheckConstraint(
        "maximum_stay > interval '0' AND maximum_stay <= interval '8784 hours'",
        name="guest_policies_maximum_stay_check",
    ),
    CheckConstraint(
        "cardinality(notice_days) <= 5 AND 1 <= ALL (notice_days) AND 60 >= ALL (notice_days)",
        name="guest_policies_notice_days_check",
    ),
)

# What a change of a policy is still to be brought to the guests who are there.
policy_changes = Table(
    "policy_changes",
    METADATA,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("grace", Interval, comment="the most that anybody keeps; null: their times hold, notices are to be planned"),
    Column("maximum_stay", Interval, comment="the same of their stay; null cuts nobody's"),
    Column(
        "after_member_id",
        Uuid(as_uuid=False),
        nullable=False,
        server_default=text("'00000000-0000-0000-0000-000000000000'"),
        comment="whom it was brought to last, in their order",
    ),
    PrimaryKeyConstraint("workspace_id", name="policy_changes_pkey"),
    CheckConstraint("maximum_stay IS NULL OR grace IS NOT NULL", name="policy_changes_stay_with_grace_check"),
)

guest_notices = Table(
    "guest_notices",
    METADATA,
    # Only a name for the work that sends it; nothing is listed by it.
    Column("id", Uuid(as_uuid=False), nullable=False, server_default=text("gen_random_uuid()")),
    Column("member_id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("generation", Integer, nullable=False, comment="the guest's, when it was planned"),
    Column("kind", Text, nullable=False, comment="expiring_DAYS, locked, ended or removed"),
    Column("recipient", Text, nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("queued_at", DateTime(timezone=True), comment="when the worker was told"),
    Column("sent_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("id", name="guest_notices_pkey"),
    UniqueConstraint("member_id", "generation", "kind", "recipient", name="guest_notices_once_key"),
    ForeignKeyConstraint(["member_id"], ["guests.member_id"], ondelete="CASCADE", name="guest_notices_member_id_fkey"),
    CheckConstraint("recipient IN ('guest', 'sponsor')", name="guest_notices_recipient_check"),
    CheckConstraint("kind ~ '^(expiring_[1-9][0-9]?|locked|ended|removed)$'", name="guest_notices_kind_check"),
    Index("guest_notices_due", "due_at", postgresql_where=text("queued_at IS NULL")),
)

# What took sight away, until membership has raised the workspace's access revision for it.
sight_losses = Table(
    "sight_losses",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("cause", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="sight_losses_pkey"),
    Index("sight_losses_workspace", "workspace_id", "id"),
)

workspace_limits = Table(
    "workspace_limits",
    METADATA,
    Column("workspace_id", Uuid(as_uuid=False), nullable=False),
    Column("name", Text, nullable=False),
    Column("value", Integer, nullable=False),
    PrimaryKeyConstraint("workspace_id", "name", name="workspace_limits_pkey"),
    CheckConstraint("value >= 0", name="workspace_limits_value_check"),
    # As many as messaging answers about in one question.
    CheckConstraint("name <> 'guest_channels' OR value <= 200", name="workspace_limits_channels_check"),
)

add_frame_tables(METADATA)
