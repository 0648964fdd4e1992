"""Invites, redemptions, guests and their grants."""

import sqlalchemy as sa
from alembic import op

from services.chassis.migrations import create_frame_tables, drop_frame_tables

revision = "0001"
down_revision = None

CLOCK = sa.text("statement_timestamp()")


def upgrade() -> None:
    """Makes the first tables."""
    create_frame_tables()
    create_invites()
    create_redemptions()
    create_guests()


def create_invites() -> None:
    """Links, and the channels each grants."""
    op.create_table(
        "guest_invites",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created_by_member_id", sa.Uuid(), nullable=False),
        sa.Column(
            "guest_ttl", sa.Interval(), nullable=False, comment="in hours and less: a day would depend on a time zone"
        ),
        sa.Column("max_uses", sa.Integer(), comment="null means no limit"),
        sa.Column("uses", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("expire_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="guest_invites_pkey"),
        sa.UniqueConstraint("token_hash", name="guest_invites_token_hash_key"),
        sa.CheckConstraint("uses >= 0 AND uses <= max_uses", name="guest_invites_uses_check"),
        sa.CheckConstraint("guest_ttl > interval '0'", name="guest_invites_guest_ttl_check"),
    )
    op.create_index("guest_invites_workspace", "guest_invites", ["workspace_id", "id"])
    op.create_table(
        "guest_invite_channels",
        sa.Column("invite_id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("invite_id", "conversation_id", name="guest_invite_channels_pkey"),
        sa.ForeignKeyConstraint(
            ["invite_id"], ["guest_invites.id"], ondelete="CASCADE", name="guest_invite_channels_invite_id_fkey"
        ),
    )


def create_redemptions() -> None:
    """The saga's log."""
    op.create_table(
        "redemptions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("invite_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'STARTED'")),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=CLOCK,
            comment="anew when it is taken up",
        ),
        sa.PrimaryKeyConstraint("id", name="redemptions_pkey"),
        sa.ForeignKeyConstraint(
            ["invite_id"], ["guest_invites.id"], ondelete="CASCADE", name="redemptions_invite_id_fkey"
        ),
        sa.CheckConstraint("state IN ('STARTED', 'COMMITTED', 'ABANDONED')", name="redemptions_state_check"),
    )
    started = sa.text("state = 'STARTED'")
    op.create_index(
        "redemptions_started_key", "redemptions", ["workspace_id", "user_id"], unique=True, postgresql_where=started
    )
    op.create_index("redemptions_started", "redemptions", ["started_at"], postgresql_where=started)
    op.create_index("redemptions_invite", "redemptions", ["invite_id"])


def create_guests() -> None:
    """Guests, and the channels granted to each."""
    op.create_table(
        "guests",
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("invite_id", sa.Uuid(), nullable=False),
        sa.Column("sponsor_member_id", sa.Uuid(), nullable=False),
        sa.Column("expire_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("grace_end_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "generation",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("1"),
            comment="raised by each change; the etag",
        ),
        sa.Column("expiry_job_id", sa.Uuid(), nullable=False, comment="minted anew by each extension"),
        sa.Column(
            "state",
            sa.Text(),
            nullable=False,
            server_default=sa.text("'ACTIVE'"),
            comment="as last seen by the expiry job",
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), comment="when the member behind it was removed"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("member_id", name="guests_pkey"),
        sa.ForeignKeyConstraint(["invite_id"], ["guest_invites.id"], name="guests_invite_id_fkey"),
        sa.UniqueConstraint("expiry_job_id", name="guests_expiry_job_id_key"),
        sa.CheckConstraint("state IN ('ACTIVE', 'LOCKED', 'ENDED')", name="guests_state_check"),
        sa.CheckConstraint("ended_at IS NULL OR state = 'ENDED'", name="guests_ended_at_check"),
        sa.CheckConstraint("grace_end_at >= expire_at", name="guests_grace_end_at_check"),
        sa.CheckConstraint("generation >= 1", name="guests_generation_check"),
    )
    op.create_index(
        "guests_person_key",
        "guests",
        ["workspace_id", "user_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("guests_to_lock", "guests", ["expire_at"], postgresql_where=sa.text("state = 'ACTIVE'"))
    op.create_index("guests_to_end", "guests", ["grace_end_at"], postgresql_where=sa.text("state = 'LOCKED'"))
    op.create_index("guests_invite", "guests", ["invite_id"])
    op.create_table(
        "guest_grants",
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("conversation_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("member_id", "conversation_id", name="guest_grants_pkey"),
        sa.ForeignKeyConstraint(
            ["member_id"], ["guests.member_id"], ondelete="CASCADE", name="guest_grants_member_id_fkey"
        ),
    )
    op.create_index("guest_grants_conversation", "guest_grants", ["conversation_id"])


def downgrade() -> None:
    """Drops everything."""
    for table in ("guest_grants", "guests", "redemptions", "guest_invite_channels", "guest_invites"):
        op.drop_table(table)
    drop_frame_tables()
