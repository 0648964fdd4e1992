"""Page tokens: good for the list they were made for, and for nothing else."""

import base64
import json

import pytest

from services.chassis.errors import InvalidRequest
from services.chassis.pages import DEFAULT_SIZE, LARGEST_SIZE, page_key, page_size, page_token
from services.chassis.secret import SecretKey

SECRET = SecretKey(b"k" * 32)
SCOPE = ["/guildhall.membership.v1.MemberService/ListMembers", "caller-1", "workspace-1", "role=admin"]
TOKEN = page_token(SECRET, SCOPE, ["Ädä", 7])


def forged(key: list[object]) -> str:
    """Another key behind the authenticator of a real token."""
    return base64.urlsafe_b64encode(base64.urlsafe_b64decode(TOKEN)[:16] + json.dumps(key).encode()).decode()


def test_a_token_gives_back_its_key() -> None:
    assert page_key(SECRET, SCOPE, TOKEN) == ["Ädä", 7]


def test_no_token_is_the_first_page() -> None:
    assert page_key(SECRET, SCOPE, "") is None


@pytest.mark.parametrize(
    ("scope", "token"),
    [
        ([*SCOPE[:1], "caller-2", *SCOPE[2:]], TOKEN),
        ([*SCOPE[:3], "role=viewer"], TOKEN),
        (["/guildhall.membership.v1.GroupService/ListGroups", *SCOPE[1:]], TOKEN),
        (SCOPE[:3], TOKEN),
        ([*SCOPE[:2], "workspace-1role=admin", ""], TOKEN),
        (SCOPE, forged(["Ädä", 8])),
        (SCOPE, TOKEN[:-4]),
        (SCOPE, TOKEN[4:]),
        (SCOPE, "A" * 1000),
        (SCOPE, "not base64!"),
        (SCOPE, "ä"),
        (SCOPE, "AAAA"),
    ],
)
def test_a_token_of_another_list_or_a_forged_one_is_refused(scope: list[str], token: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        page_key(SECRET, scope, token)

    assert [field for field, _ in refused.value.fields] == ["page_token"]


def test_a_token_of_another_services_key_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        page_key(SecretKey(b"o" * 32), SCOPE, TOKEN)


@pytest.mark.parametrize(
    ("asked", "size"), [(0, DEFAULT_SIZE), (1, 1), (200, 200), (201, LARGEST_SIZE), (2**31 - 1, 200)]
)
def test_page_sizes_have_a_default_and_a_cap(asked: int, size: int) -> None:
    assert page_size(asked) == size
