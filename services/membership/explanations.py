"""Why a verdict is what it is, rule by rule and in words: one function for each step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guildhall.membership.v1 import access_service_pb2 as pb
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.membership import verdicts
from services.membership.capabilities import EVERYTHING
from services.membership.group_access import HOLDS
from services.membership.verdicts import Question

# Both statements of an explanation see the same moment, or the words might not be about the verdict.
ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
FIND_DETAILS = text(f"""
    SELECT g.name,
        coalesce((
            SELECT json_agg(json_build_object(
                'group_id', a.id, 'name', a.name, 'role', gm.role, 'capabilities', r.capabilities
            ) ORDER BY cardinality(a.path))
            FROM group_members gm
            JOIN groups a ON a.workspace_id = gm.workspace_id AND a.id = gm.group_id
            JOIN scheme_roles r ON r.scheme_id = gm.scheme_id AND r.role = gm.role
            WHERE gm.workspace_id = :workspace_id AND gm.member_id = :member_id AND gm.group_id = ANY(g.path)
        ), '[]') AS roles,
        coalesce((
            SELECT json_agg(json_build_object('group_id', a.id, 'name', a.name) ORDER BY cardinality(a.path))
            FROM group_bans b JOIN groups a ON a.workspace_id = b.workspace_id AND a.id = b.group_id
            WHERE b.workspace_id = :workspace_id AND b.user_id = :user_id AND b.group_id = ANY(g.path) AND {HOLDS}
        ), '[]') AS bans
    FROM groups g WHERE g.workspace_id = :workspace_id AND g.id = :group_id
""")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one question."""

    row: Row[Any]
    """Of verdicts.standings."""
    capability: str
    group_id: str
    """Empty for the workspace."""
    group_name: str
    roles: list[dict[str, Any]]
    """In the group and above it, the topmost first."""
    bans: list[dict[str, Any]]
    tells_hidden: bool
    """False for the banned: they are not shown what they are banned from."""
    tells_suspension: bool
    """False for who may not know of it: who is suspended is no member to them, as in the verdict."""

    @property
    def reason(self) -> pb.AccessReason.ValueType:
        """The verdict's."""
        reason = verdicts.reason_of(self.row, self.capability)
        hidden = reason == pb.ACCESS_REASON_SUSPENDED and not self.tells_suspension
        return pb.ACCESS_REASON_NOT_A_MEMBER if hidden else reason


async def standings(tx: AsyncConnection, questions: list[Question]) -> tuple[Sequence[Row[Any]], Row[Any] | None]:
    """Where the questions' subjects stand, and the details of the first one in its group, if any; as of one moment."""
    await tx.execute(ONE_SNAPSHOT)
    rows = await verdicts.standings(tx, questions)
    named = {
        "workspace_id": questions[0].workspace_id,
        "group_id": questions[0].group_id,
        "member_id": rows[0].member_id,
        "user_id": rows[0].user_id,
    }
    return rows, (await tx.execute(FIND_DETAILS, named)).one_or_none() if rows[0].member_id else None


def facts(
    row: Row[Any], details: Row[Any] | None, *, capability: str, tells_hidden: bool, tells_suspension: bool
) -> Facts:
    """What there is to explain."""
    group_id = str(row.group_id) if row.group_id else ""
    if details is None:
        return Facts(row, capability, group_id, "", [], [], tells_hidden, tells_suspension)
    return Facts(row, capability, group_id, details.name, details.roles, details.bans, tells_hidden, tells_suspension)


def steps(known: Facts) -> Iterator[pb.AccessStep]:
    """What was looked at, in the order of the rules, up to what decided."""
    in_group = (group, bans, workspace_admin, group_roles) if known.group_id else ()
    for rule in (membership, suspension, *in_group, workspace_role):
        for step in rule(known):
            yield step
            if step.decides:
                return


def membership(known: Facts) -> Iterator[pb.AccessStep]:
    """Whether they are a member at all."""
    decides = known.reason == pb.ACCESS_REASON_NOT_A_MEMBER
    what = "they are no member of the workspace" if decides else f"they are a member of the workspace, {_kind(known)}"
    yield _step(pb.ACCESS_REASON_NOT_A_MEMBER, what, decides=decides)


def suspension(known: Facts) -> Iterator[pb.AccessStep]:
    """Whether they are suspended."""
    decides = known.reason == pb.ACCESS_REASON_SUSPENDED
    what = "they are suspended, so they may do nothing" if decides else "they are not suspended"
    yield _step(pb.ACCESS_REASON_SUSPENDED, what, decides=decides)


def group(known: Facts) -> Iterator[pb.AccessStep]:
    """Whether there is such a group for them."""
    decides = known.reason == pb.ACCESS_REASON_NO_SUCH_GROUP
    hidden = known.reason == pb.ACCESS_REASON_BANNED and not known.tells_hidden
    what = "there is such a group" if hidden else f'the group is "{known.group_name}"'
    if decides:
        what = "guests are in no groups" if known.row.kind == "guest" else "there is no such group"
    yield _step(pb.ACCESS_REASON_NO_SUCH_GROUP, what, decides=decides, group_id=known.group_id)


def bans(known: Facts) -> Iterator[pb.AccessStep]:
    """Whether they are banned there or above."""
    if known.reason != pb.ACCESS_REASON_BANNED:
        yield _step(pb.ACCESS_REASON_BANNED, "no ban in the group or above it", group_id=known.group_id)
        return
    if not known.tells_hidden or not known.bans:
        what = "a ban from the group, or from one above it, leaves them nothing there"
        yield _step(pb.ACCESS_REASON_BANNED, what, decides=True, group_id=known.group_id)
        return
    for ban in known.bans[:1]:
        what = f"the ban from {_place(known, ban)}, leaves them nothing there"
        yield _step(pb.ACCESS_REASON_BANNED, what, decides=True, group_id=ban["group_id"])


def workspace_admin(known: Facts) -> Iterator[pb.AccessStep]:
    """Whether they are an admin of the workspace."""
    decides = known.reason == pb.ACCESS_REASON_WORKSPACE_ADMIN
    what = "an admin of the workspace may do everything in its groups" if decides else "they are no workspace admin"
    yield _step(pb.ACCESS_REASON_WORKSPACE_ADMIN, what, decides=decides, role="admin" if decides else "")


def group_roles(known: Facts) -> Iterator[pb.AccessStep]:
    """Each role in the group and above it, the topmost first."""
    if not known.roles:
        yield _step(pb.ACCESS_REASON_GROUP_ROLE, "no role in the group or above it", group_id=known.group_id)
    for held in known.roles:
        given = set(held["capabilities"])
        decides = bool({known.capability, EVERYTHING} & given)
        verb = "lets" if decides else "does not let"
        what = f'the role "{held["role"]}" in {_place(known, held)}, {verb} them "{known.capability}"'
        yield _step(pb.ACCESS_REASON_GROUP_ROLE, what, decides=decides, group_id=held["group_id"], role=held["role"])


def workspace_role(known: Facts) -> Iterator[pb.AccessStep]:
    """What their role in the workspace says: the last word."""
    allowed = known.reason in verdicts.ALLOWING
    verb = "lets" if allowed else "does not let"
    who = "being a guest" if known.row.kind == "guest" else f'the workspace role "{known.row.role}"'
    reason = pb.ACCESS_REASON_ROLE if allowed else pb.ACCESS_REASON_ROLE_LACKS_CAPABILITY
    role = "" if known.row.kind == "guest" else known.row.role
    yield _step(reason, f'{who} {verb} them "{known.capability}"', decides=True, role=role)


def _kind(known: Facts) -> str:
    return "a guest" if known.row.kind == "guest" else f'with the role "{known.row.role}"'


def _place(known: Facts, at: Mapping[str, Any]) -> str:
    """Where a role or a ban is, seen from the group that is asked about."""
    return f'the group {"itself" if at["group_id"] == known.group_id else "above"}, "{at["name"]}"'


def _step(
    reason: pb.AccessReason.ValueType, explanation: str, *, decides: bool = False, group_id: str = "", role: str = ""
) -> pb.AccessStep:
    return pb.AccessStep(reason=reason, decides=decides, group_id=group_id, role=role, explanation=explanation)
