"""Two million messages in a thousand conversations, written past the services, for what must not grow with them.

They lie in time as they would have come: the messages of one conversation among those of the others, one every fifteen
seconds for a year. Their words are drawn, so that some are in half of all messages and some in hardly any.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from services.messaging.search_keys import KEYS, MILLISECONDS, words_of
from tests.load.lab import Lab

CONVERSATIONS = 1_000
FIRST = 50
"""As long as there are few messages: so many conversations have more than a page."""
ELSEWHERE = 50
"""The last ones are in another workspace."""
HIDDEN_WORD, RARE_WORDS = "shrouded", 50_000
_CHUNK = 20_000

_CONVERSATIONS = """
    INSERT INTO conversations (id, workspace_id, kind, name, visibility, created_by_member_id)
    SELECT id, CASE WHEN n > %(conversations)s - %(elsewhere)s THEN %(other_id)s::uuid ELSE %(workspace_id)s::uuid END,
        'channel', 'stored ' || n, CASE WHEN n %% 2 = 0 THEN 'private' ELSE 'public' END, (%(member_ids)s::uuid[])[1]
    FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS c (id, n)
"""
# The first person takes part in all that is private, the second in a twentieth, the others in nothing of it.
_PARTICIPANTS = """
    INSERT INTO participants (conversation_id, member_id, user_id, workspace_id)
    SELECT c.id, p.member_id, p.user_id, c.workspace_id
    FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS listed (id, n) JOIN conversations c USING (id)
    JOIN unnest(%(member_ids)s::uuid[], %(user_ids)s::uuid[]) WITH ORDINALITY AS p (member_id, user_id, number)
        ON p.number = 1 OR p.number = 2 AND listed.n %% 40 = 0
    WHERE c.visibility = 'private'
"""
_TEXT = f"""concat_ws(' ', 'message', k, 'w' || k * 7919 %% {RARE_WORDS}, 'v' || k * 104729 %% 500,
    'and some more to fill it',
    CASE WHEN random() < 0.5 THEN 'half' ELSE 'other' END, CASE WHEN random() < 0.1 THEN 'tenth' END,
    CASE WHEN random() < 0.01 THEN 'hundredth' END,
    CASE WHEN visibility = 'private' OR random() < 0.0001 THEN '{HIDDEN_WORD}' END)"""
_LOCK = "SELECT FROM conversations WHERE id = ANY(%(ids)s::uuid[]) ORDER BY id FOR UPDATE"
# With what they are found by in the same statement, as the service's own task would have written it by now.
_MESSAGES = f"""
    WITH wanted AS (
        SELECT c.*, counts.count FROM unnest(%(ids)s::uuid[], %(counts)s::int[]) AS counts (id, count)
        JOIN conversations c USING (id)
    ), dealt AS (
        SELECT w.*, w.last_seq + n AS seq, w.last_event_seq + n AS number,
            %(stored)s::bigint + row_number() OVER (ORDER BY n::float / w.count, w.id) AS k
        FROM wanted w CROSS JOIN LATERAL generate_series(1, w.count) AS n
    ), counted AS (
        UPDATE conversations c SET last_seq = c.last_seq + w.count, last_event_seq = c.last_event_seq + w.count
        FROM wanted w WHERE c.id = w.id
    ), moved AS (
        INSERT INTO search_positions AS p (conversation_id, event_seq)
        SELECT id, last_event_seq + count FROM wanted
        ON CONFLICT (conversation_id) DO UPDATE SET event_seq = excluded.event_seq
    ), stored AS (
        INSERT INTO messages (
            conversation_id, seq, event_seq, id, sender_member_id, sender_user_id, client_message_id, text, created_at,
            mentioned_member_ids, file_count
        )
        SELECT id, seq, number, uuidv7((k - %(all)s) * interval '15 seconds'),
            (%(member_ids)s::uuid[])[1 + k %% %(people)s], (%(user_ids)s::uuid[])[1 + k %% %(people)s],
            gen_random_uuid(), {_TEXT}, statement_timestamp() + (k - %(all)s) * interval '15 seconds',
            CASE WHEN k %% 100 = 0 THEN (%(member_ids)s::uuid[])[2:2] END, (k %% 33 = 0)::int
        FROM dealt ORDER BY k
        RETURNING *
    )
    INSERT INTO search_entries (conversation_id, message_id, workspace_id, words, keys)
    SELECT m.conversation_id, m.id, m.workspace_id, {words_of("m.text")}, {KEYS.replace("%", "%%")}
    FROM (SELECT m.*, w.workspace_id, {MILLISECONDS} FROM stored m JOIN wanted w ON w.id = m.conversation_id) m
"""


@dataclass
class Archive:
    """The conversations, and how much is in them. The first one holds half of it."""

    ids: list[str]
    stored: int = 0

    def fill(self, lab: Lab, count: int, of: int, *, conversations: int) -> None:
        """Store until there are `count`, as the first of `of` messages that end now, in the first conversations."""
        while self.stored < count:
            lab.show(f"storing: {self.stored:,} of {count:,}")
            size = min(_CHUNK, count - self.stored)
            share, left = divmod(size // 2, conversations - 1)
            counts = [size - size // 2 + left, *[share] * (conversations - 1)]
            values = {**_people(lab), "ids": self.ids[:conversations], "counts": counts}
            values |= {"stored": self.stored, "all": of}
            with lab.inside.database("messaging_owner") as owner, owner.transaction():
                owner.execute(
                    "SELECT FROM conversations WHERE id = ANY(%(ids)s::uuid[]) ORDER BY id FOR UPDATE", values
                )
                owner.execute(_MESSAGES, values)
            self.stored += size


def archive(lab: Lab, count: int, of: int) -> Archive:
    """The archive with at least so many messages; made and filled if it is not there yet."""
    if lab.archive is None:
        lab.archive = _make(lab)
    found: Archive = lab.archive
    if found.stored < count:
        with _without_index(lab):
            found.fill(lab, count, of, conversations=CONVERSATIONS if count == of else FIRST)
            lab.show("indexing")
        lab.show("vacuum and checkpoint")
        _settle(lab)
    return found


def _make(lab: Lab) -> Archive:
    made = Archive([str(uuid.uuid4()) for _ in range(CONVERSATIONS)])
    values = {
        **_people(lab),
        "ids": made.ids,
        "conversations": CONVERSATIONS,
        "elsewhere": ELSEWHERE,
        "workspace_id": lab.crowd.workspace_id,
        "other_id": str(uuid.uuid4()),
    }
    with lab.inside.database("messaging_owner") as owner:
        owner.execute("TRUNCATE messages CASCADE")  # of the scenarios before: "10 000 stored" would not be true
        owner.execute(_CONVERSATIONS, values)
        owner.execute(_PARTICIPANTS, values)
    return made


@contextmanager
def _without_index(lab: Lab) -> Iterator[None]:
    """Made anew at the end, the index of words costs a tenth of what it costs row by row."""
    with lab.inside.database("messaging_owner") as owner:
        found = owner.execute("SELECT pg_get_indexdef(CAST('search_entries_found_by' AS regclass))").fetchone()
        owner.execute("DROP INDEX search_entries_found_by")
        yield
        assert found is not None
        owner.execute(found[0])


def _settle(lab: Lab) -> None:
    """As after some time of rest."""
    with lab.inside.database("postgres") as admin:
        admin.execute("VACUUM (ANALYZE) messaging.messages, messaging.search_entries, messaging.conversations")
        admin.execute("CHECKPOINT")


def _people(lab: Lab) -> dict[str, Any]:
    people = lab.crowd.people
    ids = {"member_ids": [each.member_id for each in people], "user_ids": [each.user_id for each in people]}
    return {**ids, "people": len(people)}
