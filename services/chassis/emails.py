"""E-mail addresses: when two spellings are the same one, and where mail for it goes."""

import unicodedata

from services.chassis.errors import InvalidRequest

LONGEST = 254
"""RFC 5321 §4.5.3.1.3, less the angle brackets. NFKC can lengthen what was short enough before."""

NOT_IN_ADDRESSES = frozenset('()<>[]:;,\\"')
"""The specials of RFC 5322 §3.2.3: in a header, "a,b@c" would be two recipients."""


def normalize(email: str) -> str:
    """The form under which an address is unique: NFKC, trimmed, casefolded. Dots and `+tags` stay: they may matter.

    Errors: INVALID_REQUEST naming `email`, for what no mail could be addressed to.
    """
    normalized = normalize_prefix(email)
    local, at, domain = normalized.partition("@")
    if not (local and at) or "@" in domain or "" in domain.split(".") or len(normalized) > LONGEST:
        raise InvalidRequest(fields=[("email", "is not one address of at most 254 characters")])
    forbidden = any(letter in NOT_IN_ADDRESSES or unicodedata.category(letter)[0] in "CZ" for letter in normalized)
    # "=?" begins an encoded word (RFC 2047), which a relay would read as other letters.
    if forbidden or "=?" in normalized:
        raise InvalidRequest(fields=[("email", "contains characters that an address may not have")])
    return normalized


def normalize_prefix(text: str) -> str:
    """The form of the beginning of an address, for looking up those that begin so. Refuses nothing."""
    # Once more at the end: casefolding can leave what NFKC would still change, and the form must be a fixed point.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).strip().casefold())


def mailbox(email: str) -> str:
    """Where mail for an address as it was written goes: there, if it differs from the unique form by case only.

    Otherwise to the unique form. "ⓜike@…" and "mike@…" are the same user here but two mailboxes to the world, and
    whoever reads the one must not prove to be the other.
    """
    normalized = normalize(email)
    return email if email.lower() == normalized and unicodedata.is_normalized("NFKC", email) else normalized
