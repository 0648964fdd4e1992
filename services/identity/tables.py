"""identity's tables; the migrations say the same, and a test compares the two."""

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

users = Table(
    "users",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("email", Text, nullable=False, comment="as it was written"),
    Column("normalized_email", Text(collation="C"), nullable=False, comment="NFKC, trimmed, casefolded"),
    Column("name", Text, nullable=False),
    Column("password_hash", Text, comment="Argon2id; none before verification, or without a password"),
    Column("email_verified_at", DateTime(timezone=True)),
    Column("disabled_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("image_url", Text, nullable=False, server_default=""),
    Column("administrator_since", DateTime(timezone=True), comment="a system administrator from then on"),
    Column("revision", BigInteger, nullable=False, server_default=text("1"), comment="etag"),
    Column(
        "is_claim",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="signed up and never proven: nobody yet, as far as back ends can see",
    ),
    Column("app_acted_at", DateTime(timezone=True), comment="an app's key could sign them in: since when"),
    PrimaryKeyConstraint("id", name="users_pkey"),
    UniqueConstraint("normalized_email", name="users_normalized_email_key"),
    Index("users_claims", "updated_at", postgresql_where=text("is_claim")),
    Index("users_administrators", "id", postgresql_where=text("administrator_since IS NOT NULL")),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), comment="none: of somebody who was deleted"),
    Column("device_label", Text, nullable=False),
    Column("client_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("refreshed_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("idle_expire_at", DateTime(timezone=True), nullable=False, comment="moves at each refresh"),
    Column("absolute_expire_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("ended_reason", Text),
    Column(
        "last_used_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=CLOCK,
        comment="written at most once a minute",
    ),
    Column(
        "from_adapter",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="its token is the framework's and never rotates",
    ),
    Column(
        "has_tokens", Boolean, nullable=False, server_default=text("true"), comment="some may be left to be forgotten"
    ),
    PrimaryKeyConstraint("id", name="sessions_pkey"),
    ForeignKeyConstraint(["user_id"], ["users.id"], name="sessions_user_id_fkey", ondelete="CASCADE"),
    # So that idle_expire_at alone decides.
    CheckConstraint("idle_expire_at <= absolute_expire_at", name="sessions_idle_check"),
    CheckConstraint("(ended_at IS NULL) = (ended_reason IS NULL)", name="sessions_ended_check"),
    CheckConstraint(
        "ended_reason IN ('signed_out', 'token_reuse', 'revoked', 'password_changed', 'password_reset',"
        " 'user_disabled', 'adapter_deleted')",
        name="sessions_ended_reason_check",
    ),
    Index("sessions_user_id", "user_id"),
    Index("sessions_idle_expire_at", "idle_expire_at"),
    Index("sessions_with_tokens", "idle_expire_at", postgresql_where=text("has_tokens")),
    # All that CheckSessions reads of a session.
    Index(
        "sessions_alive",
        "id",
        postgresql_include=["user_id", "idle_expire_at"],
        postgresql_where=text("ended_at IS NULL"),
    ),
)

session_tokens = Table(
    "session_tokens",
    METADATA,
    Column("token_hash", LargeBinary, nullable=False),
    Column("session_id", Uuid(as_uuid=False), nullable=False),
    Column("generation", Integer, nullable=False, comment="1 for the token of the sign-in"),
    Column("claimed_at", DateTime(timezone=True), comment="when it was exchanged for its successor"),
    PrimaryKeyConstraint("token_hash", name="session_tokens_pkey"),
    UniqueConstraint("session_id", "generation", name="session_tokens_generation_key"),
    ForeignKeyConstraint(["session_id"], ["sessions.id"], name="session_tokens_session_id_fkey", ondelete="CASCADE"),
    CheckConstraint("generation >= 1", name="session_tokens_generation_check"),
)

verification_tokens = Table(
    "verification_tokens",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), comment="none for unknown_address"),
    Column(
        "purpose",
        Text,
        nullable=False,
        comment="known_address: the address was verified before, unknown_address: nobody has it; good for nothing",
    ),
    Column("token_hash", LargeBinary, nullable=False),
    Column("pending_password_hash", Text, comment="becomes the user's on verification"),
    Column("pending_name", Text, comment="likewise"),
    Column("pending_email", Text, comment="change_email: as it was written"),
    Column("previous_email", Text, comment="change_email: set at use, for the mail that tells the old one"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("expire_at", DateTime(timezone=True), nullable=False),
    Column("used_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("id", name="verification_tokens_pkey"),
    UniqueConstraint("token_hash", name="verification_tokens_token_hash_key"),
    ForeignKeyConstraint(["user_id"], ["users.id"], name="verification_tokens_user_id_fkey", ondelete="CASCADE"),
    CheckConstraint(
        "purpose IN ('verify_email', 'known_address', 'email_sign_in', 'reset_password', 'change_email',"
        " 'unknown_address')",
        name="verification_tokens_purpose_check",
    ),
    CheckConstraint(
        "used_at IS NULL OR purpose NOT IN ('known_address', 'unknown_address')", name="verification_tokens_used_check"
    ),
    CheckConstraint("(user_id IS NULL) = (purpose = 'unknown_address')", name="verification_tokens_user_check"),
    CheckConstraint("(pending_email IS NOT NULL) = (purpose = 'change_email')", name="verification_tokens_email_check"),
    Index("verification_tokens_user_id", "user_id", "created_at"),
    Index("verification_tokens_expire_at", "expire_at", postgresql_where=text("used_at IS NULL")),
    Index("verification_tokens_used_at", "used_at", postgresql_where=text("used_at IS NOT NULL")),
)

accounts = Table(
    "accounts",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("type", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("provider_account_id", Text, nullable=False),
    Column("sealed_refresh_token", LargeBinary),
    Column("sealed_access_token", LargeBinary),
    Column("sealed_id_token", LargeBinary),
    Column("sealed_by", LargeBinary, comment="which of the provider keys; none if there is nothing sealed"),
    Column("expires_at", BigInteger, comment="of the access token, seconds since 1970, as the provider says"),
    Column("token_type", Text),
    Column("scope", Text),
    Column("session_state", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="accounts_pkey"),
    UniqueConstraint("provider", "provider_account_id", name="accounts_provider_key"),
    ForeignKeyConstraint(["user_id"], ["users.id"], name="accounts_user_id_fkey", ondelete="CASCADE"),
    CheckConstraint(
        "(sealed_by IS NULL) = (coalesce(sealed_refresh_token, sealed_access_token, sealed_id_token) IS NULL)",
        name="accounts_sealed_by_check",
    ),
    Index("accounts_user_id", "user_id", "id"),
    Index("accounts_sealed_by", "sealed_by"),
)

adapter_verification_tokens = Table(
    "adapter_verification_tokens",
    METADATA,
    Column("identifier", Text(collation="C"), nullable=False, comment="most often an e-mail address"),
    Column("token_hash", LargeBinary, nullable=False),
    Column("expire_at", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("identifier", "token_hash", name="adapter_verification_tokens_pkey"),
    Index("adapter_verification_tokens_expire_at", "expire_at"),
)

open_invites = Table(
    "open_invites",
    METADATA,
    Column("token_hash", LargeBinary, nullable=False, comment="of an invitation's or guest link's secret"),
    Column("expire_at", DateTime(timezone=True), nullable=False),
    Column(
        "closed",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="no opening that comes late counts",
    ),
    PrimaryKeyConstraint("token_hash", name="open_invites_pkey"),
    Index("open_invites_expire_at", "expire_at"),
)

service_accounts = Table(
    "service_accounts",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("workspace_ids", ARRAY(Uuid(as_uuid=False)), nullable=False, comment="empty: bound to none"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="service_accounts_pkey"),
    CheckConstraint("cardinality(scopes) BETWEEN 1 AND 20", name="service_accounts_scopes_check"),
    CheckConstraint("cardinality(workspace_ids) <= 20", name="service_accounts_workspaces_check"),
)

service_keys = Table(
    "service_keys",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("service_account_id", Uuid(as_uuid=False), nullable=False),
    Column("key_hash", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("last_used_at", DateTime(timezone=True), comment="written at most once a minute"),
    Column("revoked_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("id", name="service_keys_pkey"),
    UniqueConstraint("key_hash", name="service_keys_key_hash_key"),
    ForeignKeyConstraint(
        ["service_account_id"], ["service_accounts.id"], name="service_keys_account_fkey", ondelete="CASCADE"
    ),
    Index("service_keys_account", "service_account_id", "id"),
)

security_events = Table(
    "security_events",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), comment="whose log it is; none for an unknown address"),
    Column("service_account_id", Uuid(as_uuid=False), comment="that did it, or that it was done to"),
    Column("actor_id", Uuid(as_uuid=False), comment="who did it, if it was somebody else"),
    Column("kind", Text, nullable=False, comment="a SecurityEvent.Kind of the contract, in lower case"),
    Column("session_id", Uuid(as_uuid=False)),
    Column("client_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    PrimaryKeyConstraint("id", name="security_events_pkey"),
    ForeignKeyConstraint(["user_id"], ["users.id"], name="security_events_user_id_fkey", ondelete="CASCADE"),
    Index("security_events_user_id", "user_id", "id"),
    # Those that are forgotten in time.
    Index("security_events_created_at", "created_at", postgresql_where=text("kind <> 'user_imported'")),
    Index("security_events_actor_id", "actor_id", postgresql_where=text("actor_id IS NOT NULL")),
)

add_frame_tables(METADATA)

# What is still to be done about somebody who is deleted.
Index(
    "outbox_subject_id",
    METADATA.tables["outbox"].c.subject_id,
    postgresql_where=text("subject_id IS NOT NULL"),
)
