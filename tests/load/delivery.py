"""S4: one conversation with hundreds of subscribers. Nothing lost, nothing doubled, nothing late."""

from dataclasses import dataclass
from typing import Any

from tests.load.generator import Running
from tests.load.lab import Figure, Lab
from tests.load.publishers import Paced, Pacer
from tests.load.subscribers import Delivered, Subscribers
from tests.load.wire import message

SUBSCRIBERS = 500
RATE = 50
FEWER_SUBSCRIBERS = 200
GOAL_MILLISECONDS = 500
STREAMS_OF_USER = 20
PEOPLE = SUBSCRIBERS // STREAMS_OF_USER + 1
_MOST_STEPS = 6


@dataclass
class Step:
    """One rate, and what came of it."""

    rate: float
    paced: Paced
    delivered: Delivered

    @property
    def p99(self) -> float:
        """In milliseconds."""
        return self.delivered.latency.quantile(0.99) / 1000

    @property
    def per_second(self) -> float:
        """Deliveries per second of sending."""
        return self.delivered.events / max(self.paced.seconds, 0.001)

    @property
    def holds(self) -> bool:
        """Whether every subscriber had every message once, in time, and the sender was not held up."""
        found = self.delivered
        is_whole = not (found.lost or found.doubled or found.cut or found.late or self.paced.refused)
        is_on_time = self.p99 <= GOAL_MILLISECONDS and self.paced.sent / self.paced.seconds >= 0.9 * self.rate
        return is_whole and is_on_time

    def summary(self) -> dict[str, Any]:
        """For a report."""
        return {
            "rate": round(self.rate),
            "deliveries_per_second": round(self.per_second),
            "holds": self.holds,
            "sender_refused": dict(self.paced.refused),
            **self.delivered.summary(),
        }


async def s4(lab: Lab) -> Figure:
    """500 subscribers at 50 messages/s; then the highest rate that holds, for them and for 200."""
    running = await listen(lab, SUBSCRIBERS)
    steady = await _step(lab, running, RATE, lab.seconds)
    highest = await _search(lab, running, 2 * RATE) if steady.holds else []
    await hang_up(running)
    running = await listen(lab, FEWER_SUBSCRIBERS)
    fewer = await _search(lab, running, 250)
    await hang_up(running)
    detail = {
        "steady": steady.summary(),
        "highest_rate_of_500": _best(highest, RATE if steady.holds else 0),
        "deliveries_per_second_to_200": round(max((step.per_second for step in fewer if step.holds), default=0)),
        "steps_of_500": [step.summary() for step in highest],
        "steps_of_200": [step.summary() for step in fewer],
    }
    return Figure(steady.p99, GOAL_MILLISECONDS, steady.holds, detail)


async def listen(lab: Lab, subscribers: int) -> Running[int]:
    """Open that many streams, and return when all are open."""
    tokens = await lab.crowd.tokens(lab.system)
    tokens = [tokens[number % len(tokens)] for number in range(subscribers)]
    job = Subscribers(lab.system.target, lab.crowd.workspace_id, lab.crowd.conversation_ids[0], tokens)
    running = lab.listeners.start(job)
    opened = 0
    while opened < subscribers:
        opened = await running.news()
        lab.show(f"streams open: {opened} of {subscribers}")
    return running


async def hang_up(running: Running[int]) -> None:
    """Close the streams."""
    running.order(None)
    await running.result()


async def _search(lab: Lab, running: Running[int], rate: float) -> list[Step]:
    """Double the rate while it holds, then try once or twice between the last that held and the first that did not."""
    steps: list[Step] = []
    holding, failing = 0.0, 0.0
    for _ in range(_MOST_STEPS):
        step = await _step(lab, running, rate, lab.seconds / 8)
        steps.append(step)
        if step.delivered.cut:
            break
        if step.holds:
            holding = rate
        else:
            failing = rate
        if failing and (not holding or failing / holding < 1.3):
            break
        rate = (holding * failing) ** 0.5 if failing else 2 * rate
    return steps


async def _step(lab: Lab, running: Running[int], rate: float, seconds: float) -> Step:
    token = (await lab.crowd.tokens(lab.system))[-1]
    to = message(lab.crowd.workspace_id, lab.crowd.conversation_ids[0])
    paced = await lab.run(Pacer(lab.system.target, token, to, rate, seconds), f"{rate:.0f} messages/s")
    running.order(paced.head)
    delivered = await running.news()
    lab.show(f"{rate:.0f} messages/s: p99 {delivered.latency.quantile(0.99) / 1000:.0f} ms")
    return Step(rate, paced, delivered)


def _best(steps: list[Step], otherwise: float) -> int:
    return round(max((step.rate for step in steps if step.holds), default=otherwise))
