"""What messages are found by besides words: ids, and the stretches of their workspace's time that they lie in.

A key is a UUID, because PostgreSQL indexes arrays of those. Conversation, sender and mentioned members are their own
keys. Each message has a stretch's key for every level, from four seconds to two years, so that any span of time is a
few keys (ADR 10).
"""

import hashlib
import unicodedata
import uuid
from dataclasses import dataclass

LEVELS = (12, 16, 20, 24, 28, 32, 36)
"""A stretch is so many bits of a UUIDv7's milliseconds long."""
SHORTEST, LONGEST = LEVELS[0], LEVELS[-1]
SIXTEEN = 16
"""Stretches of a level in one of the next."""

# As PostgreSQL normalises before it looks for words; letters that only look different are the same. Capped, because
# normalising can make a text eighteen times as long, and a tsvector takes a megabyte, a word of a query 2 047 bytes.
_NORMALISED = """left(
    CASE WHEN octet_length({0}) = char_length({0}) THEN {0} ELSE normalize({0}, NFKC) END, {1}
)"""
MOST_TEXT, MOST_QUERY = 40_000, 500


def words_of(text: str) -> str:
    """The SQL for the words of a text; "simple" cuts and folds case, and belongs to no language."""
    return f"to_tsvector('simple', {_NORMALISED.format(text, MOST_TEXT)})"


def query_of(text: str) -> str:
    """The SQL for what people write into a search box."""
    return f"websearch_to_tsquery('simple', {_NORMALISED.format(text, MOST_QUERY)})"


def _key(*parts: object) -> str:
    written = ":".join(map(str, parts))
    return str(uuid.UUID(hashlib.md5(written.encode(), usedforsecurity=False).hexdigest()))


FILE = _key("file")


def reaction_key(emoji: str) -> str:
    """The key of messages with a reaction."""
    return _key("reaction", emoji_key(emoji))


def emoji_key(emoji: str) -> str:
    """The emoji without what only changes its looks (semantics 14)."""
    return unicodedata.normalize("NFC", emoji.replace("\ufe0e", "").replace("\ufe0f", ""))


_MILLISECONDS = "CAST(CAST('x' || translate(left(CAST(m.id AS text), 13), '-', '') AS bit(48)) AS bigint)"
_STRETCHES = ", ".join(
    f"CAST(md5(concat_ws(':', m.workspace_id, {bits}, m.milliseconds >> {bits})) AS uuid)" for bits in LEVELS
)
MILLISECONDS = f"{_MILLISECONDS} AS milliseconds"
"""A column of the message `m`: the time in its id."""
KEYS = f"""
    ARRAY[{_STRETCHES}, m.conversation_id, m.sender_user_id] || m.mentioned_member_ids
    || CASE WHEN m.file_count > 0 THEN ARRAY[CAST('{FILE}' AS uuid)] END
    || ARRAY(
        SELECT DISTINCT CAST(md5('reaction:' || r.emoji_key) AS uuid) FROM reactions r
        WHERE r.conversation_id = m.conversation_id AND r.message_id = m.id
    )
"""
"""The keys of `m`, which has a workspace_id and MILLISECONDS too."""


@dataclass(frozen=True, slots=True)
class Window:
    """Some stretches of one level, one after the other."""

    bits: int
    first: int
    last: int

    def keys(self, workspace_id: str) -> list[str]:
        """Of which each message in it has one."""
        return [_key(workspace_id, self.bits, number) for number in range(self.first, self.last + 1)]

    @property
    def begin(self) -> int:
        """In the shortest stretches."""
        return self.first << (self.bits - SHORTEST)


def window_before(end: int, *, span: int) -> Window:
    """The latest part of the time before `end`, up to `span` long and in at most 16 stretches.

    Both are in the shortest stretches. It ends on a border of the next level, so that longer ones can follow.
    """
    bits, unit = SHORTEST, 1
    while bits < LONGEST and unit * SIXTEEN <= span and end % (unit * SIXTEEN) == 0:
        bits, unit = bits + 4, unit * SIXTEEN
    last = end // unit
    count = max(1, min(span // unit, last % SIXTEEN or SIXTEEN))
    return Window(bits, last - count, last - 1)


def stretch_of(message_id: str) -> int:
    """The shortest stretch that an id lies in."""
    return int(message_id.replace("-", "")[:12], 16) >> SHORTEST


def first_id(stretch: int) -> str:
    """The id before which everything is older than a shortest stretch."""
    return id_at(stretch << SHORTEST)


def id_at(milliseconds: int) -> str:
    """The lowest id of a time, in milliseconds since 1970."""
    return str(uuid.UUID(int=milliseconds << 80))
