"""Who stands where in a group: sight, rank, and what the roles in it and above it give."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import InvalidRequest, NotFound, PermissionDenied
from services.membership import members, workspaces
from services.membership.capabilities import ADMIN_RANK_IN_GROUPS, EVERYTHING, allows
from services.membership.errors import Banned, LastOwner, RankTooLow
from services.membership.holders import able_in

HOLDS = "(b.expire_at IS NULL OR statement_timestamp() < b.expire_at)"
"""SQL: whether the ban `b` holds."""
HIDING = f"""ARRAY(
    SELECT b.group_id FROM group_bans b
    WHERE b.workspace_id = :workspace_id AND b.user_id = :user_id AND {HOLDS}
)"""
"""SQL: the groups from which :user_id is banned; once a statement, not once a row."""
SEEN = f"""{members.CALLER}
    JOIN groups g ON g.workspace_id = caller.workspace_id
    JOIN role_schemes s ON s.id = g.scheme_id
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
        AND caller.kind = 'full' AND NOT g.path && {HIDING}"""
"""SQL, after FROM: the groups `g` with their schemes `s` that :user_id sees; nothing if they are not a full member."""
RANK = f"""CASE WHEN m.role = 'admin' AND m.kind = 'full' THEN {ADMIN_RANK_IN_GROUPS} ELSE coalesce((
    SELECT max(r.rank)
    FROM group_members held JOIN scheme_roles r ON r.scheme_id = held.scheme_id AND r.role = held.role
    WHERE held.workspace_id = m.workspace_id AND held.member_id = m.id AND held.group_id = ANY(g.path)
), 0) END"""
"""SQL: the rank of the member `m` in the group `g`, by roles there and above."""

FIND_STANDING = text(f"""
    SELECT caller.id, caller.workspace_id, caller.user_id, caller.role, caller.kind,
        g.id AS group_id, g.path, g.scheme_id, g.archived_at, g.version, s.owning_role,
        (SELECT max(top.rank) FROM scheme_roles top WHERE top.scheme_id = g.scheme_id) AS top_rank,
        (
            SELECT {RANK} FROM members m WHERE m.workspace_id = caller.workspace_id AND m.id = caller.id
        ) AS rank,
        ARRAY(
            SELECT DISTINCT unnest(r.capabilities)
            FROM group_members held JOIN scheme_roles r ON r.scheme_id = held.scheme_id AND r.role = held.role
            WHERE held.workspace_id = caller.workspace_id AND held.member_id = caller.id
                AND held.group_id = ANY(g.path)
        ) AS capabilities
    FROM {SEEN} AND g.id = :group_id
""")
FIND_TARGET = text(f"""
    SELECT m.id, m.workspace_id, m.user_id, m.role AS workspace_role, m.kind, m.state,
        gm.id AS group_member_id, gm.role, gm.version, {RANK} AS rank
    FROM members m
    JOIN groups g ON g.workspace_id = m.workspace_id AND g.id = :group_id
    LEFT JOIN group_members gm
        ON gm.workspace_id = m.workspace_id AND gm.group_id = g.id AND gm.member_id = m.id
    WHERE m.workspace_id = :workspace_id
        AND (m.id = CAST(:member_id AS uuid) OR m.user_id = CAST(:user_id AS uuid)) AND m.state <> 'pending'
""")
FIND_BAN = text(f"""
    SELECT FROM group_bans b
    WHERE b.workspace_id = :workspace_id AND b.user_id = :user_id AND b.group_id = ANY(CAST(:path AS uuid[]))
        AND {HOLDS}
    LIMIT 1
""")
COUNT_OTHER_OWNERS = text(f"""
    SELECT count(*) FROM group_members gm
    JOIN members m ON m.workspace_id = gm.workspace_id AND m.id = gm.member_id
    WHERE gm.workspace_id = :workspace_id AND gm.scheme_id = :scheme_id AND gm.role = :owning_role
        AND gm.group_id = :group_id AND gm.member_id <> :member_id AND {able_in("CAST(:path AS uuid[])")}
""")
ROLES = text("SELECT role, rank FROM scheme_roles WHERE scheme_id = :scheme_id ORDER BY rank DESC")


@dataclass(frozen=True, slots=True)
class Member:
    """Who stands there."""

    id: str
    workspace_id: str
    user_id: str
    role: str
    kind: str


@dataclass(frozen=True, slots=True)
class Group:
    """Where they stand."""

    id: str
    path: Sequence[str]
    """From the topmost group down to itself."""
    scheme_id: str
    owning_role: str
    top_rank: int
    archived_at: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A full member who sees a group, and what they are there."""

    member: Member
    group: Group
    rank: int
    capabilities: frozenset[str]
    """What the roles in the group and above it give."""

    @property
    def may_everything(self) -> bool:
        """A workspace admin, or a holder of "*"."""
        return self.member.role == "admin" or EVERYTHING in self.capabilities

    def may(self, capability: str) -> bool:
        """Whether they have a capability in the group."""
        return self.may_everything or capability in self.capabilities or allows(self.member, capability)


async def access_group(
    tx: AsyncConnection, *, workspace_id: str, group_id: str, user_id: str, capability: str | None
) -> Standing:
    """The caller's standing, with the workspace locked: what it says stays true until the transaction ends.

    Without a capability, sight is enough. Errors: NotFound if they do not see the group; PermissionDenied.
    """
    if not await workspaces.lock_for_member(tx, workspace_id=workspace_id, user_id=user_id):
        raise NotFound
    return await require_standing(
        tx, workspace_id=workspace_id, group_id=group_id, user_id=user_id, capability=capability
    )


async def require_standing(
    tx: AsyncConnection, *, workspace_id: str, group_id: str, user_id: str, capability: str | None
) -> Standing:
    """The same without a lock: for a second group, and for reads. Errors: NotFound, PermissionDenied."""
    standing = await find_standing(tx, workspace_id=workspace_id, group_id=group_id, user_id=user_id)
    if standing is None:
        raise NotFound
    if capability is not None and not standing.may(capability):
        raise PermissionDenied
    return standing


async def find_standing(tx: AsyncConnection, *, workspace_id: str, group_id: str, user_id: str) -> Standing | None:
    """Somebody's standing, in one statement; None if they are no full member, or there is no group that they see."""
    named = {"workspace_id": workspace_id, "group_id": group_id, "user_id": user_id}
    row = (await tx.execute(FIND_STANDING, named)).one_or_none()
    if row is None:
        return None
    return Standing(
        Member(str(row.id), str(row.workspace_id), str(row.user_id), row.role, row.kind),
        Group(
            str(row.group_id),
            [str(each) for each in row.path],
            str(row.scheme_id),
            row.owning_role,
            row.top_rank,
            row.archived_at,
            row.version,
        ),
        row.rank,
        frozenset(row.capabilities),
    )


async def find_target(
    tx: AsyncConnection, standing: Standing, *, member_id: str | None = None, user_id: str | None = None
) -> Row[Any] | None:
    """Somebody of the workspace, suspended ones and guests too, with their role in the group, if any, and their rank.

    None for who is no member.
    """
    named = {"workspace_id": standing.member.workspace_id, "group_id": standing.group.id}
    return (await tx.execute(FIND_TARGET, {**named, "member_id": member_id, "user_id": user_id})).one_or_none()


async def roles_of(tx: AsyncConnection, scheme_id: str) -> dict[str, int]:
    """The roles of a scheme with their ranks, the highest first."""
    return {row.role: row.rank for row in await tx.execute(ROLES, {"scheme_id": scheme_id})}


async def require_grantable(tx: AsyncConnection, standing: Standing, role: str) -> None:
    """InvalidRequest for a role that the scheme does not have, RankTooLow for one above one's own."""
    rank = (await roles_of(tx, standing.group.scheme_id)).get(role)
    if rank is None:
        raise InvalidRequest(fields=[("role", "is not a role of the group's scheme")])
    if rank > standing.rank:
        raise RankTooLow


def require_rank_over(standing: Standing, target: Row[Any]) -> None:
    """RankTooLow for oneself, and for who is not of lower rank; the highest rank acts on its equals as well."""
    on_equals = standing.rank >= standing.group.top_rank
    lower = target.rank < standing.rank or (on_equals and target.rank == standing.rank)
    if str(target.id) == standing.member.id or not lower:
        raise RankTooLow


async def require_not_banned(tx: AsyncConnection, *, workspace_id: str, path: Sequence[str], user_id: str) -> None:
    """Banned, if somebody is from a group or from one above it; `path` is the group's."""
    named = {"workspace_id": workspace_id, "user_id": user_id, "path": list(path)}
    if (await tx.execute(FIND_BAN, named)).one_or_none() is not None:
        raise Banned


async def require_another_owner(tx: AsyncConnection, standing: Standing, *, member_id: str, role: str) -> None:
    """LastOwner if the group would be without an active owner when this member no longer has this role.

    The workspace is locked, or the count would not hold.
    """
    if role != standing.group.owning_role:
        return
    named = {
        "workspace_id": standing.member.workspace_id,
        "scheme_id": standing.group.scheme_id,
        "owning_role": standing.group.owning_role,
        "group_id": standing.group.id,
        "member_id": member_id,
        "path": list(standing.group.path),
    }
    if not await tx.scalar(COUNT_OTHER_OWNERS, named):
        raise LastOwner
