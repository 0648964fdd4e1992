"""guest's RPCs by name, and what the tests of guests look at."""

import importlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.membership.v1 import access_service_pb2_grpc as access_rpc

from tests.service.test_guest_invites import House
from tests.support.suite import Person

SERVICES: Mapping[str, str] = MappingProxyType({"Invite": "GuestInviteService", "": "GuestService"})


def call(house: House, method: str, *, by: Person | None = None, **fields: Any) -> Any:
    """An RPC of GuestService or GuestInviteService in the house, by its admin unless `by` says otherwise."""
    service = SERVICES["Invite" if "GuestInvite" in method else ""]
    module = "guildhall.guest.v1." + re.sub("(?<!^)(?=[A-Z])", "_", service).lower() + "_pb2"
    request_class = getattr(importlib.import_module(module), f"{method}Request")
    if "workspace_id" in request_class.DESCRIPTOR.fields_by_name:
        fields = {"workspace_id": house.workspace_id, **fields}
    stub = house.suite.stub(getattr(importlib.import_module(f"{module}_grpc"), f"{service}Stub"))
    return (by or house.admin).call(getattr(stub, method), request_class(**fields))


def peer(house: House, method: str, **fields: Any) -> Any:
    """An RPC of GuestAccessService in the house, asked by messaging."""
    pb2 = importlib.import_module("guildhall.guest.v1.guest_access_service_pb2")
    rpc = importlib.import_module("guildhall.guest.v1.guest_access_service_pb2_grpc")
    stub = house.suite.stub(rpc.GuestAccessServiceStub, certificate="messaging")
    request = getattr(pb2, f"{method}Request")(workspace_id=house.workspace_id, **fields)
    return getattr(stub, method)(request, timeout=10)


def update_policy(
    house: House, *, by: Person | None = None, etag: str = "", request_id: str = "", **fields: Any
) -> Any:
    """Sets the fields of the house's policy; spans are timedeltas."""
    spans = {name: span(value) if isinstance(value, timedelta) else value for name, value in fields.items()}
    policy = pb.GuestPolicy(workspace_id=house.workspace_id, etag=etag, **spans)
    mask = FieldMask(paths=list(fields))
    return call(house, "UpdateGuestPolicy", by=by, policy=policy, update_mask=mask, request_id=request_id)


def span(value: timedelta) -> Duration:
    """A span as the wire has it."""
    wired = Duration()
    wired.FromTimedelta(value)
    return wired


def at(moment: datetime) -> Timestamp:
    """A time as the wire has it."""
    wired = Timestamp()
    wired.FromDatetime(moment)
    return wired


def moment(wired: Timestamp) -> datetime:
    """A time of the wire."""
    return wired.ToDatetime(tzinfo=UTC)


def clock(house: House) -> datetime:
    """The database's."""
    found = house.sql("SELECT statement_timestamp()")[0][0]
    assert isinstance(found, datetime)
    return found


async def revision(house: House) -> int:
    """The workspace's access revision."""
    stub = house.suite.stub(access_rpc.AccessServiceStub, certificate="messaging")
    request = access.GetAccessRevisionsRequest(workspace_ids=[house.workspace_id])
    return int((await stub.GetAccessRevisions(request, timeout=10)).access_revisions[0])


async def verdict(house: House, *, member_id: str, capability: str = "workspace.read") -> access.AccessVerdict:
    """What membership says of somebody in one stay."""
    stub = house.suite.stub(access_rpc.AccessServiceStub, certificate="guest")
    question = access.AccessQuestion(workspace_id=house.workspace_id, member_id=member_id, capability=capability)
    answer = await stub.BatchCheckAccess(access.BatchCheckAccessRequest(questions=[question]), timeout=10)
    found = answer.verdicts[0]
    assert isinstance(found, access.AccessVerdict)
    return found
