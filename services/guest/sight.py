"""What takes sight away from guests, and how that is acknowledged: only once membership has raised the access revision.

The loss is a row in the transaction of its cause. Whoever answers for the change first settles what the workspace has
of such rows: their own, and those of a call that died, so that a repetition waits for it as the first call would have.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import uuid_utils
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from services.chassis.database import Database
from services.guest.peers import Membership

CAUSES: Mapping[str, str] = MappingProxyType(
    {
        "guest_removed": "RemoveGuest: the guest sees nothing newer of the workspace",
        "guest_promoted": "PromoteGuest: what was granted is decided by role and participation from now on",
        "guest_replaced": "RedeemGuestInvite by somebody whose grace had ended: other channels than before",
        "channel_revoked": "RevokeChannel: nothing newer of the channel",
        "channel_expiry_shortened": "GrantChannel with an earlier expiry than before",
        "channel_history_shortened": "GrantChannel with a later start of the history than before",
        "policy_tightened": "UpdateGuestPolicy with a shorter grace or maximum stay",
    }
)
"""Everything that takes sight away besides the clock, of which holds_for speaks. The tests go through it row by row."""

MOST = 200
LATE_SECONDS = 5
"""After this long, whoever caused a loss is not about to settle it."""

TAKE = text("INSERT INTO sight_losses (id, workspace_id, cause) VALUES (:id, :workspace_id, :cause)")
OF_WORKSPACE = text("""
    SELECT CAST(id AS text) AS id FROM sight_losses WHERE workspace_id = :workspace_id ORDER BY id LIMIT :most
""")
LEFT = text("""
    SELECT CAST(workspace_id AS text) FROM (
        SELECT workspace_id, created_at FROM sight_losses
        WHERE created_at <= statement_timestamp() - make_interval(secs => :late_seconds) ORDER BY id LIMIT :most
    ) late
    GROUP BY workspace_id ORDER BY min(created_at)
""")
SETTLED = text("DELETE FROM sight_losses WHERE workspace_id = :workspace_id AND id = ANY(CAST(:ids AS uuid[]))")


async def take(tx: AsyncConnection, workspace_id: str, cause: str) -> None:
    """Notes that sight is taken away by this transaction. `cause` is one of CAUSES."""
    assert cause in CAUSES, f"{cause} is not in the table"
    await tx.execute(TAKE, {"id": str(uuid_utils.uuid7()), "workspace_id": workspace_id, "cause": cause})


class Losses:
    """Settles losses: has membership raise the access revision, once for each."""

    def __init__(self, database: Database, membership: Membership) -> None:
        self._database = database
        self._membership = membership

    async def settle(self, workspace_id: str) -> None:
        """Returns once every loss that was committed before has raised the revision. Errors: PeerUnavailable."""
        named = {"workspace_id": workspace_id, "most": MOST}

        async def read(tx: AsyncConnection) -> list[str]:
            return list((await tx.execute(OF_WORKSPACE, named)).scalars().all())

        while ids := await self._database.read(read):
            for loss_id in ids:
                await self._membership.bump_access_revision(workspace_id, event_id=loss_id)
            await self._forget(workspace_id, ids)

    async def _forget(self, workspace_id: str, ids: Sequence[str]) -> None:
        async def forget(tx: AsyncConnection) -> None:
            await tx.execute(SETTLED, {"workspace_id": workspace_id, "ids": list(ids)})

        await self._database.transaction(forget)

    async def settle_left(self) -> bool:
        """Settles what calls left behind that died; True if there may be more."""

        async def read(tx: AsyncConnection) -> list[str]:
            late = {"late_seconds": LATE_SECONDS, "most": MOST}
            return list((await tx.execute(LEFT, late)).scalars().all())

        workspace_ids = await self._database.read(read)
        failed: Exception | None = None
        for workspace_id in workspace_ids:
            try:
                await self.settle(workspace_id)
            except Exception as error:
                failed = error  # the others are settled all the same
        if failed:
            raise failed
        return bool(workspace_ids)
