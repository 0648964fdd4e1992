"""guildhall.guest.v1.GuestService: the policy of a workspace."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from guildhall.guest.v1 import guest_service_pb2 as pb
from guildhall.guest.v1 import guest_service_pb2_grpc as rpc
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.errors import InvalidRequest, PermissionDenied
from services.chassis.frame import Frame
from services.chassis.idempotency import once
from services.guest import activities, policies, policy_changes, wire
from services.guest.access import Access
from services.guest.servicers.calls import Changes

FIELDS = ("grace", "maximum_stay", "members_may_invite", "notice_days")


class GuestPolicyRpcs(rpc.GuestServiceServicer):
    """Shows the policy to full members; those who manage guests change it."""

    def __init__(self, frame: Frame, *, access: Access, changes: Changes) -> None:
        self._frame = frame
        self._database = frame.database
        self._access = access
        self._changes = changes

    async def GetGuestPolicy(self, request: pb.GetGuestPolicyRequest, context: Any) -> pb.GetGuestPolicyResponse:
        """Reads, then asks once more: nothing newer than the permission is shown."""
        await self._require_full_member(request.workspace_id)
        row = await self._database.transaction(lambda tx: policies.hold(tx, request.workspace_id))
        await self._require_full_member(request.workspace_id)
        return pb.GetGuestPolicyResponse(policy=wire.policy(row))

    async def UpdateGuestPolicy(
        self, request: pb.UpdateGuestPolicyRequest, context: Any
    ) -> pb.UpdateGuestPolicyResponse:
        """What is tighter holds for all guests who are there before it is answered, a batch of them at a time."""
        workspace_id = request.policy.workspace_id
        changes = _changes(request.policy, request.update_mask)
        standing = await self._access.require_standing(workspace_id)
        if not standing.manages:
            raise PermissionDenied

        async def access(tx: AsyncConnection) -> Row[Any]:
            return await policies.lock(tx, workspace_id)

        async def work(tx: AsyncConnection, present: Row[Any]) -> pb.UpdateGuestPolicyResponse:
            row = await policies.update(tx, present, changes=changes, etag=request.policy.etag)
            await activities.record(
                tx,
                "guest_policy.updated",
                workspace_id=workspace_id,
                target_id=workspace_id,
                metadata={"fields": sorted(changes)},
            )
            return pb.UpdateGuestPolicyResponse(policy=wire.policy(row))

        async def change() -> pb.UpdateGuestPolicyResponse:
            answer: pb.UpdateGuestPolicyResponse | None = None
            while answer is None:
                with suppress(policy_changes.Unfinished):
                    answer = await once(
                        self._database,
                        self._frame.secret,
                        request,
                        pb.UpdateGuestPolicyResponse,
                        access=access,
                        work=work,
                    )
                # Whosever change it is: one of a call that died, or that is under way, has to hold before the next.
                while await self._database.transaction(lambda tx: policy_changes.tighten(tx, workspace_id)):
                    pass
            return answer

        return await self._changes.settled(workspace_id, change())

    async def _require_full_member(self, workspace_id: str) -> None:
        if (await self._access.require_standing(workspace_id)).is_guest:
            raise PermissionDenied


def _changes(policy: pb.GuestPolicy, mask: FieldMask) -> Mapping[str, object]:
    """The columns to set. INVALID_REQUEST for a mask that is empty or names anything else, and for absent spans."""
    paths = frozenset(mask.paths)
    if not paths or not paths <= set(FIELDS):
        raise InvalidRequest(fields=[("update_mask", f"names some of {', '.join(FIELDS)} and nothing else")])
    absent = [name for name in ("grace", "maximum_stay") if name in paths and not policy.HasField(name)]
    if absent:
        raise InvalidRequest(
            fields=[(f"policy.{name}", "is named in update_mask, so it must be given") for name in absent]
        )
    read: Mapping[str, object] = {
        "grace": wire.read_duration(policy.grace, field="policy.grace"),
        "maximum_stay": wire.read_duration(policy.maximum_stay, field="policy.maximum_stay"),
        "notice_days": sorted(policy.notice_days, reverse=True),
        "members_may_invite": policy.members_may_invite,
    }
    return {name: read[name] for name in paths}
