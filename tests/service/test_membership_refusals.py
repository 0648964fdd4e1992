"""A refusal stays what it is, whether it can be recorded or not."""

from tests.service.test_membership_erasure import rows
from tests.service.test_membership_workspaces import new_workspace, somebody
from tests.support.suite import Suite, refused


async def test_a_refusal_that_cannot_be_recorded_is_still_a_refusal(suite: Suite) -> None:
    workspace, bob = await new_workspace(suite), await somebody(suite, "Bob")
    await workspace.join(bob)
    recorded = "SELECT count(*) FROM activities WHERE workspace_id = %s AND outcome = 'refused'"

    with suite.database("membership_owner") as database:
        database.execute(
            "CREATE FUNCTION membership.unwritable() RETURNS trigger LANGUAGE plpgsql AS $$"
            " BEGIN RAISE EXCEPTION 'unwritable'; END $$"
        )
        database.execute(
            "CREATE TRIGGER unwritable BEFORE INSERT ON membership.activities FOR EACH ROW"
            " WHEN (NEW.outcome = 'refused') EXECUTE FUNCTION membership.unwritable()"
        )
        try:
            refusal = await refused(workspace.remove(workspace.admin_member_id, by=bob))
        finally:
            database.execute("DROP FUNCTION membership.unwritable CASCADE")

    assert refusal.reason == "PERMISSION_DENIED"
    assert rows(suite, recorded, workspace.id) == [(0,)]
    assert (await refused(workspace.remove(workspace.admin_member_id, by=bob))).raw == refusal.raw
    assert rows(suite, recorded, workspace.id) == [(1,)]
