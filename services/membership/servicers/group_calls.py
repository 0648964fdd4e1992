"""How every change of a group is called, and how its lists are cut into pages."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.call import current_call
from services.chassis.database import Database
from services.chassis.idempotency import Repeatable, once
from services.chassis.pages import page_key, page_size, page_token
from services.chassis.secret import SecretKey
from services.membership import group_access, refusals
from services.membership.group_access import Standing

Answer = TypeVar("Answer", bound=Message)


async def change_group(
    database: Database,
    secret: SecretKey,
    request: Repeatable,
    answer_class: type[Answer],
    *,
    group: Any,
    action: str,
    capability: str | None,
    work: Callable[[AsyncConnection, Standing], Awaitable[Answer]],
    target_user_id: str | None = None,
    without_secret: Callable[[Answer], Answer] | None = None,
) -> Answer:
    """Does `work` once, for a caller who has the capability in a group; if it is refused, that is recorded.

    `group` has the two ids: the request, or the group in it. Without a capability, sight is enough.
    """
    user_id = current_call().user_id

    async def access(tx: AsyncConnection) -> Standing:
        return await group_access.access_group(
            tx, workspace_id=group.workspace_id, group_id=group.group_id, user_id=user_id, capability=capability
        )

    call = once(database, secret, request, answer_class, access=access, work=work, without_secret=without_secret)
    return await refusals.audited(
        database,
        action,
        group.workspace_id,
        call,
        target_type="group",
        target_id=group.group_id,
        target_user_id=target_user_id,
    )


async def read_page(
    database: Database,
    secret: SecretKey,
    request: Any,
    read: Callable[[AsyncConnection, Any, int], Awaitable[Sequence[Row[Any]]]],
    key_of: Callable[[Row[Any]], str],
    *filters: str,
) -> tuple[Sequence[Row[Any]], str]:
    """A page of rows, and the next page's token. `filters` are what else the list depends on, in one spelling.

    `read` is given the key of the row before, or None, and how many rows at the most.
    """
    call = current_call()
    scope = (call.rpc, call.user_id, str(UUID(request.workspace_id)), *filters)
    key, size = page_key(secret, scope, request.page_token), page_size(request.page_size)
    after = str(key[0]) if key else None
    rows = await database.read(lambda tx: read(tx, after, size + 1))
    page = rows[:size]
    return page, page_token(secret, scope, [key_of(page[-1])]) if len(rows) > size else ""


def one_spelling(wired_id: str) -> str:
    """An id in lower case; empty stays empty."""
    return str(UUID(wired_id)) if wired_id else ""
