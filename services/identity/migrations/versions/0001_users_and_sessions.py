"""Users, sessions with their tokens, verification tokens, and the frame's tables."""

import sqlalchemy as sa
from alembic import op

from services.chassis.migrations import create_frame_tables, drop_frame_tables

revision = "0001"
down_revision = None

CLOCK = sa.text("statement_timestamp()")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    create_frame_tables()
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False, comment="as it was written"),
        sa.Column("normalized_email", sa.Text(collation="C"), nullable=False, comment="NFKC, trimmed, casefolded"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), comment="Argon2id; none before verification, or without a password"),
        sa.Column("email_verified_at", TIME),
        sa.Column("disabled_at", TIME),
        sa.Column("created_at", TIME, nullable=False, server_default=CLOCK),
        sa.Column("updated_at", TIME, nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="users_pkey"),
        sa.UniqueConstraint("normalized_email", name="users_normalized_email_key"),
    )
    create_sessions()
    op.create_table(
        "verification_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column(
            "purpose",
            sa.Text(),
            nullable=False,
            comment="known_address: the address was verified before; good for nothing",
        ),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("pending_password_hash", sa.Text(), nullable=False, comment="becomes the user's on verification"),
        sa.Column("pending_name", sa.Text(), nullable=False, comment="likewise"),
        sa.Column("created_at", TIME, nullable=False, server_default=CLOCK),
        sa.Column("expire_at", TIME, nullable=False),
        sa.Column("used_at", TIME),
        sa.PrimaryKeyConstraint("id", name="verification_tokens_pkey"),
        sa.UniqueConstraint("token_hash", name="verification_tokens_token_hash_key"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="verification_tokens_user_id_fkey", ondelete="CASCADE"),
        sa.CheckConstraint("purpose IN ('verify_email', 'known_address')", name="verification_tokens_purpose_check"),
        sa.CheckConstraint("used_at IS NULL OR purpose <> 'known_address'", name="verification_tokens_used_check"),
    )
    op.create_index("verification_tokens_user_id", "verification_tokens", ["user_id", "created_at"])
    op.create_index("verification_tokens_expire_at", "verification_tokens", ["expire_at"])


def create_sessions() -> None:
    """Sessions and the tokens that each has had."""
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("device_label", sa.Text(), nullable=False),
        sa.Column("client_address", sa.Text(), nullable=False),
        sa.Column("user_agent", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=CLOCK),
        sa.Column("refreshed_at", TIME, nullable=False, server_default=CLOCK),
        sa.Column("idle_expire_at", TIME, nullable=False, comment="moves at each refresh"),
        sa.Column("absolute_expire_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.Column("ended_reason", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="sessions_pkey"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="sessions_user_id_fkey", ondelete="CASCADE"),
        sa.CheckConstraint("idle_expire_at <= absolute_expire_at", name="sessions_idle_check"),
        sa.CheckConstraint("(ended_at IS NULL) = (ended_reason IS NULL)", name="sessions_ended_check"),
        sa.CheckConstraint("ended_reason IN ('signed_out', 'token_reuse')", name="sessions_ended_reason_check"),
    )
    op.create_index("sessions_user_id", "sessions", ["user_id"])
    op.create_index("sessions_idle_expire_at", "sessions", ["idle_expire_at"])
    op.create_index(
        "sessions_alive",
        "sessions",
        ["id"],
        postgresql_include=["user_id", "idle_expire_at"],
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "session_tokens",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False, comment="1 for the token of the sign-in"),
        sa.Column("claimed_at", TIME, comment="when it was exchanged for its successor"),
        sa.PrimaryKeyConstraint("token_hash", name="session_tokens_pkey"),
        sa.UniqueConstraint("session_id", "generation", name="session_tokens_generation_key"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="session_tokens_session_id_fkey", ondelete="CASCADE"
        ),
        sa.CheckConstraint("generation >= 1", name="session_tokens_generation_check"),
    )


def downgrade() -> None:
    for table in ("verification_tokens", "session_tokens", "sessions", "users"):
        op.drop_table(table)
    drop_frame_tables()
