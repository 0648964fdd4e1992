"""S8: five times more than the suite can do. It must go on doing what it can, and refuse the rest in words."""

from collections import Counter
from typing import Any

from tests.load.callers import Callers, Outcome
from tests.load.flood import Flood
from tests.load.lab import Figure, Lab
from tests.load.wire import SEND

TIMES = 5
GOAL = 0.8
RECOVERY_SECONDS = 10
_KNEE_CALLERS = (16, 32, 64, 128, 256)
_ALLOWED = {"OK", "RESOURCE_EXHAUSTED"}


async def s8(lab: Lab) -> Figure:
    """Goodput at five times the knee's rate ÷ the knee's, which codes there were, and how soon it was over."""
    callers, knee = await find_knee(lab, lab.seconds / 15)
    flood = await _flood(lab, TIMES * knee.per_second)
    after = await _calm(lab, callers, RECOVERY_SECONDS + 5)
    # Not what was answered when the flood was over.
    goodput = sum(flood.by_second[: int(lab.seconds)]) / int(lab.seconds) / knee.per_second
    recovered = _recovery_seconds(after, knee.per_second)
    flood.codes += Counter()  # drops what is nought
    strange = {code: count for code, count in flood.codes.items() if code not in _ALLOWED}
    offered = sum(flood.codes.values()) / flood.seconds
    detail: dict[str, Any] = {
        "knee_callers": callers,
        "knee": knee.summary(),
        "offered_per_second": round(offered),
        "offered_times_knee": round(offered / knee.per_second, 2),
        "overload": flood.summary(),
        "refusal_milliseconds": flood.refusal_latency.milliseconds(),
        "other_codes": strange,
        "recovered_after_seconds": recovered,
        "per_second_after": after.by_second,
    }
    holds = goodput >= GOAL and not strange and recovered is not None and recovered <= RECOVERY_SECONDS
    return Figure(goodput, GOAL, holds, detail)


async def find_knee(lab: Lab, seconds: float) -> tuple[int, Outcome]:
    """The fewest callers that reach nine tenths of the best rate: more of them only wait longer.

    Each number of callers is tried for so many seconds.
    """
    found = {}
    for callers in _KNEE_CALLERS:
        found[callers] = await _calm(lab, callers, seconds)
    best = max(outcome.per_second for outcome in found.values())
    return next((callers, outcome) for callers, outcome in found.items() if outcome.per_second >= 0.9 * best)


async def _calm(lab: Lab, callers: int, seconds: float) -> Outcome:
    tokens = await lab.crowd.tokens(lab.system)
    job = Callers(lab.system.target, SEND, tokens, lab.messages(), callers, seconds, warm_seconds=0)
    return await lab.run(job, f"{callers} callers")


async def _flood(lab: Lab, rate: float) -> Outcome:
    tokens = await lab.crowd.tokens(lab.system)
    job = Flood(lab.system.target, SEND, tokens, lab.messages(), rate, lab.seconds)
    return await lab.run(job, f"{rate:.0f} calls/s")


def _recovery_seconds(after: Outcome, knee: float) -> int | None:
    """The second from which on answers came at the usual rate; None if none did."""
    return next((second for second, count in enumerate(after.by_second) if count >= 0.8 * knee), None)
