"""S5 and S6: what must stay flat while the tables, or the batches, grow."""

import itertools
from collections.abc import Sequence
from typing import Any

from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.messaging.v1 import message_service_pb2 as messages

from tests.load import growth
from tests.load.callers import TakingTurns, Turn
from tests.load.histogram import Histogram
from tests.load.lab import Figure, Lab
from tests.load.people import CHANNELS, make_channel
from tests.load.wire import CHECK_ACCESS, ECHO, LIST, open_channels

FEW, MANY = 10_000, 2_000_000
PAGE = 50
_CHUNK = 50_000
_CAPABILITIES = ("workspace.read", "conversations.create", "messages.send", "members.invite", "members.remove")

# Dealt out in turn, as they would have come: the rows of one conversation lie among those of the others.
_INSERT = """
    INSERT INTO messages (
        conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, client_message_id, text
    )
    SELECT c.id, c.last_seq + n, c.last_event_seq + n, uuidv7(), %(member_id)s, %(user_id)s, gen_random_uuid(),
        rpad('message ' || n, 100, '.')
    FROM unnest(%(ids)s::uuid[], %(counts)s::int[]) AS wanted (id, count)
    JOIN conversations c USING (id)
    CROSS JOIN LATERAL generate_series(1, wanted.count) AS n
    ORDER BY n::float / wanted.count
"""
_COUNT = """
    UPDATE conversations c
    SET last_seq = last_seq + wanted.count, last_event_seq = last_event_seq + wanted.count
    FROM unnest(%(ids)s::uuid[], %(counts)s::int[]) AS wanted (id, count)
    WHERE c.id = wanted.id
"""


async def s5(lab: Lab) -> Figure:
    """ListMessages of 50 with 2 000 000 messages stored ÷ with 10 000, in a huge conversation and in small ones.

    Half of the messages are in one conversation. What the echo needed in the same minute is divided out.
    """
    async with open_channels(lab.system.target)[0] as channel:
        await lab.crowd.tokens(lab.system, 1)
        ids = [await make_channel(channel, lab.crowd, f"stored {number}") for number in range(CHANNELS)]
    with lab.inside.database("messaging_owner") as owner:
        owner.execute("TRUNCATE messages")  # of the scenarios before: "10 000 stored" would not be true
    _store(lab, ids, FEW)
    few = await _list(lab, ids, f"{FEW:,} stored")
    for stored in range(FEW, MANY, _CHUNK):
        lab.show(f"storing: {stored:,} of {MANY:,}")
        _store(lab, ids, min(_CHUNK, MANY - stored))
    lab.show("vacuum and checkpoint")
    with lab.inside.database("postgres") as admin:
        admin.execute("VACUUM (ANALYZE) messaging.messages")
        admin.execute("CHECKPOINT")
    many = await _list(lab, ids, f"{MANY:,} stored")
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


def _store(lab: Lab, ids: Sequence[str], count: int) -> None:
    """Store that many more messages: half of them in the first conversation, the others in the rest."""
    share, left = divmod(count // 2, len(ids) - 1)
    sender = lab.crowd.people[0]
    values = {
        "ids": list(ids),
        "counts": [count - count // 2 + left, *[share] * (len(ids) - 1)],
        "member_id": sender.member_id,
        "user_id": sender.user_id,
    }
    with lab.inside.database("messaging_owner") as owner, owner.transaction():
        owner.execute("SELECT FROM conversations WHERE id = ANY(%(ids)s::uuid[]) ORDER BY id FOR UPDATE", values)
        owner.execute(_INSERT, values)
        owner.execute(_COUNT, values)


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
