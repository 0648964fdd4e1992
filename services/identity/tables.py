"""identity's tables; the migrations say the same, and a test compares the two."""

from sqlalchemy import (
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
    PrimaryKeyConstraint("id", name="users_pkey"),
    UniqueConstraint("normalized_email", name="users_normalized_email_key"),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("device_label", Text, nullable=False),
    Column("client_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("refreshed_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("idle_expire_at", DateTime(timezone=True), nullable=False, comment="moves at each refresh"),
    Column("absolute_expire_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("ended_reason", Text),
    PrimaryKeyConstraint("id", name="sessions_pkey"),
    ForeignKeyConstraint(["user_id"], ["users.id"], name="sessions_user_id_fkey", ondelete="CASCADE"),
    # So that idle_expire_at alone decides.
    CheckConstraint("idle_expire_at <= absolute_expire_at", name="sessions_idle_check"),
    CheckConstraint("(ended_at IS NULL) = (ended_reason IS NULL)", name="sessions_ended_check"),
    CheckConstraint("ended_reason IN ('signed_out', 'token_reuse')", name="sessions_ended_reason_check"),
    Index("sessions_user_id", "user_id"),
    Index("sessions_idle_expire_at", "idle_expire_at"),
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
    Column("user_id", Uuid(as_uuid=False), nullable=False),
    Column("purpose", Text, nullable=False, comment="known_address: the address was verified before; good for nothing"),
    Column("token_hash", LargeBinary, nullable=False),
    Column("pending_password_hash", Text, nullable=False, comment="becomes the user's on verification"),
    Column("pending_name", Text, nullable=False, comment="likewise"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=CLOCK),
    Column("expire_at", DateTime(timezone=True), nullable=False),
    Column("used_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("id", name="verification_tokens_pkey"),
    UniqueConstraint("token_hash", name="verification_tokens_token_hash_key"),
    ForeignKeyConstraint(["user_id"], ["users.id"], name="verification_tokens_user_id_fkey", ondelete="CASCADE"),
    CheckConstraint("purpose IN ('verify_email', 'known_address')", name="verification_tokens_purpose_check"),
    CheckConstraint("used_at IS NULL OR purpose <> 'known_address'", name="verification_tokens_used_check"),
    Index("verification_tokens_user_id", "user_id", "created_at"),
    Index("verification_tokens_expire_at", "expire_at"),
)

add_frame_tables(METADATA)
