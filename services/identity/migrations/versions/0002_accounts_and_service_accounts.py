"""What the rest of identity needs: provider accounts, the adapter's tokens, service accounts, the security log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

CLOCK = sa.text("statement_timestamp()")
TIME = sa.DateTime(timezone=True)
PURPOSES = "'verify_email', 'known_address', 'email_sign_in', 'reset_password', 'change_email', 'unknown_address'"
ENDED = (
    "'signed_out', 'token_reuse', 'revoked', 'password_changed', 'password_reset', 'user_disabled', 'adapter_deleted'"
)


def upgrade() -> None:
    op.add_column("users", sa.Column("image_url", sa.Text(), nullable=False, server_default=""))
    op.add_column("users", sa.Column("administrator_since", TIME, comment="a system administrator from then on"))
    op.add_column("users", sa.Column("revision", sa.BigInteger(), nullable=False, server_default="1", comment="etag"))
    op.add_column(
        "users",
        sa.Column(
            "is_claim",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="signed up and never proven: nobody yet, as far as back ends can see",
        ),
    )
    op.execute("UPDATE users SET is_claim = true WHERE email_verified_at IS NULL AND password_hash IS NULL")
    op.create_index("users_claims", "users", ["updated_at"], postgresql_where=sa.text("is_claim"))
    op.create_index(
        "users_administrators", "users", ["id"], postgresql_where=sa.text("administrator_since IS NOT NULL")
    )
    change_sessions()
    change_verification_tokens()
    create_accounts()
    create_service_accounts()
    create_security_events()


def change_sessions() -> None:
    """Sessions that the adapter's framework made, and when each was last used."""
    op.add_column(
        "sessions",
        sa.Column("last_used_at", TIME, nullable=False, server_default=CLOCK, comment="written at most once a minute"),
    )
    op.add_column(
        "sessions",
        sa.Column(
            "from_adapter",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="its token is the framework's and never rotates",
        ),
    )
    op.drop_constraint("sessions_ended_reason_check", "sessions")
    op.create_check_constraint("sessions_ended_reason_check", "sessions", f"ended_reason IN ({ENDED})")


def change_verification_tokens() -> None:
    """More purposes than proving an address at sign-up."""
    op.alter_column("verification_tokens", "user_id", nullable=True, comment="none for unknown_address")
    op.alter_column(
        "verification_tokens",
        "purpose",
        comment="known_address: the address was verified before, unknown_address: nobody has it; good for nothing",
    )
    op.alter_column("verification_tokens", "pending_password_hash", nullable=True)
    op.alter_column("verification_tokens", "pending_name", nullable=True)
    op.add_column(
        "verification_tokens", sa.Column("pending_email", sa.Text(), comment="change_email: as it was written")
    )
    op.add_column(
        "verification_tokens",
        sa.Column("previous_email", sa.Text(), comment="change_email: set at use, for the mail that tells the old one"),
    )
    op.drop_constraint("verification_tokens_purpose_check", "verification_tokens")
    op.create_check_constraint("verification_tokens_purpose_check", "verification_tokens", f"purpose IN ({PURPOSES})")
    op.drop_constraint("verification_tokens_used_check", "verification_tokens")
    op.create_check_constraint(
        "verification_tokens_used_check",
        "verification_tokens",
        "used_at IS NULL OR purpose NOT IN ('known_address', 'unknown_address')",
    )
    op.create_check_constraint(
        "verification_tokens_user_check", "verification_tokens", "(user_id IS NULL) = (purpose = 'unknown_address')"
    )
    op.create_check_constraint(
        "verification_tokens_email_check",
        "verification_tokens",
        "(pending_email IS NOT NULL) = (purpose = 'change_email')",
    )


def create_accounts() -> None:
    """Provider accounts, and the verification tokens that the adapter's framework makes."""
    op.create_table(
        "accounts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("provider_account_id", sa.Text(), nullable=False),
        sa.Column("sealed_refresh_token", sa.LargeBinary()),
        sa.Column("sealed_access_token", sa.LargeBinary()),
        sa.Column("sealed_id_token", sa.LargeBinary()),
        sa.Column("sealed_by", sa.LargeBinary(), comment="which of the provider keys; none if there is nothing sealed"),
        sa.Column(
            "expires_at", sa.BigInteger(), comment="of the access token, seconds since 1970, as the provider says"
        ),
        sa.Column("token_type", sa.Text()),
        sa.Column("scope", sa.Text()),
        sa.Column("session_state", sa.Text()),
        sa.Column("created_at", TIME, nullable=False, server_default=CLOCK),
        sa.Column("updated_at", TIME, nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="accounts_pkey"),
        sa.UniqueConstraint("provider", "provider_account_id", name="accounts_provider_key"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="accounts_user_id_fkey", ondelete="CASCADE"),
        sa.CheckConstraint(
            "(sealed_by IS NULL) = (coalesce(sealed_refresh_token, sealed_access_token, sealed_id_token) IS NULL)",
            name="accounts_sealed_by_check",
        ),
    )
    op.create_index("accounts_user_id", "accounts", ["user_id", "id"])
    op.create_index("accounts_sealed_by", "accounts", ["sealed_by"])
    op.create_table(
        "adapter_verification_tokens",
        sa.Column("identifier", sa.Text(collation="C"), nullable=False, comment="most often an e-mail address"),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("expire_at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("identifier", "token_hash", name="adapter_verification_tokens_pkey"),
    )
    op.create_index("adapter_verification_tokens_expire_at", "adapter_verification_tokens", ["expire_at"])
    op.create_table(
        "open_invites",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False, comment="of an invitation's or guest link's secret"),
        sa.Column("expire_at", TIME, nullable=False),
        sa.Column(
            "closed",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="no opening that comes late counts",
        ),
        sa.PrimaryKeyConstraint("token_hash", name="open_invites_pkey"),
    )
    op.create_index("open_invites_expire_at", "open_invites", ["expire_at"])


def create_service_accounts() -> None:
    """A product's own back ends and their keys."""
    op.create_table(
        "service_accounts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("workspace_ids", sa.ARRAY(sa.Uuid()), nullable=False, comment="empty: bound to none"),
        sa.Column("created_at", TIME, nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="service_accounts_pkey"),
        sa.CheckConstraint("cardinality(scopes) BETWEEN 1 AND 20", name="service_accounts_scopes_check"),
        sa.CheckConstraint("cardinality(workspace_ids) <= 20", name="service_accounts_workspaces_check"),
    )
    op.create_table(
        "service_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("service_account_id", sa.Uuid(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=CLOCK),
        sa.Column("last_used_at", TIME, comment="written at most once a minute"),
        sa.Column("revoked_at", TIME),
        sa.PrimaryKeyConstraint("id", name="service_keys_pkey"),
        sa.UniqueConstraint("key_hash", name="service_keys_key_hash_key"),
        sa.ForeignKeyConstraint(
            ["service_account_id"], ["service_accounts.id"], name="service_keys_account_fkey", ondelete="CASCADE"
        ),
    )
    op.create_index("service_keys_account", "service_keys", ["service_account_id", "id"])


def create_security_events() -> None:
    """What happened around somebody's credentials; gone with the user."""
    op.create_table(
        "security_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), comment="whose log it is; none for an unknown address"),
        sa.Column("service_account_id", sa.Uuid(), comment="that did it, or that it was done to"),
        sa.Column("actor_id", sa.Uuid(), comment="who did it, if it was somebody else"),
        sa.Column("kind", sa.Text(), nullable=False, comment="a SecurityEvent.Kind of the contract, in lower case"),
        sa.Column("session_id", sa.Uuid()),
        sa.Column("client_address", sa.Text(), nullable=False),
        sa.Column("user_agent", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="security_events_pkey"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="security_events_user_id_fkey", ondelete="CASCADE"),
    )
    op.create_index("security_events_user_id", "security_events", ["user_id", "id"])
    op.create_index("security_events_created_at", "security_events", ["created_at"])
    op.create_index(
        "security_events_actor_id",
        "security_events",
        ["actor_id"],
        postgresql_where=sa.text("actor_id IS NOT NULL"),
    )


def downgrade() -> None:
    for table in (
        "security_events",
        "service_keys",
        "service_accounts",
        "open_invites",
        "adapter_verification_tokens",
        "accounts",
    ):
        op.drop_table(table)
    undo_verification_tokens()
    op.execute(
        "UPDATE sessions SET ended_reason = 'signed_out' WHERE ended_reason NOT IN ('signed_out', 'token_reuse')"
    )
    op.drop_constraint("sessions_ended_reason_check", "sessions")
    op.create_check_constraint(
        "sessions_ended_reason_check", "sessions", "ended_reason IN ('signed_out', 'token_reuse')"
    )
    op.execute("DELETE FROM sessions WHERE from_adapter")
    op.drop_column("sessions", "from_adapter")
    op.drop_column("sessions", "last_used_at")
    op.drop_index("users_administrators", "users")
    op.drop_index("users_claims", "users")
    for column in ("is_claim", "revision", "administrator_since", "image_url"):
        op.drop_column("users", column)


def undo_verification_tokens() -> None:
    """Tokens of the newer purposes have no place in the older table."""
    op.execute("DELETE FROM verification_tokens WHERE purpose NOT IN ('verify_email', 'known_address')")
    for check in ("user_check", "email_check", "used_check", "purpose_check"):
        op.drop_constraint(f"verification_tokens_{check}", "verification_tokens")
    op.drop_column("verification_tokens", "previous_email")
    op.drop_column("verification_tokens", "pending_email")
    for column in ("user_id", "pending_password_hash", "pending_name"):
        op.alter_column("verification_tokens", column, nullable=False)
    op.create_check_constraint(
        "verification_tokens_used_check", "verification_tokens", "used_at IS NULL OR purpose <> 'known_address'"
    )
    op.create_check_constraint(
        "verification_tokens_purpose_check", "verification_tokens", "purpose IN ('verify_email', 'known_address')"
    )
