"""Who sees what, in one predicate; and what membership and guest must have answered before anything is done."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from guildhall.guest.v1 import guest_access_service_pb2 as guests_pb
from guildhall.guest.v1 import guest_service_pb2
from guildhall.membership.v1 import access_service_pb2 as access_pb
from guildhall.membership.v1 import member_service_pb2
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import Call
from services.chassis.database import Database
from services.chassis.errors import NotFound, PermissionDenied
from services.messaging.errors import GuestLocked
from services.messaging.group_lookups import GroupLookups
from services.messaging.peers import Grants, GuestChannels, Guests, Membership, history_start

READ = "workspace.read"
SEND = "messages.send"
CREATE = "conversations.create"
MODERATE = "messages.moderate"
MANAGE = "conversations.manage"
MANAGE_GROUP = "group.manage"

HIDING = frozenset({access_pb.ACCESS_REASON_BANNED, access_pb.ACCESS_REASON_NO_SUCH_GROUP})


def seen_by_guest(member_id: str, granted: str) -> str:
    """SQL: whether a guest, to whom channels are granted, sees the conversation `c`.

    A channel if it is among them; a direct conversation that they take part in, that a member opened who is still in
    it, and in which everybody else takes part in one of the guest's channels.
    """
    return f"""CASE c.kind WHEN 'channel' THEN c.id = ANY({granted}) WHEN 'direct' THEN
        EXISTS (SELECT FROM participants p WHERE p.conversation_id = c.id AND p.member_id = {member_id})
        AND EXISTS (
            SELECT FROM participants p WHERE p.conversation_id = c.id AND p.member_id = c.created_by_member_id
                AND p.member_id <> {member_id}
        )
        AND NOT EXISTS (
            SELECT FROM participants p WHERE p.conversation_id = c.id AND p.member_id <> {member_id} AND NOT EXISTS (
                SELECT FROM participants s WHERE s.member_id = p.member_id AND s.conversation_id = ANY({granted})
            )
        )
    ELSE false END"""


def in_history(at: str) -> str:
    """SQL: whether what is from a time is within what the viewer sees of the conversation `c`."""
    start = "(CAST(:since AS timestamptz[]))[array_position(CAST(:granted AS uuid[]), c.id)]"
    return f"(CAST(:granted AS uuid[]) IS NULL OR {at} >= coalesce({start}, '-infinity'))"


TAKING_PART = f"""(
    c.workspace_id = :workspace_id
    AND CASE WHEN CAST(:granted AS uuid[]) IS NOT NULL THEN {seen_by_guest(":member_id", "CAST(:granted AS uuid[])")}
        ELSE c.visibility = 'public' OR EXISTS (
            SELECT FROM participants p WHERE p.conversation_id = c.id AND p.member_id = :member_id
        ) END
)"""
"""VISIBLE, but for what membership has to say of groups: for who asks about those after the reading."""
CANDIDATES = """(
    SELECT id FROM conversations
    WHERE workspace_id = :workspace_id AND visibility = 'public' AND CAST(:granted AS uuid[]) IS NULL
    UNION SELECT conversation_id FROM participants WHERE member_id = :member_id
    UNION SELECT unnest(CAST(:granted AS uuid[]))
)"""
"""The ids of all that TAKING_PART can be true of: few, where a workspace has many conversations of others."""
# OFFSET 0: each is looked up by its id. Joined in any other way, all there are would be read where few are expected.
LOOKED_UP = "LATERAL (SELECT * FROM conversations WHERE id = candidate.id OFFSET 0)"
"""The conversation of each row of `candidate`."""
VISIBLE = f"""(
    {TAKING_PART} AND (c.group_id IS NULL OR c.group_id = ANY(CAST(:groups AS uuid[])))
)"""
"""Whether a viewer sees the conversation `c`. Takes what `Viewer.parameters` gives.

Who takes part in a group's conversation is written down some time after it changed in the group, so to be written down
is not enough: membership must have said that they are in the group now.
"""


IN_HISTORY = in_history("m.created_at")
"""Whether a message `m` of the conversation `c` is not from before a guest's history. Takes the same parameters."""
# By the snapshot of the content itself: for each who takes part, in which of the guests' channels they do.
TOGETHER = """CASE WHEN c.kind = 'direct' AND cardinality(CAST(:granted AS uuid[])) > 0 THEN (
    SELECT jsonb_object_agg(p.member_id, ARRAY(
        SELECT s.conversation_id FROM participants s
        WHERE s.member_id = p.member_id AND s.conversation_id = ANY(CAST(:granted AS uuid[]))
    )) FROM participants p WHERE p.conversation_id = c.id HAVING bool_or(p.member_id = c.created_by_member_id)
) END"""
"""What `shares` takes of the conversation `c`; NULL if it is not direct, or whoever opened it has gone."""
SEEN_AMONG = text(f"""
    SELECT CAST(c.id AS text) FROM conversations c WHERE c.id = ANY(CAST(:ids AS uuid[])) AND {VISIBLE}
""")

Together = Mapping[str, Collection[str]]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody in one workspace, as membership and guest have just described them."""

    workspace_id: str
    user_id: str
    member_id: str
    granted: Grants | None
    """The channels granted to a guest, all of them or the one that was asked about; None for a full member."""
    allowed: bool = True
    """Whether they have the capability that was asked for. To be looked at once it is known that they see the thing."""
    moderates: bool = False
    """Whether what others wrote is theirs to delete, where that was asked."""
    edit_window: timedelta | None = None
    """For how long a message may be edited; None for ever."""
    groups: frozenset[str] = frozenset()
    """Of the groups that were asked about, those that they are in themselves."""
    manages: bool = False
    """Whether the conversation is theirs to change, where that was asked."""
    until: str | None = None
    """When a guest's right to change something ends (RFC 3339), for the statement that does so."""
    locked: GuestLocked | None = None
    """What a locked guest is refused with."""

    @property
    def parameters(self) -> dict[str, object]:
        """What VISIBLE is about."""
        granted = None if self.granted is None else list(self.granted)
        return {
            "workspace_id": self.workspace_id,
            "member_id": self.member_id,
            "granted": granted,
            "since": None if self.granted is None else list(self.granted.values()),
            "groups": list(self.groups),
            "manages": self.manages,
        }

    def since(self, conversation_id: str) -> datetime | None:
        """From when on they see what was said there; None for the whole history."""
        return None if self.granted is None else self.granted.get(conversation_id)

    def is_in_history(self, conversation_id: str, at: datetime) -> bool:
        """Whether something from a time is not from before it."""
        since = self.since(conversation_id)
        return since is None or at >= since

    def still_sees(self, conversation_id: str, group_id: str | None, before: "Viewer") -> bool:
        """Whether what they saw when they were asked about `before`, and was read after that, is still theirs to see.

        A full member's sight was read together with the content, but for whether they are in the conversation's group.
        Of a guest it says only that they are one still: `seen_among` knows the rest.
        """
        if self.member_id != before.member_id or (self.granted is None) != (before.granted is None):
            return False
        return self.granted is not None or group_id is None or group_id in self.groups


class Access:
    """The questions behind every RPC of messaging, asked afresh each time. No answer is a refusal."""

    def __init__(self, database: Database, membership: Membership, guests: Guests, groups: GroupLookups) -> None:
        self._database = database
        self._membership = membership
        self._guests = guests
        self._groups = groups

    async def require_creator(self, call: Call, *, workspace_id: str) -> Viewer:
        """Somebody who may open conversations. NOT_FOUND, PERMISSION_DENIED, GUEST_LOCKED."""
        verdict = await self._verdict(call, workspace_id, CREATE)
        if is_guest(verdict):
            guest = await self._guests.check(
                workspace_id=workspace_id, member_id=verdict.member_id, deadline=call.deadline
            )
            if has_ended(guest):
                raise NotFound
            raise lock_of(guest) or PermissionDenied
        if not verdict.allowed:
            raise PermissionDenied
        return _full(call, workspace_id, verdict)

    async def require_group_manager(self, call: Call, *, workspace_id: str, group_id: str) -> Viewer:
        """Somebody who may make conversations of a group; whether they are in it too is in `groups`.

        NOT_FOUND, PERMISSION_DENIED.
        """
        verdict = await self._in_group(call, workspace_id, group_id, MANAGE_GROUP)
        if not verdict.member_id or verdict.reason in HIDING:
            raise NotFound
        if not verdict.allowed:
            raise PermissionDenied
        groups = frozenset({group_id} if verdict.in_group else ())
        return replace(_full(call, workspace_id, verdict), groups=groups)

    async def require_reader(self, call: Call, *, workspace_id: str, conversation_id: str) -> Viewer:
        """Somebody who reads in the workspace; a guest only if they see the conversation, locked or not. NOT_FOUND.

        A group's conversation is for who is in the group itself.
        """
        verdict, groups = await self._verdict_on(call, workspace_id, conversation_id, READ)
        if not verdict.allowed:
            raise NotFound
        if not is_guest(verdict):
            return replace(_full(call, workspace_id, verdict), groups=groups)
        guest = await self._guest(call, workspace_id, verdict.member_id, conversation_id)
        return replace(guest, until=None)

    async def _guest(self, call: Call, workspace_id: str, member_id: str, conversation_id: str) -> Viewer:
        """A guest who sees the conversation. NOT_FOUND."""
        named = {"workspace_id": workspace_id, "member_id": member_id}
        guest = await self._guests.check(**named, conversation_id=conversation_id, deadline=call.deadline)
        if has_ended(guest):
            raise NotFound
        until, lock = time_of(guest), lock_of(guest)
        if guest.granted:
            grants = {conversation_id: history_start(guest)}
            return Viewer(workspace_id, call.user_id, member_id, grants, until=until.isoformat(), locked=lock)
        # A direct conversation hangs on all of their channels.
        channels = await self._guests.channels(workspace_id=workspace_id, member_id=member_id)
        until = min(until, channels.until or until)
        viewer = Viewer(workspace_id, call.user_id, member_id, channels.grants, until=until.isoformat(), locked=lock)
        if channels.ended or conversation_id not in await self.seen_among(viewer, [conversation_id]):
            raise NotFound
        return viewer

    async def seen_among(self, viewer: Viewer, conversation_ids: Collection[str]) -> Collection[str]:
        """Those of some conversations that the viewer sees now."""
        if not conversation_ids:
            return ()
        asked = {**viewer.parameters, "ids": list(conversation_ids)}

        async def read(tx: AsyncConnection) -> Collection[str]:
            return frozenset(await tx.scalars(SEEN_AMONG, asked))

        return await self._database.read(read)

    async def require_again(self, call: Call, before: Viewer, *, conversation_id: str) -> Viewer:
        """As they are now. NOT_FOUND unless what was read for `before`, before this, is theirs to see still."""
        again = await self.require_reader(call, workspace_id=before.workspace_id, conversation_id=conversation_id)
        if again.member_id != before.member_id or (again.granted is None) != (before.granted is None):
            raise NotFound
        return again

    async def require_writer(
        self, call: Call, *, workspace_id: str, conversation_id: str, capability: str = SEND
    ) -> Viewer:
        """Somebody who wants to change something in a conversation. NOT_FOUND; GUEST_LOCKED for a guest.

        Whether they have the capability is in the answer: what they do not see comes first.
        """
        verdict, groups = await self._verdict_on(call, workspace_id, conversation_id, capability)
        window = verdict.message_edit_window.ToTimedelta() if verdict.HasField("message_edit_window") else None
        if not is_guest(verdict):
            full = _full(call, workspace_id, verdict)
            return replace(full, allowed=verdict.allowed, groups=groups, edit_window=window)
        guest = await self._guest(call, workspace_id, verdict.member_id, conversation_id)
        if guest.locked is not None:
            raise guest.locked
        return replace(guest, allowed=verdict.allowed, edit_window=window)

    async def require_deleter(self, call: Call, *, workspace_id: str, conversation_id: str) -> Viewer:
        """A reader, locked or not: what they wrote is theirs to take back. Says whether they moderate. NOT_FOUND."""
        reader, moderates = await asyncio.gather(
            self.require_reader(call, workspace_id=workspace_id, conversation_id=conversation_id),
            self.is_moderator(call, workspace_id=workspace_id),
        )
        return replace(reader, moderates=moderates)

    async def is_moderator(self, call: Call, *, workspace_id: str, capability: str = MODERATE) -> bool:
        """Whether somebody may delete what others brought, or change what others made. NOT_FOUND."""
        verdict = await self._verdict(call, workspace_id, capability)
        return verdict.allowed and not is_guest(verdict)

    async def require_manager(self, call: Call, *, workspace_id: str, conversation_id: str) -> Viewer:
        """A writer, and whether the conversation is theirs to change. NOT_FOUND, GUEST_LOCKED."""
        writer, (verdict, _) = await asyncio.gather(
            self.require_writer(call, workspace_id=workspace_id, conversation_id=conversation_id),
            self._verdict_on(call, workspace_id, conversation_id, MANAGE, in_group=MANAGE_GROUP),
        )
        return replace(writer, manages=verdict.allowed and writer.granted is None)

    async def require_viewer(
        self,
        call: Call,
        *,
        workspace_id: str,
        group_ids: Collection[str] | None = None,
        conversation_ids: Collection[str] = (),
    ) -> Viewer:
        """Somebody who reads in the workspace, with all that is granted to them if they are a guest. NOT_FOUND.

        Of groups they are asked about those named, or those of the conversations named, or else about all in whose
        conversations they take part.
        """
        if conversation_ids:
            group_ids = {group_id for group_id in (await self._groups.find(set(conversation_ids))).values() if group_id}
        elif group_ids is None:
            group_ids = await self._groups.of_person(workspace_id=workspace_id, user_id=call.user_id)
        (viewer, _, _), groups = await asyncio.gather(
            self.require_watcher(call, workspace_id=workspace_id), self._in_groups(call, workspace_id, group_ids)
        )
        # Of another stay's groups nothing follows for this one; and a guest is in none.
        own = frozenset(key for key, member_id in groups.items() if member_id == viewer.member_id)
        return replace(viewer, groups=own)

    async def _in_groups(self, call: Call, workspace_id: str, group_ids: Collection[str]) -> dict[str, str]:
        """As which member they are in which of the groups."""
        verdicts = await asyncio.gather(*(self._in_group(call, workspace_id, key, READ) for key in group_ids))
        asked = zip(group_ids, verdicts, strict=True)
        return {key: verdict.member_id for key, verdict in asked if verdict.in_group}

    async def require_watcher(self, call: Call, *, workspace_id: str) -> tuple[Viewer, int, GuestChannels | None]:
        """A viewer, the access revision that holds for, and for a guest how long guest's word holds. NOT_FOUND."""
        verdict = await self._verdict(call, workspace_id, READ)
        if not verdict.allowed:
            raise NotFound
        if not is_guest(verdict):
            return _full(call, workspace_id, verdict), verdict.access_revision, None
        channels = await self._guests.channels(workspace_id=workspace_id, member_id=verdict.member_id)
        if channels.ended:
            raise NotFound
        viewer = Viewer(workspace_id, call.user_id, verdict.member_id, channels.grants)
        return viewer, verdict.access_revision, channels

    async def _verdict_on(
        self, call: Call, workspace_id: str, conversation_id: str, capability: str, *, in_group: str = ""
    ) -> tuple[access_pb.AccessVerdict, frozenset[str]]:
        """The verdict where the conversation is, and its group if it is of one. NOT_FOUND for who is not in that.

        `in_group` is the capability to ask for instead if it is of one.
        """
        group_id = (await self._groups.find([conversation_id])).get(conversation_id)
        if group_id is None:
            # What was read before this was asked has gone meanwhile; whose it was is no longer known.
            raise NotFound
        if not group_id:
            return await self._verdict(call, workspace_id, capability), frozenset()
        verdict = await self._in_group(call, workspace_id, group_id, in_group or capability)
        if not verdict.in_group:
            raise NotFound
        return verdict, frozenset({group_id})

    async def _in_group(self, call: Call, workspace_id: str, group_id: str, capability: str) -> access_pb.AccessVerdict:
        return await self._membership.check_in_group(
            workspace_id=workspace_id,
            user_id=call.user_id,
            group_id=group_id,
            capability=capability,
            deadline=call.deadline,
        )

    async def _verdict(self, call: Call, workspace_id: str, capability: str) -> access_pb.AccessVerdict:
        verdict = await self._membership.check_access(
            workspace_id=workspace_id, user_id=call.user_id, capability=capability, deadline=call.deadline
        )
        if not verdict.member_id or verdict.reason == access_pb.ACCESS_REASON_NOT_A_MEMBER:
            raise NotFound
        return verdict


def is_guest(verdict: access_pb.AccessVerdict) -> bool:
    """Whoever is not known to be a full member is taken for a guest, who sees nothing without guest's word."""
    return verdict.kind != member_service_pb2.MEMBER_KIND_FULL


def has_ended(verdict: guests_pb.GuestVerdict) -> bool:
    """True unless guest says that they still may read."""
    return verdict.state not in (guest_service_pb2.GUEST_STATE_ACTIVE, guest_service_pb2.GUEST_STATE_LOCKED)


def lock_of(verdict: guests_pb.GuestVerdict) -> GuestLocked | None:
    """What somebody is refused with whose time as a guest is over; None while it is not."""
    if verdict.state != guest_service_pb2.GUEST_STATE_LOCKED:
        return None
    lock_time, grace_end_time = verdict.expire_time.ToJsonString(), verdict.grace_end_time.ToJsonString()
    return GuestLocked(metadata={"lock_time": lock_time, "grace_end_time": grace_end_time})


def time_of(verdict: guests_pb.GuestVerdict) -> datetime:
    """Until when a guest may write: the end of their time, or of the channel's grant."""
    until = verdict.expire_time.ToDatetime(tzinfo=UTC)
    if verdict.HasField("grant_expire_time"):
        until = min(until, verdict.grant_expire_time.ToDatetime(tzinfo=UTC))
    return until


def shares(granted: Collection[str], member_id: str, together: Together | None) -> bool:
    """`seen_by_guest` of a direct conversation, of which TOGETHER was read for these channels or more."""
    if together is None or member_id not in together:
        return False
    others = [channels for key, channels in together.items() if key != member_id]
    return bool(others) and all(any(key in granted for key in channels) for channels in others)


def _full(call: Call, workspace_id: str, verdict: access_pb.AccessVerdict) -> Viewer:
    return Viewer(workspace_id, call.user_id, verdict.member_id, None)
