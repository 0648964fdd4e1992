"""Guests whom a test of membership has made without guest: its decision is written as it would have been."""

from typing import Any

from tests.support.suite import Suite

LATER = "statement_timestamp() + interval '30 days'"


def decide(suite: Suite, member: Any, *, sponsor_member_id: str) -> None:
    """guest knows the member as an active guest without a channel; an earlier stay of the person's is over."""
    values = {
        "member_id": member.member_id,
        "workspace_id": member.workspace_id,
        "user_id": member.user_id,
        "sponsor_member_id": sponsor_member_id,
    }
    with suite.database("guest") as database, database.transaction():
        database.execute(
            "UPDATE guests SET state = 'ENDED', ended_at = statement_timestamp(), end_reason = 'removed' WHERE "
            "workspace_id = %(workspace_id)s AND user_id = %(user_id)s AND member_id <> %(member_id)s "
            "AND ended_at IS NULL",
            values,
        )
        database.execute(
            "WITH link AS (INSERT INTO guest_invites "
            "(id, workspace_id, token_hash, created_by_member_id, guest_ttl, expire_at) "
            "VALUES (gen_random_uuid(), %(workspace_id)s, uuid_send(gen_random_uuid()), %(sponsor_member_id)s, "
            f"interval '30 days', {LATER}) RETURNING id) "
            "INSERT INTO guests (member_id, workspace_id, user_id, invite_id, sponsor_member_id, expire_at, "
            "grace_end_at, expiry_job_id) SELECT %(member_id)s, %(workspace_id)s, %(user_id)s, id, "
            f"%(sponsor_member_id)s, {LATER}, {LATER}, gen_random_uuid() FROM link ON CONFLICT DO NOTHING",
            values,
        )
