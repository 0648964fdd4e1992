"""An update changes the fields that its mask names, if they are its to change, and nothing else (AIP-134).

The RPCs are found from the contracts by their masks. Each is sent with another value in every field, and with a mask of
none, `*`, each field, one that is unknown, and nested ones; then every column is compared.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from services.chassis import contracts, masks
from tests.support.examples import FORWARDED, all_examples, rpc_of
from tests.support.examples.cast import Caller
from tests.support.examples.digests import CONTENTS, Digests, changed
from tests.support.examples.verdicts import OK, called, verdict
from tests.support.examples.world import House, Town, in_days, word
from tests.support.suite import Suite

pytestmark = pytest.mark.usefixtures("no_workers")

MASK = "google.protobuf.FieldMask"
REFUSED = "INVALID_ARGUMENT:INVALID_REQUEST"
STAMPS = frozenset({"version", "revision", "updated_at", "created_at", "last_event_seq"})
"""Columns that say that something changed, whatever it was."""
TOLD = ("outbox", "inbox", "conversation_events", "sight_losses", "policy_changes", "guest_notices", "guests")
"""Tables, by the beginnings of their names, that follow from a change: others are told of it, guests are held to it."""


@dataclass(frozen=True)
class Update:
    """What one RPC may change: by the path, the columns of its row, or the other tables, that change with it."""

    table: str
    key: str
    """The name of the field that names the row, and by which column it is found."""
    column: str
    changes: Mapping[str, frozenset[str]]


def changes(**paths: str) -> Mapping[str, frozenset[str]]:
    """By the path, what changes: columns, and tables with a dot in their name."""
    return MappingProxyType({path: frozenset(names.split()) for path, names in paths.items()})


UPDATES: Mapping[str, Update] = MappingProxyType(
    {
        "identity.UserService/UpdateUser": Update(
            "identity.users",
            "",
            "id",
            # A new address waits for its proof.
            changes(name="name", image_url="image_url", email="identity.verification_tokens"),
        ),
        "identity.AdapterService/UpdateUser": Update(
            "identity.users",
            "user_id",
            "id",
            changes(
                name="name",
                email="email normalized_email",
                email_verified="email_verified_at",
                image="image_url",
            ),
        ),
        "identity.AdapterService/UpdateSession": Update(
            "identity.sessions",
            "",
            "id",
            changes(expires="idle_expire_at absolute_expire_at", user_id=""),
        ),
        "membership.WorkspaceService/UpdateWorkspace": Update(
            "membership.workspaces",
            "workspace_id",
            "id",
            changes(name="name", message_edit_window="message_edit_window"),
        ),
        "membership.MemberService/UpdateMember": Update(
            "membership.members", "member_id", "id", changes(handle="membership.handles", title="title")
        ),
        "membership.GroupService/UpdateGroup": Update(
            "membership.groups",
            "group_id",
            "id",
            changes(name="name", description="description", avatar_url="avatar_url"),
        ),
        "membership.RoleSchemeService/UpdateRoleScheme": Update(
            "membership.role_schemes",
            "role_scheme_id",
            "id",
            changes(name="name", owning_role="owning_role", roles="membership.scheme_roles"),
        ),
        "membership.UserGroupService/UpdateUserGroup": Update(
            "membership.user_groups",
            "user_group_id",
            "id",
            changes(handle="membership.handles", name="name", description="description"),
        ),
        "guest.GuestService/UpdateGuestPolicy": Update(
            "guest.guest_policies",
            "workspace_id",
            "workspace_id",
            changes(
                grace="grace",
                maximum_stay="maximum_stay",
                notice_days="notice_days",
                members_may_invite="members_may_invite",
            ),
        ),
        "messaging.ConversationService/UpdateConversation": Update(
            "messaging.conversations",
            "conversation_id",
            "id",
            changes(name="name", topic="topic", visibility="visibility", retention="retention_seconds"),
        ),
    }
)
"""Every update with a mask."""


def with_masks() -> set[str]:
    """The RPCs whose requests have a mask, from the contracts."""
    return {
        name.split(" ")[0]
        for name in all_examples()
        for field in contracts.request_class(rpc_of(name)).DESCRIPTOR.fields  # type: ignore[attr-defined]
        if field.message_type and field.message_type.full_name == MASK
    }


def other_value(field: FieldDescriptor, number: int, present: dict[str, Any]) -> Any:
    """A value that nothing has yet, and that the rules let through."""
    special: dict[str, Any] = {
        "email": f"{word('other')}@example.com",
        "handle": word("h")[:20],
        "avatar_url": f"https://example.com/{word('a')}",
        "image_url": f"https://example.com/{word('i')}",
        "owning_role": "hand" if present.get("owning_role") == "captain" else "captain",
        "visibility": 1 if present.get("visibility") == "private" else 2,
        "roles": [{"role": "captain", "rank": 3 + number % 90, "capabilities": ["*"]}, {"role": "hand", "rank": 1}],
        "notice_days": [1 + number % 50],
        "members_may_invite": not present.get("members_may_invite"),
    }
    if field.name in special:
        return special[field.name]
    if field.type == FieldDescriptor.TYPE_STRING:
        return str(uuid.uuid4()) if field.name.endswith("_id") else word(field.name)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return True
    return field.enum_type.values[-1].number if field.type == FieldDescriptor.TYPE_ENUM else 7 + number


def filled(holder: Any, kept: frozenset[str], number: int, present: dict[str, Any]) -> None:
    """Puts another value into every field but those that say what it is about."""
    for field in holder.DESCRIPTOR.fields:
        kind = field.message_type.full_name if field.message_type else ""
        if field.name in kept or field.name in ("etag", "request_id") or kind == MASK:
            continue
        if kind == "google.protobuf.Timestamp":
            getattr(holder, field.name).CopyFrom(in_days(-2 - number if "verified" in field.name else 3 + number))
        elif kind == "google.protobuf.Duration":
            getattr(holder, field.name).seconds = 864_000 + 86_400 * (number % 100)
        elif field.is_repeated and (field.name in ("roles", "notice_days")):
            holder.ClearField(field.name)
            for item in other_value(field, number, present):
                if kind:
                    getattr(holder, field.name).add(**item)
                else:
                    getattr(holder, field.name).append(item)
        elif not kind and not field.is_repeated:
            setattr(holder, field.name, other_value(field, number, present))


class Case:
    """One update of one thing."""

    def __init__(self, house: House, name: str) -> None:
        self._house = house
        self._suite = house.suite
        self.name = name
        self.update = UPDATES[name]
        self._rpc = rpc_of(name)
        self._digests = Digests(house.suite, counting=CONTENTS)
        self._number = 0

    async def prepare(self) -> "Case":
        """The example's own thing, and who may change it."""
        caller = Caller("admin", person=self._house.boss, member_id=self._house.boss_id)
        made = all_examples()[self.name].fields(self._house, caller)
        fields = made if isinstance(made, dict) else await made
        assert FORWARDED not in fields
        self.base: Any = contracts.request_class(self._rpc)(**fields)
        app = self._rpc.service.endswith("AdapterService")
        self._metadata = (self._house.town.app if app else self._house.boss).metadata
        await self.send(sorted(self.update.changes))  # what a column has by default may be spelled otherwise
        return self

    @property
    def holder(self) -> str:
        """The field that the mask is about; empty if it is the request itself."""
        parts = [field.name for field in self.base.DESCRIPTOR.fields if field.message_type]
        about = [
            name
            for name in parts
            if not self.base.DESCRIPTOR.fields_by_name[name].message_type.full_name.startswith("google.")
        ]
        return about[0] if about else ""

    @property
    def fields(self) -> list[str]:
        """Every field that a mask could name."""
        holder = getattr(self.base, self.holder) if self.holder else self.base
        return [field.name for field in holder.DESCRIPTOR.fields]

    def request(self, paths: list[str] | None) -> Message:
        """Another value in every field, and a mask; None for no mask."""
        self._number += 1
        request = type(self.base)()
        request.CopyFrom(self.base)
        holder = getattr(request, self.holder) if self.holder else request
        kept = {"workspace_id", "session_token", self.update.key}
        if self.name == "identity.AdapterService/UpdateSession":
            request.user_id = self._house.bob.user_id  # the one value that it lets through
            kept.add("user_id")
        filled(holder, frozenset(kept), self._number, self.row())
        request.ClearField("update_mask")
        if paths is not None:
            request.update_mask.CopyFrom(FieldMask(paths=paths))
        return request

    def row(self) -> dict[str, Any]:
        """All that is stored in the thing's own row."""
        holder = getattr(self.base, self.holder) if self.holder else self.base
        query = f"SELECT to_jsonb(t) FROM {self.update.table} t WHERE {self.update.column} = %s"
        value: Any = getattr(holder, self.update.key) if self.update.key else self._house.boss.user_id
        if self.name == "identity.AdapterService/UpdateSession":
            query = (
                "SELECT to_jsonb(t) FROM identity.sessions t JOIN identity.session_tokens k ON k.session_id = t.id"
                " WHERE k.token_hash = sha256(%s::bytea)"
            )
            value = holder.session_token.encode()
        ((stored,),) = self._suite.rows(f"{self.update.table.split('.')[0]}_owner", query, [value])
        return dict(stored)

    async def send(self, paths: list[str] | None) -> tuple[str, frozenset[str]]:
        """What came of it, and what changed: columns of the row, and other tables by their full names."""
        request = self.request(paths)
        before, row = await self._digests.take(), self.row()
        found = verdict(*await called(self._suite, self.name, self._rpc, request, metadata=self._metadata))
        after, present = await self._digests.take(), self.row()
        columns = {column for column in row if row[column] != present[column]} - STAMPS
        tables = set(changed(before, after)) - {self.update.table}
        if found == OK:
            tables = {table for table in tables if not table.partition(".")[2].startswith(TOLD)}
        return found, frozenset(columns | tables)


def refused_masks(case: Case) -> list[list[str] | None]:
    """Masks that nobody may send."""
    allowed = sorted(case.update.changes)
    others = [[name] for name in case.fields if name not in case.update.changes]
    nested = [[f"{name}.seconds"] for name in allowed] + [[f"{case.holder or 'request'}.{allowed[0]}"]]
    mixed = [[allowed[0], *other] for other in others]
    return [None, [], ["*"], [""], ["no_such_field"], [allowed[0], "no_such_field"], *others, *nested, *mixed]


@pytest.fixture(scope="module")
async def house(suite: Suite) -> House:
    """Where all is updated."""
    return await House(await Town(suite).prepare()).prepare()


def test_every_rpc_with_a_mask_is_here() -> None:
    assert with_masks() == set(UPDATES)


@pytest.mark.parametrize("name", UPDATES)
async def test_an_update_changes_what_is_named_and_nothing_else(name: str, house: House) -> None:
    case = await Case(house, name).prepare()
    for path, expected in case.update.changes.items():
        found, what = await case.send([path])
        assert (found, what) == (OK, expected), path
    every = frozenset().union(*case.update.changes.values())
    assert await case.send(sorted(case.update.changes)) == (OK, every)


@pytest.mark.parametrize("name", UPDATES)
async def test_a_mask_that_names_anything_else_is_refused_and_changes_nothing(name: str, house: House) -> None:
    case = await Case(house, name).prepare()
    found = {str(paths): await case.send(paths) for paths in refused_masks(case)}
    assert found == dict.fromkeys(found, (REFUSED, frozenset()))


async def test_a_mask_that_is_not_checked_is_found_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    case = await Case(house, "membership.GroupService/UpdateGroup").prepare()
    monkeypatch.setattr(masks, "paths", lambda mask, *, allowed: frozenset(allowed))
    assert await case.send(["etag"]) == (OK, frozenset().union(*case.update.changes.values()))
