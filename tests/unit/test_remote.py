"""The command as a person at a gateway, without one: which gateway, whose session, what a terminal is shown."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from guildhall.client.subscriptions import MOST_POSITIONS
from guildhall.messaging.v1.conversation_service_pb2 import Conversation

from deploy.remote.sessions import Session, Sessions
from deploy.remote.settings import Gateway, given_gateway, parse_gateway, sessions_folder
from deploy.remote.tails import begin_at
from deploy.remote.texts import plain
from deploy.stack.settings import SettingsError, StackError

HERE = Gateway("127.0.0.1:8080", tls=False)
THERE = Gateway("guildhall.example:443", tls=True)


@pytest.mark.parametrize(
    ("text", "target", "tls"),
    [
        ("127.0.0.1:9080", "127.0.0.1:9080", False),
        ("localhost", "localhost:8080", False),
        ("[::1]:8080", "[::1]:8080", False),
        ("http://127.0.0.1:8080/", "127.0.0.1:8080", False),
        ("https://localhost:8443", "localhost:8443", True),
        ("guildhall.example", "guildhall.example:443", True),
        ("guildhall.example:8443", "guildhall.example:8443", True),
        ("https://guildhall.example", "guildhall.example:443", True),
    ],
)
def test_a_gateway_elsewhere_is_spoken_to_by_tls_only(text: str, target: str, tls: bool) -> None:
    assert parse_gateway(text) == Gateway(target, tls)


@pytest.mark.parametrize("text", ["http://guildhall.example", "ftp://x", "a:b", "https://", "x/y", "https://u@x"])
def test_what_is_no_gateway_or_would_be_told_passwords_in_clear_is_refused(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_gateway(text)


def test_an_authority_of_ones_own_means_tls_and_must_be_there(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    with pytest.raises(SettingsError, match="no file"):
        parse_gateway("localhost:8443", ca_file=str(authority))
    authority.touch()
    assert parse_gateway("localhost:8443", ca_file=str(authority)) == Gateway("localhost:8443", True, str(authority))


def test_the_command_line_comes_before_the_environment() -> None:
    environment = {"GUILDHALL_GATEWAY": "guildhall.example"}
    assert given_gateway(environment) == THERE
    assert given_gateway(environment, gateway="127.0.0.1:8080") == HERE
    assert given_gateway({}) is None


def test_a_relative_folder_for_settings_counts_as_none() -> None:
    assert sessions_folder({"XDG_CONFIG_HOME": "/somewhere"}) == Path("/somewhere/guildhall")
    assert sessions_folder({"XDG_CONFIG_HOME": "somewhere"}) == sessions_folder({})


def session(gateway: Gateway, number: int = 0, *, ends_at: float = 0.0) -> Session:
    return Session(gateway, "ada@example.com", f"session {number}", f"access {number}", ends_at)


async def test_the_session_of_the_gateway_where_somebody_signed_in_last_is_the_usual_one(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "guildhall")
    assert sessions.find(None) is None
    await sessions.keep(session(HERE))
    await sessions.keep(session(THERE))
    assert sessions.find(None) == session(THERE)
    assert sessions.find(HERE) == session(HERE)

    await sessions.forget(THERE)

    assert sessions.find(THERE) is None
    assert sessions.find(None) == session(HERE)
    assert (tmp_path / "guildhall" / "sessions.json").stat().st_mode & 0o777 == 0o600


async def test_no_session_token_is_exchanged_twice_however_many_ask_at_once(tmp_path: Path) -> None:
    # Each caller has a Sessions of its own, as each process has.
    await Sessions(tmp_path).keep(session(HERE))
    exchanged: list[str] = []

    async def exchange(found: Session) -> Session:
        exchanged.append(found.session_token)
        await asyncio.sleep(0)
        return session(HERE, len(exchanged))

    await asyncio.gather(*(Sessions(tmp_path).current(HERE, exchange) for _ in range(16)))

    assert exchanged == [f"session {number}" for number in range(16)]


async def test_a_token_that_is_good_for_a_while_is_shared_and_one_that_was_refused_is_not(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path)
    good = session(HERE, ends_at=4e9)
    await sessions.keep(good)

    async def exchange(found: Session) -> Session:
        return replace(found, access_token="another")

    assert await sessions.current(HERE, exchange) == good
    assert (await sessions.current(HERE, exchange, other_than="access 0")).access_token == "another"


async def test_a_session_that_is_kept_no_more_is_not_exchanged(tmp_path: Path) -> None:
    async def exchange(found: Session) -> Session:
        raise AssertionError(found)

    with pytest.raises(StackError, match="guildhall login"):
        await Sessions(tmp_path).current(HERE, exchange)


def test_a_damaged_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "sessions.json").write_text("{")
    with pytest.raises(StackError, match="remove it"):
        Sessions(tmp_path).find(None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Note G is done. ✓", "Note G is done. ✓"),
        ("two\nlines\tand\r", "two lines and "),
        ("\x1b]0;title\x07\x9b31m", "\ufffd]0;title\ufffd\ufffd31m"),
        ("abc\u202edef", "abc\ufffddef"),
        ("👩\u200d💻", "👩\u200d💻"),
    ],
)
def test_a_terminal_shows_a_text_and_does_not_obey_it(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_of_too_many_conversations_the_live_ones_are_asked_for() -> None:
    live = [Conversation(conversation_id=f"live {number}", last_event_seq=7) for number in range(900)]
    archived = [Conversation(conversation_id=f"archived {number}", last_event_seq=7) for number in range(200)]
    just_now = Conversation(conversation_id="live 0", last_event_seq=8)

    positions = begin_at(live, [*archived, just_now], last=5)

    assert len(positions) == 1_100
    assert {each.conversation_id: 2 for each in live}.items() <= positions.items()
    asked = list(positions)[-MOST_POSITIONS:]  # what a Subscription asks for
    assert {each.conversation_id for each in live} <= set(asked)
    assert positions["archived 199"] == 7
