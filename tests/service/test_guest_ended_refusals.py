"""To a guest whose grace is over a workspace is like one that never was: also where guests are denied something."""

import pytest

from tests.support.examples import all_examples, rpc_of
from tests.support.examples.cast import Caller
from tests.support.examples.ids import never_issued, replaced
from tests.support.examples.verdicts import called
from tests.support.examples.world import House, Town
from tests.support.suite import Suite, refusal_of

DENIED = (
    "membership.WorkspaceService/DeleteWorkspace",
    "membership.WorkspaceService/UpdateWorkspace",
    "membership.MemberService/SuspendMember",
    "membership.MemberService/ListBannedMembers",
    "membership.InvitationService/CreateInvitation",
    "membership.InvitationService/ListInvitations",
    "membership.RoleSchemeService/CreateRoleScheme",
    "membership.UserGroupService/CreateUserGroup",
    "membership.GroupService/CreateGroup",
    "membership.AccessService/CheckAccess",
    "membership.AccessService/ExplainAccess",
)


@pytest.fixture(scope="module")
async def house(suite: Suite) -> House:
    """A workspace with a guest."""
    return await House(await Town(suite).prepare()).prepare()


@pytest.mark.parametrize("name", DENIED)
async def test_what_is_denied_to_a_guest_is_nowhere_for_one_who_has_ended(house: House, name: str) -> None:
    person, member_id = await house.new_guest()
    rpc = rpc_of(name)
    request, _ = await all_examples()[name].build(rpc, house, Caller("guest", person, member_id))
    elsewhere = replaced(request, {house.id: never_issued(house.id)})

    _, denied = await called(house.suite, name, rpc, request, metadata=person.metadata)
    house.move(member_id, expire_in="-2 days")
    _, hidden = await called(house.suite, name, rpc, request, metadata=person.metadata)
    _, unknown = await called(house.suite, name, rpc, elsewhere, metadata=person.metadata)

    assert denied is not None
    assert refusal_of(denied).reason == "PERMISSION_DENIED"
    assert hidden is not None
    assert unknown is not None
    assert refusal_of(hidden) == refusal_of(unknown)
