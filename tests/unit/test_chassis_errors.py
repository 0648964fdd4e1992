"""Errors: what a client can see of a fault, byte by byte."""

import asyncio
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from sqlalchemy import exc

from services.chassis.errors import (
    FRAME_FAULTS,
    DeadlineExceeded,
    Fault,
    Internal,
    InvalidRequest,
    LimitReached,
    NotFound,
    Overloaded,
    StorageUnavailable,
    fault_of,
    status_of,
)

DOMAIN = "guildhall.guest"


def details(status: status_pb2.Status) -> dict[str, Any]:
    """The status's details by their type."""
    found: dict[str, Any] = {}
    for detail in status.details:
        message = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])()
        assert detail.Unpack(message)
        found[type(message).__name__] = message
    return found


@pytest.mark.parametrize("fault_class", [fault for fault in FRAME_FAULTS if fault is not LimitReached])
def test_every_fault_says_its_reason_its_domain_and_its_own_text(fault_class: type[Fault]) -> None:
    status = status_of(fault_class(), domain=DOMAIN, request_id="r")
    info = details(status)["ErrorInfo"]

    assert (info.reason, info.domain) == (fault_class.reason, DOMAIN)
    assert code_pb2.Code.Name(status.code) == fault_class.code.name
    assert status.message == fault_class.text


def test_each_field_that_is_wrong_is_named() -> None:
    fault = InvalidRequest(fields=[("email", "is no address"), ("positions[3].event_seq", "must not be negative")])

    bad = details(status_of(fault, domain=DOMAIN, request_id="r"))["BadRequest"]

    assert [(v.field, v.description) for v in bad.field_violations] == list(fault.fields)


def test_a_limit_is_named_with_its_size() -> None:
    info = details(status_of(LimitReached("open_invites", most=20), domain=DOMAIN, request_id="r"))["ErrorInfo"]

    assert (info.reason, dict(info.metadata)) == ("LIMIT_REACHED", {"limit": "open_invites", "most": "20"})


def test_where_waiting_helps_the_status_says_how_long() -> None:
    retry = details(status_of(Overloaded(retry_after_seconds=1.5), domain=DOMAIN, request_id="r"))["RetryInfo"]

    assert retry.retry_delay.ToMilliseconds() == 1500


def test_where_waiting_does_not_help_the_status_says_nothing_of_it() -> None:
    assert set(details(status_of(NotFound(), domain=DOMAIN, request_id="r"))) == {"ErrorInfo"}


def test_metadata_travels_in_error_info() -> None:
    fault = Fault.__new__(NotFound)
    Fault.__init__(fault, metadata={"lock_time": "2026-01-01T00:00:00Z"})

    info = details(status_of(fault, domain=DOMAIN, request_id="r"))["ErrorInfo"]

    assert dict(info.metadata) == {"lock_time": "2026-01-01T00:00:00Z"}


def test_hidden_and_unknown_give_the_same_bytes() -> None:
    hidden = status_of(NotFound(), domain=DOMAIN, request_id="one").SerializeToString(deterministic=True)
    unknown = status_of(NotFound(), domain=DOMAIN, request_id="another").SerializeToString(deterministic=True)

    assert hidden == unknown


def test_only_a_defect_carries_the_request_id() -> None:
    status = status_of(Internal(), domain=DOMAIN, request_id="find-me")

    assert details(status)["RequestInfo"].request_id == "find-me"
    assert "find-me" not in status.message
    for fault_class in set(FRAME_FAULTS) - {Internal, LimitReached}:
        assert b"find-me" not in status_of(fault_class(), domain=DOMAIN, request_id="find-me").SerializeToString()


def database_error(error: Exception, *, invalidated: bool = False) -> exc.DBAPIError:
    wrapped = exc.OperationalError if isinstance(error, psycopg.OperationalError) else exc.DBAPIError
    return wrapped("SELECT secret", {"password": "hunter2"}, error, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFound(), NotFound),
        (TimeoutError(), DeadlineExceeded),
        (asyncio.TimeoutError(), DeadlineExceeded),  # noqa: UP041 - it must stay the same class
        (exc.TimeoutError("the pool"), Overloaded),
        (database_error(psycopg.OperationalError("gone")), StorageUnavailable),
        (database_error(psycopg.errors.AdminShutdown("gone"), invalidated=True), StorageUnavailable),
        (database_error(psycopg.errors.UniqueViolation("twice")), None),
        (ValueError("a defect"), None),
        (grpc.RpcError("a peer's refusal that nobody translated"), None),
    ],
)
def test_an_exception_stands_for_one_fault_or_is_a_defect(error: Exception, expected: type[Fault] | None) -> None:
    fault = fault_of(error)

    assert type(fault) is (expected or type(None))
    assert "hunter2" not in str(fault)
    assert "secret" not in str(fault)
