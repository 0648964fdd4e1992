"""Rows of files as messages of the protos."""

from collections.abc import Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from guildhall.messaging.v1 import file_service_pb2 as pb
from sqlalchemy import Row

STATES = {"uploading": pb.FILE_STATE_UPLOADING, "ready": pb.FILE_STATE_READY}


def file_in_json(columns: Mapping[str, Any]) -> pb.File:
    """A row that came as JSON, as messages have their files."""
    parsed = dict(columns)
    for name in ("sha256", "header"):
        parsed[name] = bytes.fromhex(parsed[name].removeprefix("\\x")) if parsed[name] else None
    for name in ("created_at", "completed_at", "attached_at"):
        parsed[name] = datetime.fromisoformat(parsed[name]) if parsed[name] else None
    return file(SimpleNamespace(**parsed))


def file(row: Row[Any] | SimpleNamespace) -> pb.File:
    """A row with files.FILE's columns."""
    found = pb.File(
        file_id=row.id,
        workspace_id=row.workspace_id,
        conversation_id=row.conversation_id,
        message_id=row.message_id or "",
        uploader_member_id=row.uploader_member_id,
        uploader_user_id=row.uploader_user_id,
        name=row.name,
        mime_type=row.mime_type,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        header=row.header or b"",
        state=STATES[row.state],
        received_bytes=row.received_bytes,
    )
    found.create_time.FromDatetime(row.created_at)
    if row.completed_at is not None:
        found.complete_time.FromDatetime(row.completed_at)
    if row.attached_at is not None:
        found.attach_time.FromDatetime(row.attached_at)
    return found
