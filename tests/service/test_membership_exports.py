"""How many exports of the activity log one person reads at once, for how long, and by whose session."""

import asyncio
from typing import Any

import grpc
import pytest
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.identity.v1 import auth_service_pb2_grpc as auth_rpc
from guildhall.membership.v1 import activity_service_pb2 as pb
from guildhall.membership.v1 import activity_service_pb2_grpc as activity_rpc

from services.membership import activity_exports
from tests.service.test_membership_activities import export, lines_of
from tests.service.test_membership_chains import WAITING, log_of
from tests.service.test_membership_workspaces import new_workspace, somebody
from tests.support.deliveries import until
from tests.support.suite import Person, Suite, refusal_of, refused


async def test_a_fifth_export_of_one_person_at_once_is_refused_until_another_has_ended(suite: Suite) -> None:
    workspace, other = await new_workspace(suite), await new_workspace(suite, await somebody(suite, "Eve"))
    with suite.database("membership_owner") as database, database.transaction():
        database.execute("LOCK TABLE membership.activities IN ACCESS EXCLUSIVE MODE")
        reading = [asyncio.create_task(export(workspace)) for _ in range(4)]
        await until(lambda: suite.rows("membership", WAITING, ()) == [(4,)])

        refusal = await refused(export(workspace))
        others = asyncio.create_task(export(other))

    assert (refusal.reason, refusal.metadata) == ("LIMIT_REACHED", {"limit": "exports", "most": "4"})
    assert await others
    assert all(await asyncio.gather(*reading))
    assert await export(workspace)


async def test_an_export_gives_nothing_that_was_read_after_its_session_ended(suite: Suite) -> None:
    workspace = await log_of(suite)
    phone = await suite.signed_in(workspace.admin.email)
    with suite.database("membership_owner") as database, database.transaction():
        database.execute("LOCK TABLE membership.activities IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.create_task(refused(export(workspace, by=phone)))
        others = asyncio.create_task(export(workspace))
        await until(lambda: suite.rows("membership", WAITING, ()) == [(2,)])
        await phone.call(suite.stub(auth_rpc.AuthServiceStub).SignOut, auth.SignOutRequest())
    assert (await reading).reason == "SESSION_ENDED"
    assert len(lines_of(await others)) == 8


async def read(person: Person, stub: Any, workspace_id: str, after: int) -> tuple[list[Any], str]:
    """What an export gives after a number, and how it ends: OK, or the reason."""
    request = pb.ExportActivitiesRequest(workspace_id=workspace_id, after_number=after)
    call, responses = person.stream(stub.ExportActivities, request), []
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            responses.append(response)
    except grpc.aio.AioRpcError as error:
        return responses, refusal_of(error).reason
    return responses, "OK"


async def test_an_export_that_lasts_too_long_says_so_and_goes_on_after_its_last_number(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity_exports, "ROWS", 3)
    workspace, stub = await log_of(suite), suite.stub(activity_rpc.ActivityServiceStub)
    whole = [one.number for one in lines_of(await export(workspace))]
    monkeypatch.setattr(activity_exports, "LONGEST_SECONDS", 0)
    found: list[int] = []
    ends = []
    while "OK" not in ends:
        responses, end = await read(workspace.admin, stub, workspace.id, found[-1] if found else 0)
        found += [one.number for one in lines_of(responses)]
        ends.append(end)
    assert ends == ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "OK"]
    assert found == whole == list(range(1, 9))
