"""How many exports of the activity log one person reads at once."""

import asyncio

from tests.service.test_membership_activities import export
from tests.service.test_membership_chains import WAITING
from tests.service.test_membership_workspaces import new_workspace, somebody
from tests.support.deliveries import until
from tests.support.suite import Suite, refused


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
