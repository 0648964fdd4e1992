"""Mutants that no test can tell from the code, each with the reason. One that no longer exists is an error."""

from collections.abc import Mapping

IN_ITS_WORKSPACE = (
    "The group was found in this workspace, and a foreign key keeps its members and bans there: it leads to the index."
)
NO_PATH = "Without a group its path is NULL, and nothing is in that: it only spares the looking."
EQUIVALENT: Mapping[str, str] = {
    "services/chassis/tokens.py Verifier.verify: comparison: len(self._genuine) > REMEMBERED → >=": (
        "9 999 tokens are remembered in place of 10 000; the one that is forgotten is verified again."
    ),
    "services/membership/verdicts.py DECIDE_IN_GROUPS: condition: gm.workspace_id = w.id → true": IN_ITS_WORKSPACE,
    "services/membership/verdicts.py DECIDE_IN_GROUPS: condition: gm.workspace_id = w.id → true #2": IN_ITS_WORKSPACE,
    "services/membership/verdicts.py DECIDE_IN_GROUPS: condition: b.workspace_id = w.id → true": IN_ITS_WORKSPACE,
    "services/membership/verdicts.py DECIDE_IN_GROUPS: condition: g.id IS NOT NULL → true": NO_PATH,
    "services/membership/verdicts.py DECIDE_IN_GROUPS: condition: g.id IS NOT NULL → true #2": NO_PATH,
}
