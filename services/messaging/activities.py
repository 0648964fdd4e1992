"""What is told to the workspace's activity log: membership keeps it."""

import json
from collections.abc import Mapping
from typing import Any

from guildhall.events.v1 import event_sink_pb2 as events
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.outbox import emit


async def record(
    tx: AsyncConnection,
    conversation: Row[Any],
    action: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    target_user_id: str = "",
) -> None:
    """Has it noted that the current call's caller did something to a conversation, or to somebody in it.

    Never what it is called or says: the log outlives both.
    """
    call = current_call()
    metadata = {name: value for name, value in (("before", before), ("after", after)) if value is not None}
    activity = events.ActivityRecorded(
        workspace_id=conversation.workspace_id,
        action=action,
        actor_user_id=call.user_id,
        target_type=action.partition(".")[0],
        target_id=conversation.id,
        target_user_id=target_user_id,
        metadata_json=json.dumps(metadata),
        request_id=call.request_id,
        session_id=call.session_id,
        client_address=call.client_address,
        user_agent=call.user_agent,
    )
    await emit(tx, ["membership"], events.Event(activity_recorded=activity))
