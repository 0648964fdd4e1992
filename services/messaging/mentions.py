"""Mentions: whom the handles in a message would reach, and who takes part in the conversation."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from guildhall.membership.v1 import user_group_service_pb2 as user_groups_pb
from guildhall.messaging.v1 import message_service_pb2 as pb
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.messaging.access import VISIBLE, Viewer

EVERYBODY = frozenset({"here", "channel", "everyone", "all"})
MOST_LISTED = 200

# Of those who were asked about, those who take part; and how many do in all.
LOOK = text(f"""
    SELECT c.visibility,
        (SELECT count(*) FROM participants p WHERE p.conversation_id = c.id) AS participant_count,
        ARRAY(
            SELECT CAST(p.member_id AS text) FROM participants p
            WHERE p.conversation_id = c.id AND p.member_id = ANY(CAST(:member_ids AS uuid[]))
        ) AS participant_ids
    FROM conversations c WHERE c.id = :conversation_id AND {VISIBLE}
""")


@dataclass(frozen=True, slots=True)
class Place:
    """A conversation, as far as mentions in it are concerned."""

    public: bool
    participant_count: int
    participant_ids: frozenset[str]
    """Of those who were asked about."""


async def look(
    tx: AsyncConnection, *, viewer: Viewer, conversation_id: str, member_ids: Collection[str]
) -> Place | None:
    """The conversation; None if the viewer does not see it."""
    parameters = {**viewer.parameters, "conversation_id": conversation_id, "member_ids": list(member_ids)}
    row = (await tx.execute(LOOK, parameters)).one_or_none()
    if row is None:
        return None
    return Place(row.visibility == "public", row.participant_count, frozenset(row.participant_ids))


def means_everybody(handle: str) -> bool:
    """Whether a handle is one of those that nobody can have."""
    return handle.casefold() in EVERYBODY


def resolved(
    handles: Sequence[str],
    expanded: Mapping[str, user_groups_pb.ExpandedHandle],
    *,
    place: Place,
    seen: Collection[str] | None,
) -> list[pb.ResolvedMention]:
    """One answer for each handle, in their order. `seen` are those of whom a guest may be told; None for a member."""
    return [
        pb.ResolvedMention(handle=handle, everyone=True, notified_count=place.participant_count)
        if means_everybody(handle)
        else _resolved(handle, expanded[handle], place, seen)
        for handle in handles
    ]


def _resolved(
    handle: str, expanded: user_groups_pb.ExpandedHandle, place: Place, seen: Collection[str] | None
) -> pb.ResolvedMention:
    # All of them are full members: guests have no handles and are in no user group.
    shown = [member for member in expanded.members if seen is None or member.member_id in seen]
    taking_part = [member for member in shown if member.member_id in place.participant_ids]
    notified = shown if place.public else taking_part
    reached = {member.member_id for member in notified}
    others = [member for member in shown if member.member_id not in reached]
    return pb.ResolvedMention(
        handle=handle,
        user_group_id=expanded.user_group_id if seen is None else "",
        notified=map(_mentioned, notified[:MOST_LISTED]),
        not_in_conversation=map(_mentioned, others[:MOST_LISTED]),
        notified_count=len(notified),
        not_in_conversation_count=len(others),
    )


def _mentioned(member: user_groups_pb.ExpandedMember) -> pb.MentionedMember:
    return pb.MentionedMember(member_id=member.member_id, user_id=member.user_id)
