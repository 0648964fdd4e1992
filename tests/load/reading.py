"""S5 and S6: what must stay flat while the tables, or the batches, grow."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.messaging.v1 import message_service_pb2 as messages

from tests.load import archive, growth
from tests.load.callers import TakingTurns, Turn
from tests.load.histogram import Histogram
from tests.load.lab import Figure, Lab
from tests.load.wire import CHECK_ACCESS, ECHO, LIST

FEW, MANY = 10_000, 2_000_000
PAGE = 50
_CAPABILITIES = ("workspace.read", "conversations.create", "messages.send", "members.invite", "members.remove")


async def s5(lab: Lab) -> Figure:
    """ListMessages of 50 with 2 000 000 messages in 1 000 conversations ÷ with 10 000, in a huge one and in small ones.

    Half of the messages are in one conversation. What the echo needed in the same minute is divided out.
    """
    stored = await asyncio.to_thread(archive.archive, lab, FEW, MANY)
    if stored.stored > FEW:
        raise RuntimeError("the two million are there already: S5 comes before what else needs them")
    few = await _list(lab, stored.ids[: archive.FIRST], f"{FEW:,} stored")
    await asyncio.to_thread(archive.archive, lab, MANY, MANY)
    many = await _list(lab, stored.ids[: archive.FIRST], f"{MANY:,} stored")
    echo = _p50(many["echo"]) / _p50(few["echo"])
    ratios = {name: _p50(many[name]) / _p50(few[name]) / echo for name in ("huge", "small")}
    worst = max(ratios.values())
    detail: dict[str, Any] = {
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "echo_ratio": round(echo, 3),
        f"with_{FEW}": {name: found.milliseconds() for name, found in few.items()},
        f"with_{MANY}": {name: found.milliseconds() for name, found in many.items()},
    }
    return Figure(worst, 1.3, worst <= 1.3, detail)


async def _list(lab: Lab, ids: Sequence[str], what: str) -> dict[str, Histogram]:
    target, token = lab.system.target, (await lab.crowd.tokens(lab.system, 1))[0]
    bodies = [
        messages.ListMessagesRequest(
            workspace_id=lab.crowd.workspace_id, conversation_id=key, page_size=PAGE
        ).SerializeToString()
        for key in ids
    ]
    turns = [
        Turn("echo", target, ECHO, token, bodies=bodies[:1]),
        Turn("huge", target, LIST, token, bodies=bodies[:1]),
        Turn("small", target, LIST, token, bodies=bodies[1:]),
    ]
    return await lab.run(TakingTurns(turns, lab.seconds / 5), what)


async def s6(lab: Lab) -> Figure:
    """BatchCheckAccess of 100 ÷ of 1, asked of membership directly, as messaging asks it.

    Beside it, all batched checks of 100 with a million rows stored ÷ with ten thousand: by index alone, or it fails.
    """
    target, tls = lab.inside.peer("membership", "messaging")
    by_user = [{"user_id": person.user_id} for person in lab.crowd.people]
    by_member = [{"member_id": person.member_id} for person in lab.crowd.people]
    questions = [
        access.AccessQuestion(workspace_id=lab.crowd.workspace_id, capability=capability, **subject)
        for capability, subject in itertools.product(_CAPABILITIES, (*by_user, *by_member))
    ][:100]
    turns = [
        Turn(
            f"of_{count}",
            target,
            CHECK_ACCESS,
            bodies=[access.BatchCheckAccessRequest(questions=questions[:count]).SerializeToString()],
            tls=tls,
        )
        for count in (1, len(questions))
    ]
    found = await lab.run(TakingTurns(turns, lab.seconds / 6), f"batches of 1 and of {len(questions)}")
    ratio = _p50(found[f"of_{len(questions)}"]) / _p50(found["of_1"])
    grown = await growth.growth(lab)
    detail: dict[str, Any] = {name: histogram.milliseconds() for name, histogram in found.items()}
    detail["growth"] = grown
    return Figure(ratio, 3.0, ratio <= 3.0 and len(questions) == 100 and grown["by_index"], detail)


def _p50(found: Histogram) -> int:
    return max(found.quantile(0.5), 1)
