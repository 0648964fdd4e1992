"""Mutants that no test can tell from the code, each with the reason. One that no longer exists is an error."""

from collections.abc import Mapping

EQUIVALENT: Mapping[str, str] = {
    "services/chassis/idempotency.py FORGET: condition: sealed_answer IS NOT NULL → true": (
        "What is NULL already is written again as NULL: the condition only spares the writing."
    ),
    "services/chassis/tokens.py Verifier.verify: comparison: len(self._genuine) > REMEMBERED → >=": (
        "9 999 tokens are remembered in place of 10 000; the one that is forgotten is verified again."
    ),
}
