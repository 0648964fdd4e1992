"""Metrics and log lines: named as dashboards made for go-grpc-prometheus expect them."""

from typing import Any

import grpc
import pytest

from services.chassis import telemetry


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        (telemetry.STARTED, {"grpc_server_started_total"}),
        (telemetry.HANDLED, {"grpc_server_handled_total"}),
        (telemetry.RECEIVED, {"grpc_server_msg_received_total"}),
        (telemetry.SENT, {"grpc_server_msg_sent_total"}),
        (
            telemetry.HANDLING,
            {f"grpc_server_handling_seconds_{part}" for part in ("bucket", "sum", "count")},
        ),
    ],
)
def test_metrics_have_the_names_and_labels_of_go_grpc_prometheus(metric: Any, names: set[str]) -> None:
    labels = ("unary", "guildhall.test.v1.TestService", "Test")
    labelled: Any = metric.labels(*labels, "OK") if metric is telemetry.HANDLED else metric.labels(*labels)
    labelled.observe(0.1) if metric is telemetry.HANDLING else labelled.inc()

    samples = [sample for family in metric.collect() for sample in family.samples]
    found = {sample.name for sample in samples} - {
        sample.name for sample in samples if sample.name.endswith("_created")
    }

    assert found == names
    expected = {"grpc_type", "grpc_service", "grpc_method"} | ({"grpc_code"} if metric is telemetry.HANDLED else set())
    assert all(set(sample.labels) - {"le"} == expected for sample in samples)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (grpc.StatusCode.OK, "OK"),
        (grpc.StatusCode.NOT_FOUND, "NotFound"),
        (grpc.StatusCode.CANCELLED, "Canceled"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DeadlineExceeded"),
        (grpc.StatusCode.UNAUTHENTICATED, "Unauthenticated"),
        (grpc.StatusCode.INTERNAL, "Internal"),
    ],
)
def test_codes_are_written_as_go_writes_them(code: grpc.StatusCode, name: str) -> None:
    assert telemetry.code_name(code.name) == name
