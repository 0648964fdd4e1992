"""Role schemes as data: the built-in ones of every workspace, and a workspace's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import uuid_utils
from sqlalchemy import Row, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import EtagMismatch, InvalidRequest, NotFound, PermissionDenied
from services.membership import limits
from services.membership.activities import Activity, record
from services.membership.errors import NameTaken, SchemeInUse
from services.membership.groups import FIRST
from services.membership.holders import owned
from services.membership.members import CALLER
from services.membership.revisions import raise_access_revision

SCHEME = """
    s.id, s.workspace_id, s.name, s.owning_role, s.version, s.created_at, s.updated_at, (
        SELECT json_agg(
            json_build_object('role', r.role, 'rank', r.rank, 'capabilities', r.capabilities) ORDER BY r.rank DESC
        )
        FROM scheme_roles r WHERE r.scheme_id = s.id
    ) AS roles
"""
"""SQL: what wire_groups.role_scheme reads."""
ITS_OWN = "(s.workspace_id = :workspace_id OR s.workspace_id IS NULL)"
GET = text(f"SELECT {SCHEME} FROM role_schemes s WHERE s.id = :scheme_id AND {ITS_OWN}")
FIND_SEEN = text(f"""
    SELECT {SCHEME}
    FROM {CALLER} JOIN role_schemes s ON s.id = :scheme_id AND {ITS_OWN}
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
        AND caller.kind = 'full'
""")
# The ids of the built-in ones are the lowest.
LIST = text(f"""
    SELECT {SCHEME}
    FROM {CALLER}
    JOIN LATERAL (
        SELECT * FROM role_schemes s WHERE {ITS_OWN} AND s.id > CAST(:after AS uuid) ORDER BY s.id LIMIT :size
    ) s ON true
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
        AND caller.kind = 'full'
    ORDER BY s.id
""")
IS_CALLER = text(f"""
    SELECT FROM {CALLER}
    WHERE caller.workspace_id = :workspace_id AND caller.user_id = :user_id AND caller.state = 'active'
        AND caller.kind = 'full'
""")
FIND_NAME = text(f"""
    SELECT FROM role_schemes s WHERE {ITS_OWN} AND s.name = :name AND s.id <> CAST(:scheme_id AS uuid) LIMIT 1
""")
INSERT = text("""
    INSERT INTO role_schemes (id, workspace_id, name, owning_role)
    VALUES (:scheme_id, :workspace_id, :name, :owning_role)
""")
UPDATE = text("""
    UPDATE role_schemes SET name = :name, owning_role = :owning_role, version = version + 1,
        updated_at = statement_timestamp()
    WHERE workspace_id = :workspace_id AND id = :scheme_id
""")
PUT_ROLE = text("""
    INSERT INTO scheme_roles (scheme_id, role, rank, capabilities)
    VALUES (:scheme_id, :role, :rank, CAST(:capabilities AS text[]))
    ON CONFLICT (scheme_id, role) DO UPDATE SET rank = excluded.rank, capabilities = excluded.capabilities
""")
DELETE_OTHER_ROLES = text("""
    DELETE FROM scheme_roles WHERE scheme_id = :scheme_id AND role <> ALL(CAST(:roles AS text[]))
""")
DELETE = text("DELETE FROM role_schemes WHERE workspace_id = :workspace_id AND id = :scheme_id")
FIND_UNOWNED = text(f"""
    SELECT g.id FROM groups g
    WHERE g.workspace_id = :workspace_id AND g.scheme_id = :scheme_id AND g.archived_at IS NULL
        AND NOT {owned("CAST(:owning_role AS text)", path="g.path")}
    LIMIT 1
""")
IN_USE = {"groups_scheme_fkey", "group_members_role_fkey", "group_invites_role_fkey"}


@dataclass(frozen=True, slots=True)
class Design:
    """What a scheme is made of."""

    name: str
    owning_role: str
    roles: Mapping[str, tuple[int, Sequence[str]]]
    """By name: the rank, and the capabilities in a fixed order."""


def require_design(
    name: str, owning_role: str, roles: Sequence[tuple[str, int, Sequence[str]]], *, where: str
) -> Design:
    """A scheme that makes sense; `where` is the path of its fields in the request. Errors: InvalidRequest."""
    by_name = {role: (rank, sorted(capabilities)) for role, rank, capabilities in roles}
    if not name:
        raise InvalidRequest(fields=[(f"{where}name", "must not be empty")])
    if len(by_name) < len(roles) or len({rank for rank, _ in by_name.values()}) < len(roles) or not roles:
        raise InvalidRequest(fields=[(f"{where}roles", "needs at least one role, all of different names and ranks")])
    if owning_role not in by_name:
        raise InvalidRequest(fields=[(f"{where}owning_role", "is not one of the roles")])
    return Design(name, owning_role, by_name)


def design_of(row: Row[Any]) -> Design:
    """What a scheme is made of now."""
    roles = {each["role"]: (each["rank"], sorted(each["capabilities"])) for each in row.roles}
    return Design(row.name, row.owning_role, roles)


async def list_page(
    tx: AsyncConnection, *, workspace_id: str, user_id: str, after: str | None, size: int
) -> Sequence[Row[Any]]:
    """The built-in schemes, then the workspace's own, after a scheme id. Errors: NotFound."""
    page = {"workspace_id": workspace_id, "user_id": user_id, "after": after or FIRST, "size": size}
    rows = (await tx.execute(LIST, page)).all()
    if not rows and (await tx.execute(IS_CALLER, page)).one_or_none() is None:
        raise NotFound
    return rows


async def access_scheme(tx: AsyncConnection, *, workspace_id: str, scheme_id: str, user_id: str) -> Row[Any]:
    """A scheme, for a full member. Errors: NotFound."""
    named = {"workspace_id": workspace_id, "scheme_id": scheme_id, "user_id": user_id}
    row = (await tx.execute(FIND_SEEN, named)).one_or_none()
    if row is None:
        raise NotFound
    return row


async def find_own(tx: AsyncConnection, *, workspace_id: str, scheme_id: str, etag: str) -> Row[Any]:
    """A scheme that can be changed. The workspace is locked. Errors: NotFound, PermissionDenied, EtagMismatch."""
    row = (await tx.execute(GET, {"workspace_id": workspace_id, "scheme_id": scheme_id})).one_or_none()
    if row is None:
        raise NotFound
    if row.workspace_id is None:
        raise PermissionDenied("The built-in schemes are everybody's; make one of your own.")
    if etag and etag != str(row.version):
        raise EtagMismatch
    return row


async def create(tx: AsyncConnection, *, workspace_id: str, design: Design) -> Row[Any]:
    """A new scheme. The workspace is locked. Errors: NameTaken, LimitReached."""
    await limits.require(tx, "role_schemes", workspace_id=workspace_id)
    named = {"workspace_id": workspace_id, "scheme_id": str(uuid_utils.uuid7())}
    await _require_free_name(tx, named, design.name)
    await tx.execute(INSERT, {**named, "name": design.name, "owning_role": design.owning_role})
    await _put_roles(tx, named["scheme_id"], design)
    made = {"name": design.name, **_told(design)}
    activity = Activity("role_scheme.created", "role_scheme", named["scheme_id"], metadata={"after": made})
    await record(tx, workspace_id, [activity])
    return (await tx.execute(GET, named)).one()


async def update(tx: AsyncConnection, before: Row[Any], design: Design) -> Row[Any]:
    """Makes a scheme what `design` says; its roles hold at once, in every group of it. The workspace is locked.

    Errors: NameTaken; SchemeInUse if a role that is held or given would be gone, or a group be without an owner.
    """
    named = {"workspace_id": str(before.workspace_id), "scheme_id": str(before.id)}
    old = design_of(before)
    await _require_free_name(tx, named, design.name)
    await _put_roles(tx, named["scheme_id"], design)
    try:
        await tx.execute(DELETE_OTHER_ROLES, {**named, "roles": list(design.roles)})
    except exc.IntegrityError as error:
        if _constraint(error) not in IN_USE:
            raise
        raise SchemeInUse from error
    if design.owning_role != old.owning_role:
        unowned = await tx.execute(FIND_UNOWNED, {**named, "owning_role": design.owning_role})
        if unowned.one_or_none() is not None:
            raise SchemeInUse
    await tx.execute(UPDATE, {**named, "name": design.name, "owning_role": design.owning_role})
    if (old.roles, old.owning_role) != (design.roles, design.owning_role):
        await raise_access_revision(tx, named["workspace_id"], "role_scheme_changed")
    metadata = {
        "before": {"name": old.name, **_told(old)},
        "after": {"name": design.name, **_told(design)},
    }
    activity = Activity("role_scheme.updated", "role_scheme", named["scheme_id"], metadata=metadata)
    await record(tx, named["workspace_id"], [activity])
    return (await tx.execute(GET, named)).one()


async def delete(tx: AsyncConnection, row: Row[Any]) -> None:
    """Removes a scheme that no group has. The workspace is locked. Errors: SchemeInUse."""
    named = {"workspace_id": str(row.workspace_id), "scheme_id": str(row.id)}
    try:
        await tx.execute(DELETE, named)
    except exc.IntegrityError as error:
        if _constraint(error) not in IN_USE:
            raise
        raise SchemeInUse from error
    activity = Activity(
        "role_scheme.deleted", "role_scheme", named["scheme_id"], metadata={"before": {"name": row.name}}
    )
    await record(tx, named["workspace_id"], [activity])


async def _require_free_name(tx: AsyncConnection, named: Mapping[str, str], name: str) -> None:
    """Also of the built-in ones, which are the workspace's as well."""
    if (await tx.execute(FIND_NAME, {**named, "name": name})).one_or_none() is not None:
        raise NameTaken


async def _put_roles(tx: AsyncConnection, scheme_id: str, design: Design) -> None:
    await tx.execute(
        PUT_ROLE,
        [
            {"scheme_id": scheme_id, "role": role, "rank": rank, "capabilities": list(capabilities)}
            for role, (rank, capabilities) in design.roles.items()
        ],
    )


def _told(design: Design) -> dict[str, Any]:
    roles = {role: {"rank": rank, "capabilities": list(given)} for role, (rank, given) in design.roles.items()}
    return {"owning_role": design.owning_role, "roles": roles}


def _constraint(error: exc.IntegrityError) -> str | None:
    return error.orig.diag.constraint_name if isinstance(error.orig, psycopg.Error) else None
