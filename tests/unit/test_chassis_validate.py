"""Validation: each field that breaks a rule is named as a client would write it."""

import pytest
from google.protobuf.message import Message
from guildhall.events.v1 import event_sink_pb2 as events
from guildhall.identity.v1 import auth_service_pb2 as auth
from guildhall.membership.v1 import access_service_pb2 as access
from guildhall.messaging.v1 import event_service_pb2 as subscribe
from guildhall.messaging.v1 import message_service_pb2 as messages

from services.chassis.errors import InvalidRequest, MalformedRequest, status_of
from services.chassis.interceptors import MALFORMED, validate

ID = "018f0000-0000-7000-8000-000000000001"


def named(request: Message) -> set[str]:
    """The fields that a refusal names; empty if the request is let through."""
    try:
        validate(request)
    except InvalidRequest as refused:
        return {field for field, _ in refused.fields}
    return set()


def send(text: str) -> messages.SendMessageRequest:
    return messages.SendMessageRequest(workspace_id=ID, conversation_id=ID, client_message_id=ID, text=text)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (send("hello"), set()),
        (send(""), {"text"}),
        (messages.SendMessageRequest(text="x"), {"workspace_id", "conversation_id", "client_message_id"}),
        (auth.SignUpRequest(email="none", password="short", name=""), {"email", "password", "name"}),
        (
            subscribe.SubscribeRequest(
                workspace_id=ID,
                positions=[
                    subscribe.Position(conversation_id=ID, event_seq=1),
                    subscribe.Position(conversation_id="no", event_seq=-1),
                ],
            ),
            {"positions[1].conversation_id", "positions[1].event_seq"},
        ),
        (access.BatchCheckAccessRequest(), {"questions"}),
        (
            access.BatchCheckAccessRequest(questions=[access.AccessQuestion(workspace_id=ID, user_id=ID)]),
            {"questions[0].capability"},
        ),
        (access.GetAccessRevisionsRequest(workspace_ids=[ID, "no"]), {"workspace_ids[1]"}),
    ],
)
def test_each_field_that_breaks_a_rule_is_named_by_its_path(request_: Message, fields: set[str]) -> None:
    assert named(request_) == fields


def test_a_missing_choice_is_named_with_the_message_that_lacks_it() -> None:
    fields = named(access.BatchCheckAccessRequest(questions=[access.AccessQuestion(workspace_id=ID, capability="x")]))

    assert fields == {"questions[0].subject"}


@pytest.mark.parametrize("text", ["\0", "a\0b", "end\0", "\0\0"])
def test_nul_is_refused_anywhere_in_a_text(text: str) -> None:
    assert named(send(text)) == {"text"}


def test_nul_is_found_in_nested_and_repeated_fields() -> None:
    question = access.AccessQuestion(workspace_id=ID, user_id=ID, capability="a\0b")
    nested = access.BatchCheckAccessRequest(questions=[access.AccessQuestion(), question])
    removed = events.MemberRemoved(workspace_id=ID, member_id=ID, user_id=ID + "\0")
    inside = events.DeliverEventsRequest(events=[events.Event(event_id=ID, member_removed=removed)])

    assert "questions[1].capability" in named(nested)
    assert "events[0].member_removed.user_id" in named(inside)
    assert "session_ids[1]" in named(check_sessions([ID, "a\0"]))


def check_sessions(ids: list[str]) -> Message:
    from guildhall.identity.v1 import session_service_pb2

    return session_service_pb2.CheckSessionsRequest(session_ids=ids)


def test_bytes_that_are_no_message_are_malformed() -> None:
    with pytest.raises(MalformedRequest):
        validate(MALFORMED)


def test_what_is_said_of_a_field_does_not_repeat_its_value() -> None:
    with pytest.raises(InvalidRequest) as refused:
        validate(auth.SignUpRequest(email="hunter2", password="hunter2", name="x"))

    assert "hunter2" not in str(refused.value)
    assert not any("hunter2" in description for _, description in refused.value.fields)


def test_a_refusal_of_very_many_fields_still_fits_into_the_answers_metadata() -> None:
    """gRPC drops an answer whose metadata is over 16 KiB: the client would see RESOURCE_EXHAUSTED instead."""
    wrong = [subscribe.Position(conversation_id="no", event_seq=-1)] * 1000

    with pytest.raises(InvalidRequest) as refused:
        validate(subscribe.SubscribeRequest(workspace_id=ID, positions=wrong))

    status = status_of(refused.value, domain="guildhall.messaging", request_id="r")
    assert status.ByteSize() < 8 << 10
