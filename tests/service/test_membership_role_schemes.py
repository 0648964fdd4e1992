"""Role schemes: the built-in ones and a workspace's own, in use and out of use."""

import uuid
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.membership.v1 import role_scheme_service_pb2 as schemes
from guildhall.membership.v1 import role_scheme_service_pb2_grpc as scheme_rpc

from tests.service.test_membership_groups import EDUCATION, Place, new_place
from tests.service.test_membership_workspaces import somebody
from tests.support.suite import Person, Suite, refused

CREW = (("captain", 300, ["*"]), ("mate", 200, ["group.read", "sails.set"]), ("hand", 100, ["group.read"]))


async def call(place: Place, rpc: str, *, by: Person | None = None, **fields: Any) -> Any:
    """An RPC of RoleSchemeService."""
    request = getattr(schemes, f"{rpc}Request")
    if "workspace_id" in request.DESCRIPTOR.fields_by_name:
        fields = {"workspace_id": place.id, **fields}
    stub = place.suite.stub(scheme_rpc.RoleSchemeServiceStub)
    return await (by or place.workspace.admin).call(getattr(stub, rpc), request(**fields))


def roles(*rows: tuple[str, int, list[str]]) -> list[schemes.SchemeRole]:
    """Roles of a scheme."""
    return [schemes.SchemeRole(role=role, rank=rank, capabilities=given) for role, rank, given in rows]


async def create(place: Place, name: str = "crew", **fields: Any) -> Any:
    """A scheme of the workspace's own."""
    fields = {"name": name, "owning_role": "captain", "roles": roles(*CREW), **fields}
    return (await call(place, "CreateRoleScheme", **fields)).role_scheme


async def update(place: Place, scheme: Any, *paths: str, **fields: Any) -> Any:
    """A scheme, changed."""
    ids = {"workspace_id": place.id, "role_scheme_id": scheme.role_scheme_id}
    changed = schemes.RoleScheme(**ids, **fields)
    answer = await call(place, "UpdateRoleScheme", role_scheme=changed, update_mask=FieldMask(paths=paths))
    return answer.role_scheme


async def test_every_workspace_has_the_built_in_schemes_and_they_come_first(suite: Suite) -> None:
    place = await new_place(suite)
    made = await create(place)

    page = await call(place, "ListRoleSchemes", page_size=2)
    rest = await call(place, "ListRoleSchemes", page_token=page.next_page_token)

    listed = [*page.role_schemes, *rest.role_schemes]
    assert [(one.name, one.owning_role, one.built_in) for one in listed] == [
        ("community", "owner", True),
        ("education", "group_admin", True),
        ("crew", "captain", False),
    ]
    assert listed[2] == made
    assert [role.role for role in listed[0].roles] == ["owner", "admin", "moderator", "member"]
    assert [role.role for role in listed[1].roles] == ["system_admin", "group_admin", "teacher", "student"]
    assert {one.workspace_id for one in listed} == {place.id}
    assert (await call(place, "GetRoleScheme", role_scheme_id=EDUCATION)).role_scheme == listed[1]


async def test_another_workspaces_scheme_and_who_may_not_see_any_are_not_found(suite: Suite) -> None:
    place, other = await new_place(suite), await new_place(suite)
    gil, eve = await somebody(suite, "Gil"), await somebody(suite, "Eve")
    await place.workspace.confirm_guest((await place.workspace.add_guest(gil)).member_id)
    bob, _bob_id = await place.newcomer("Bob", "viewer")
    own, foreign = await create(place), await create(other)

    unknown = await refused(call(place, "GetRoleScheme", role_scheme_id=str(uuid.uuid4())))
    for by, scheme_id in ((None, foreign.role_scheme_id), (gil, EDUCATION), (eve, EDUCATION)):
        assert (await refused(call(place, "GetRoleScheme", by=by, role_scheme_id=scheme_id))).raw == unknown.raw
    for by in (gil, eve):
        assert (await refused(call(place, "ListRoleSchemes", by=by))).raw == unknown.raw
    assert (await refused(place.create(role_scheme_id=foreign.role_scheme_id))).raw == unknown.raw
    assert (await refused(call(place, "DeleteRoleScheme", role_scheme_id=foreign.role_scheme_id))).raw == unknown.raw
    assert (await call(place, "GetRoleScheme", by=bob, role_scheme_id=own.role_scheme_id)).role_scheme == own


async def test_only_who_manages_schemes_changes_them_and_nobody_the_built_in_ones(suite: Suite) -> None:
    place = await new_place(suite)
    bob, _bob_id = await place.newcomer("Bob")
    made = await create(place)
    built_in = schemes.RoleScheme(role_scheme_id=EDUCATION)

    own = {"name": "mine", "owning_role": "captain", "roles": roles(*CREW)}
    assert (await refused(call(place, "CreateRoleScheme", by=bob, **own))).reason == "PERMISSION_DENIED"
    deletion = call(place, "DeleteRoleScheme", by=bob, role_scheme_id=made.role_scheme_id)
    assert (await refused(deletion)).reason == "PERMISSION_DENIED"
    assert (await refused(update(place, built_in, "name", name="x"))).reason == "PERMISSION_DENIED"
    assert (await refused(call(place, "DeleteRoleScheme", role_scheme_id=EDUCATION))).reason == "PERMISSION_DENIED"
    await call(place, "DeleteRoleScheme", role_scheme_id=made.role_scheme_id)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("owning_role", {"owning_role": "cook"}),
        ("roles", {"roles": roles(("captain", 1, []), ("captain", 2, []))}),
        ("roles", {"roles": roles(("captain", 1, []), ("hand", 1, []))}),
        ("roles", {"roles": []}),
        ("roles[0].rank", {"roles": roles(("captain", 0, []))}),
        ("roles[0].role", {"roles": roles(("Captain", 1, []))}),
        ("roles[0].capabilities[0]", {"roles": roles(("captain", 1, ["Not good"]))}),
        ("name", {"name": ""}),
    ],
)
async def test_a_scheme_that_makes_no_sense_is_refused(suite: Suite, field: str, changes: dict[str, Any]) -> None:
    place = await new_place(suite)
    refusal = await refused(create(place, **changes))
    assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.fields) == [field]


async def test_a_name_is_had_once_and_the_built_in_ones_are_had_already(suite: Suite) -> None:
    place, other = await new_place(suite), await new_place(suite)
    crew, deck = await create(place), await create(place, "deck")

    for name in ("crew", "community"):
        assert (await refused(create(place, name))).reason == "NAME_TAKEN"
        assert (await refused(update(place, deck, "name", name=name))).reason == "NAME_TAKEN"
    assert (await update(place, crew, "name", name="crew")).name == "crew"
    assert (await create(other)).name == "crew"


async def test_what_roles_let_people_do_changes_at_once_in_every_group(suite: Suite) -> None:
    place = await new_place(suite)
    bob, bob_id = await place.newcomer("Bob")
    scheme = await create(place)
    ships = [await place.create(role_scheme_id=scheme.role_scheme_id) for _ in range(2)]
    for ship in ships:
        await place.add(ship, bob_id, "mate")
        assert (await place.may("sails.set", ship, user_id=bob.user_id)).allowed
    revision = await place.workspace.revision()

    renamed = await update(place, scheme, "name", name="ship's crew", etag=scheme.etag)
    assert await place.workspace.revision() == revision
    assert (await refused(update(place, scheme, "name", name="x", etag=scheme.etag))).reason == "ETAG_MISMATCH"
    new_roles = roles(("captain", 30, ["*"]), ("mate", 20, ["anchor.weigh"]), ("cook", 10, []))
    changed = await update(place, scheme, "roles", roles=new_roles, name="not named")

    assert (changed.name, [role.role for role in changed.roles]) == (renamed.name, ["captain", "mate", "cook"])
    assert await place.workspace.revision() == revision + 1
    for ship in ships:
        assert not (await place.may("sails.set", ship, user_id=bob.user_id)).allowed
        assert (await place.may("anchor.weigh", ship, user_id=bob.user_id)).allowed
        assert await place.role_of(ship, bob_id) == "mate"


async def test_a_role_that_is_held_or_given_stays(suite: Suite) -> None:
    place = await new_place(suite)
    _bob, bob_id = await place.newcomer("Bob")
    scheme = await create(place)
    ship = await place.create(role_scheme_id=scheme.role_scheme_id)
    await place.add(ship, bob_id, "mate")
    await place.codes("CreateGroupInvite", group_id=ship.group_id, role="hand")

    for missing in ("mate", "hand"):
        left = roles(*(row for row in CREW if row[0] != missing))
        assert (await refused(update(place, scheme, "roles", roles=left))).reason == "SCHEME_IN_USE"
    free = await update(place, scheme, "roles", roles=roles(*CREW, ("cook", 50, [])))
    assert [role.role for role in (await update(place, free, "roles", roles=roles(*CREW))).roles] == [
        "captain",
        "mate",
        "hand",
    ]


async def test_another_owning_role_takes_somebody_in_it_in_every_group(suite: Suite) -> None:
    place = await new_place(suite)
    _bob, bob_id = await place.newcomer("Bob")
    scheme = await create(place)
    ship = await place.create(role_scheme_id=scheme.role_scheme_id)

    assert (await refused(update(place, scheme, "owning_role", owning_role="mate"))).reason == "SCHEME_IN_USE"
    assert list((await refused(update(place, scheme, "owning_role", owning_role="cook"))).fields) == [
        "role_scheme.owning_role"
    ]
    await place.add(ship, bob_id, "mate")
    revision = await place.workspace.revision()
    assert (await update(place, scheme, "owning_role", owning_role="mate")).owning_role == "mate"

    assert await place.workspace.revision() == revision + 1
    assert (await place.group("GetGroup", group_id=ship.group_id)).group.owner_member_id == bob_id


async def test_a_scheme_that_a_group_has_stays_and_goes_after_it(suite: Suite) -> None:
    place = await new_place(suite)
    scheme = await create(place)
    ship = await place.create(role_scheme_id=scheme.role_scheme_id)
    named = {"role_scheme_id": scheme.role_scheme_id}

    assert (await refused(call(place, "DeleteRoleScheme", **named))).reason == "SCHEME_IN_USE"
    await place.group("DeleteGroup", group_id=ship.group_id)
    assert (await refused(call(place, "DeleteRoleScheme", etag="0", **named))).reason == "ETAG_MISMATCH"
    await call(place, "DeleteRoleScheme", etag=scheme.etag, **named)

    assert (await refused(call(place, "GetRoleScheme", **named))).reason == "NOT_FOUND"


async def test_only_what_can_be_changed_is_named_in_a_mask(suite: Suite) -> None:
    place = await new_place(suite)
    scheme = await create(place)
    for paths in ([], ["*"], ["built_in"], ["roles.role"]):
        assert "update_mask" in (await refused(update(place, scheme, *paths, name="x"))).fields
    assert list((await refused(update(place, scheme, "roles"))).fields) == ["role_scheme.roles"]
    assert (await update(place, scheme, "name", name="x")).name == "x"
