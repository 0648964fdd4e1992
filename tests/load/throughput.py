"""S1, S2, S3 and the curve: sending, measured against the echo."""

import statistics
from typing import Any

from tests.load.callers import Callers, TakingTurns, Turn
from tests.load.lab import Figure, Lab, Versus, versus
from tests.load.publishers import Publishers
from tests.load.wire import ECHO, ECHO_STREAM, PUBLISH, SEND

ROUNDS = 5
CALLERS = 64
STREAMS = 8
WINDOW = 200
"""Messages without a result that each stream has at most."""
CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256)


async def s1(lab: Lab) -> Figure:
    """SendMessage, unary, 64 callers over 50 conversations, all checks on ÷ the echo."""
    found = await _callers(lab, CALLERS, lab.seconds / 12, ROUNDS)
    return _at_least(0.5, found)


async def s2(lab: Lab) -> Figure:
    """PublishMessages, 8 streams ÷ the bidirectional echo, a message in a frame; frames of 20 beside it."""
    found = await _publishers(lab, 1, lab.seconds / 15, ROUNDS)
    framed = await _publishers(lab, 20, lab.seconds / 15, 2)
    figure = _at_least(0.6, found)
    figure.detail["frames_of_20"] = framed.summary()
    return figure


async def s3(lab: Lab) -> Figure:
    """One caller: p50 of SendMessage ÷ p50 of the echo, call by call in turns."""
    token = (await lab.crowd.tokens(lab.system, 1))[0]
    message = lab.messages()[0]
    turns = [
        Turn("echo", lab.system.target, ECHO, token, message),
        Turn("send", lab.system.target, SEND, token, message),
    ]
    # In parts, so that one disturbance cannot decide: the median of the parts' ratios counts.
    ratios, parts = [], []
    for number in range(ROUNDS):
        found = await lab.run(TakingTurns(turns, lab.seconds / 12), f"part {number + 1} of {ROUNDS}")
        parts.append(found)
        ratios.append(found["send"].quantile(0.5) / max(found["echo"].quantile(0.5), 1))
    for part in parts[1:]:
        for name, histogram in part.items():
            parts[0][name].add(histogram)
    ratio = statistics.median(ratios)
    detail: dict[str, Any] = {f"{name}_milliseconds": found.milliseconds() for name, found in parts[0].items()}
    return Figure(ratio, 5.0, ratio <= 5.0, {**detail, "ratios": [round(value, 2) for value in ratios]})


async def curve(lab: Lab) -> dict[str, Any]:
    """Throughput and latency of SendMessage and of the echo against the number of callers."""
    points = []
    for callers in CURVE:
        found = await _callers(lab, callers, lab.seconds / 15, 1)
        points.append({"callers": callers, **found.summary()})
    return {"points": points}


async def _callers(lab: Lab, callers: int, seconds: float, rounds: int) -> Versus:
    def job(path: str) -> Callers:
        return Callers(lab.system.target, path, tokens, lab.messages(), callers, seconds)

    tokens = await lab.crowd.tokens(lab.system)
    return await versus(lab, job(SEND), job(ECHO), rounds)


async def _publishers(lab: Lab, frame_size: int, seconds: float, rounds: int) -> Versus:
    def job(path: str) -> Publishers:
        return Publishers(lab.system.target, path, tokens, lab.messages(), STREAMS, WINDOW, frame_size, seconds)

    tokens = await lab.crowd.tokens(lab.system)
    return await versus(lab, job(PUBLISH), job(ECHO_STREAM), rounds)


def _at_least(goal: float, found: Versus) -> Figure:
    """A ratio that must be reached without a single refusal."""
    summary = found.summary()
    is_clean = set(summary["codes"]) == {"OK"}
    return Figure(found.ratio, goal, found.ratio >= goal and is_clean, summary)
