"""What guest tells a workspace's activity log, in the transaction of the action. membership keeps it.

Who joined, was removed or promoted is told by membership itself, whose members they are.
"""

import json
from collections.abc import Mapping

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.outbox import emit


async def record(
    tx: AsyncConnection,
    action: str,
    *,
    workspace_id: str,
    target_id: str = "",
    target_user_id: str = "",
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Has an action of the current call's user written down; `action` is the thing and what was done to it.

    The target is a person, or a thing by its id. Nothing about people may be in the metadata.
    """
    call = current_call()
    recorded = events.ActivityRecorded(
        workspace_id=workspace_id,
        action=action,
        actor_user_id=call.user_id,
        target_type=action.partition(".")[0],
        target_id=target_id,
        target_user_id=target_user_id,
        metadata_json=json.dumps(metadata or {}),
        request_id=call.request_id,
        session_id=call.session_id,
        client_address=call.client_address,
        user_agent=call.user_agent[:200],
    )
    await emit(tx, ["membership"], events.Event(activity_recorded=recorded))
