"""Bindings of links, policies, per-channel times, why a guest ended, notices, sight that was taken away."""

import sqlalchemy as sa
from alembic import op

from services.chassis.tables import CLOCK

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Widens the tables, which an older release goes on using, and makes the new ones."""
    _widen_invites()
    _widen_guests()
    _create_attempts()
    _create_policies()
    _create_notices()
    _create_sight_losses()
    _create_limits()


def downgrade() -> None:
    """Undoes it. Links bound to somebody are ended, since the older release would let anybody use them."""
    for table in ("workspace_limits", "sight_losses", "guest_notices", "guest_policies", "guest_invite_attempts"):
        op.drop_table(table)
    op.drop_column("guest_grants", "history_start_at")
    op.drop_column("guest_grants", "expire_at")
    for index in ("guests_sponsor", "guests_workspace"):
        op.drop_index(index, "guests")
    for name in ("guests_end_reason_with_end_check", "guests_end_reason_check"):
        op.drop_constraint(name, "guests")
    for column in ("sponsor_gone_at", "end_reason"):
        op.drop_column("guests", column)
    op.execute(
        "UPDATE guest_invites SET revoked_at = statement_timestamp()"
        " WHERE revoked_at IS NULL AND num_nonnulls(bound_email, bound_domain) > 0"
    )
    op.drop_index("guest_invites_made", "guest_invites")
    op.drop_constraint("guest_invites_binding_check", "guest_invites")
    for column in ("bound_domain", "bound_email"):
        op.drop_column("guest_invites", column)


def _widen_invites() -> None:
    op.add_column(
        "guest_invites",
        sa.Column("bound_email", sa.Text(), comment="normalised; forgotten 30 days after the link's end"),
    )
    op.add_column("guest_invites", sa.Column("bound_domain", sa.Text()))
    op.create_check_constraint(
        "guest_invites_binding_check", "guest_invites", "num_nonnulls(bound_email, bound_domain) <= 1"
    )
    op.create_index("guest_invites_made", "guest_invites", ["workspace_id", "created_at"])


def _widen_guests() -> None:
    op.alter_column(
        "guests",
        "ended_at",
        existing_type=sa.DateTime(timezone=True),
        comment="when something else than their time ended them",
        existing_comment="when the member behind it was removed",
    )
    op.add_column("guests", sa.Column("end_reason", sa.Text(), comment="set with ended_at; null means removed"))
    op.add_column(
        "guests",
        sa.Column("sponsor_gone_at", sa.DateTime(timezone=True), comment="when the sponsor's stay ended"),
    )
    op.create_check_constraint("guests_end_reason_check", "guests", "end_reason IN ('removed', 'promoted')")
    op.create_check_constraint(
        "guests_end_reason_with_end_check", "guests", "end_reason IS NULL OR ended_at IS NOT NULL"
    )
    op.create_index("guests_workspace", "guests", ["workspace_id", "member_id"])
    op.create_index("guests_sponsor", "guests", ["workspace_id", "sponsor_member_id"])
    op.add_column("guest_grants", sa.Column("expire_at", sa.DateTime(timezone=True)))
    op.add_column("guest_grants", sa.Column("history_start_at", sa.DateTime(timezone=True)))


def _create_attempts() -> None:
    op.create_table(
        "guest_invite_attempts",
        sa.Column("invite_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("attempted_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("invite_id", "user_id", name="guest_invite_attempts_pkey"),
        sa.ForeignKeyConstraint(
            ["invite_id"], ["guest_invites.id"], ondelete="CASCADE", name="guest_invite_attempts_invite_id_fkey"
        ),
    )
    op.create_index("guest_invite_attempts_age", "guest_invite_attempts", ["attempted_at"])


def _create_policies() -> None:
    op.create_table(
        "guest_policies",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("grace", sa.Interval(), nullable=False, server_default=sa.text("interval '24 hours'")),
        sa.Column("maximum_stay", sa.Interval(), nullable=False, server_default=sa.text("interval '8784 hours'")),
        sa.Column("notice_days", sa.ARRAY(sa.Integer()), nullable=False, server_default=sa.text("'{14,5,1}'")),
        sa.Column("members_may_invite", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("version", sa.BigInteger(), nullable=False, server_default=sa.text("1"), comment="the etag"),
        sa.PrimaryKeyConstraint("workspace_id", name="guest_policies_pkey"),
        sa.CheckConstraint("grace BETWEEN interval '0' AND interval '720 hours'", name="guest_policies_grace_check"),
        sa.CheckConstraint(
            "maximum_stay > interval '0' AND maximum_stay <= interval '8784 hours'",
            name="guest_policies_maximum_stay_check",
        ),
        sa.CheckConstraint(
            "cardinality(notice_days) <= 5 AND 1 <= ALL (notice_days) AND 60 >= ALL (notice_days)",
            name="guest_policies_notice_days_check",
        ),
    )


def _create_notices() -> None:
    op.create_table(
        "guest_notices",
        sa.Column("id", sa.Uuid(), nullable=False, server_default=sa.text("gen_random_uuid()")),
        sa.Column("member_id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False, comment="the guest's, when it was planned"),
        sa.Column("kind", sa.Text(), nullable=False, comment="expiring_DAYS, locked, ended or removed"),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), comment="when the worker was told"),
        sa.Column("sent_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="guest_notices_pkey"),
        sa.UniqueConstraint("member_id", "generation", "kind", "recipient", name="guest_notices_once_key"),
        sa.ForeignKeyConstraint(
            ["member_id"], ["guests.member_id"], ondelete="CASCADE", name="guest_notices_member_id_fkey"
        ),
        sa.CheckConstraint("recipient IN ('guest', 'sponsor')", name="guest_notices_recipient_check"),
        sa.CheckConstraint("kind ~ '^(expiring_[1-9][0-9]?|locked|ended|removed)$'", name="guest_notices_kind_check"),
    )
    op.create_index("guest_notices_due", "guest_notices", ["due_at"], postgresql_where=sa.text("queued_at IS NULL"))


def _create_sight_losses() -> None:
    op.create_table(
        "sight_losses",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=CLOCK),
        sa.PrimaryKeyConstraint("id", name="sight_losses_pkey"),
    )
    op.create_index("sight_losses_workspace", "sight_losses", ["workspace_id", "id"])


def _create_limits() -> None:
    op.create_table(
        "workspace_limits",
        sa.Column("workspace_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "name", name="workspace_limits_pkey"),
        sa.CheckConstraint("value >= 0", name="workspace_limits_value_check"),
        sa.CheckConstraint("name <> 'guest_channels' OR value <= 200", name="workspace_limits_channels_check"),
    )
