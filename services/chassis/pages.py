"""Page tokens (AIP-158): the key of the last row, authenticated together with method, filters and caller."""

import base64
import hmac
import json
from collections.abc import Sequence

from services.chassis.errors import InvalidRequest
from services.chassis.secret import SecretKey

DEFAULT_SIZE = 50
LARGEST_SIZE = 200


def page_size(requested: int) -> int:
    """0 means the default, too much is capped; a negative one was refused by validation."""
    return min(requested, LARGEST_SIZE) if requested else DEFAULT_SIZE


def page_token(secret: SecretKey, scope: Sequence[str], key: Sequence[str | int]) -> str:
    """A token for the rows after `key`. `scope` is all that must be the same next time: RPC, filters, caller."""
    body = json.dumps(list(key), separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_mac(secret, scope, body) + body).decode()


def page_key(secret: SecretKey, scope: Sequence[str], token: str) -> list[str | int] | None:
    """The key in a token, None for the first page; InvalidRequest if it was not made for this very list."""
    if not token:
        return None
    try:
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
        mac, body = raw[:16], raw[16:]
        if hmac.compare_digest(mac, _mac(secret, scope, body)):
            key = json.loads(body)
            return list(key)
    except ValueError:
        pass
    text = "is not a token of this list: pass next_page_token unchanged, with the same filters and caller"
    raise InvalidRequest(fields=[("page_token", text)])


def _mac(secret: SecretKey, scope: Sequence[str], body: bytes) -> bytes:
    return secret.mac("page", *(part.encode() for part in scope), body)[:16]
