"""What of the gateway's configuration is there against harm: limits, patience, checks, what is counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.envoy import limits
from deploy.envoy.certificates import write_secrets
from deploy.envoy.config import GatewaySettings, render
from deploy.envoy.descriptors import public_rpcs
from deploy.envoy.replies import REFUSALS, local_replies

SERVICES = ("identity", "membership", "guest", "messaging")


def settings(**changes: Any) -> GatewaySettings:
    """Of a gateway that is only rendered."""
    fields: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 8080,
        "tls_port": 8443,
        "admin_port": 9901,
        "upstreams": {name: [("127.0.0.1", 15051)] for name in SERVICES},
        "health_ports": {name: [15061] for name in SERVICES},
        "cert_file": "/tls/gateway/tls.crt",
        "key_file": "/tls/gateway/tls.key",
        "ca_file": "/tls/gateway/ca.crt",
        "edge_cert_file": "/tls/edge/tls.crt",
        "edge_key_file": "/tls/edge/tls.key",
        "descriptor_file": "descriptors.binpb",
        "public_url": "https://guildhall.example",
    }
    return GatewaySettings(**{**fields, **changes})


def rendered(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(render(settings(**changes)))
    return found


def listeners(**changes: Any) -> dict[str, Any]:
    return {one["name"]: one for one in rendered(**changes)["static_resources"]["listeners"]}


def manager(name: str = "plain", **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = listeners(**changes)[name]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def names_of_filters() -> list[str]:
    return [one["name"].removeprefix("envoy.filters.http.") for one in manager()["http_filters"]]


def filter_named(name: str, **changes: Any) -> dict[str, Any]:
    [found] = [one["typed_config"] for one in manager(**changes)["http_filters"] if one["name"].endswith(name)]
    assert isinstance(found, dict)
    return found


def clusters(**changes: Any) -> dict[str, Any]:
    return {one["name"]: one for one in rendered(**changes)["static_resources"]["clusters"]}


def test_who_calls_is_known_before_they_are_counted_and_counted_before_they_are_refused() -> None:
    found = names_of_filters()

    order = ["cors", "grpc_web", "grpc_json_transcoder", "grpc_stats", "jwt_authn.read", "local_ratelimit"]
    assert found == [*order, "jwt_authn", "buffer", "router"]


def test_the_filter_that_counts_reads_the_claims_and_refuses_nobody() -> None:
    reads, insists = filter_named("jwt_authn.read"), filter_named("http.jwt_authn")
    [rule] = reads["rules"]

    assert reads["providers"]["guildhall"].pop("payload_in_metadata") == limits.TOKEN_CLAIMS
    assert reads["providers"] == insists["providers"]
    either = rule["requires"]["requires_any"]["requirements"]
    assert either == [{"provider_name": "guildhall"}, {"allow_missing_or_failed": {}}]


def test_each_limit_is_what_is_set_with_ten_seconds_worth_at_once() -> None:
    limit = filter_named(
        "local_ratelimit",
        calls_per_second_of_user=7,
        calls_per_second_of_service_account=11,
        calls_per_second_of_address=5,
        sign_ins_per_second_of_address=2,
        most_counted_callers=99,
    )
    buckets = {
        tuple(entry["key"] for entry in one["entries"]): one["token_bucket"]["tokens_per_fill"]
        for one in limit["descriptors"]
        if {"key": "group", "value": "keys"} not in one["entries"]
    }

    assert buckets == {
        ("user", "scope"): 7,
        ("account", "scope"): 11,
        ("caller", "group", "masked_remote_address"): 5,
        ("group", "masked_remote_address"): 2,
    }
    for one in limit["descriptors"]:
        assert one["token_bucket"]["max_tokens"] == 10 * one["token_bucket"]["tokens_per_fill"]
    assert limit["max_dynamic_descriptors"] == 99


def test_the_rpcs_that_try_passwords_are_in_a_group_of_their_own_and_are_all_there() -> None:
    assert {rpc.path for rpc in public_rpcs()} >= limits.SIGN_INS
    groups: dict[str, set[str]] = {}
    for route in manager()["route_config"]["virtual_hosts"][0]["routes"]:
        if "metadata" in route:
            group = route["metadata"]["filter_metadata"]["guildhall"]["group"]
            groups.setdefault(group, set()).add(route["name"])

    assert groups == {"sign-ins": set(limits.SIGN_INS), "keys": {limits.KEYS}}


def test_a_refusal_that_waiting_helps_says_so_in_a_header_too() -> None:
    mappers = local_replies()["mappers"][1::2]
    for refusal, mapper in zip(REFUSALS, mappers, strict=True):
        headers = [added["header"] for added in mapper["headers_to_add"]]
        expected = [{"key": "retry-after", "value": "1"}] if refusal.retry_seconds else []
        assert headers == expected
    assert {refusal.reason for refusal in REFUSALS if refusal.retry_seconds} == {"RATE_LIMITED", "OVERLOADED"}


def test_only_our_methods_are_counted_one_by_one() -> None:
    allowed = filter_named("grpc_stats")["individual_method_stats_allowlist"]["services"]
    counted = {f"/{one['name']}/{method}" for one in allowed for method in one["method_names"]}

    assert counted == {rpc.path for rpc in public_rpcs()}
    assert "stats_for_all_methods" not in filter_named("grpc_stats")


def test_unary_calls_wait_for_their_body_at_the_gateway_and_streams_do_not() -> None:
    streams = {rpc.path for rpc in public_rpcs() if rpc.streaming}
    for route in manager()["route_config"]["virtual_hosts"][0]["routes"]:
        own = route["typed_per_filter_config"].get("envoy.filters.http.buffer", {})
        is_reflection = route["name"].startswith("/grpc.reflection.")
        assert own.get("disabled", False) == (route["name"] in streams or is_reflection), route["name"]
    assert filter_named("buffer")["max_request_bytes"] == (1 << 20) + 5


@pytest.mark.parametrize("name", ["plain", "tls"])
def test_the_gateway_has_little_patience_and_takes_no_more_headers_than_it_must(name: str) -> None:
    found = manager(name)

    assert found["request_headers_timeout"] == "5s"
    assert found["max_request_headers_kb"] == 16
    assert found["common_http_protocol_options"]["max_headers_count"] == 100
    assert found["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
    assert found["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert found["normalize_path"]
    assert found["merge_slashes"]
    assert listeners()["tls"]["filter_chains"][0]["transport_socket_connect_timeout"] == "10s"
    [runtime] = rendered()["layered_runtime"]["layers"]
    assert runtime["static_layer"]["overload.premature_reset_total_stream_count"] == 500


def test_the_admin_interface_listens_on_this_machine_only() -> None:
    assert rendered()["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_checked_by_grpc_each_second_and_rested_when_it_breaks_connections(service: str) -> None:
    cluster = clusters()[service]
    [check] = cluster["health_checks"]

    assert check["grpc_health_check"] == {}
    assert check["interval"] == check["no_traffic_interval"] == "1s"
    assert cluster["outlier_detection"]["consecutive_local_origin_failure"] == 5
    assert cluster["outlier_detection"]["max_ejection_percent"] == 50
    assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}
    for threshold in cluster["circuit_breakers"]["thresholds"]:
        assert threshold["retry_budget"]["budget_percent"] == {"value": 20}


def test_certificates_are_watched_where_they_are_if_there_is_a_folder_for_it(tmp_path: Path) -> None:
    write_secrets(settings(secrets_folder=str(tmp_path)))
    found = {path.stem: json.loads(path.read_text())["resources"][0] for path in tmp_path.glob("*.json")}
    edge = listeners(secrets_folder=str(tmp_path))["tls"]["filter_chains"][0]["transport_socket"]["typed_config"]
    [reference] = edge["common_tls_context"]["tls_certificate_sds_secret_configs"]

    assert set(found) == {"edge", "client", "authority"}
    assert found["edge"]["tls_certificate"]["watched_directory"] == {"path": "/tls/edge"}
    assert found["client"]["tls_certificate"]["private_key"] == {"filename": "/tls/gateway/tls.key"}
    assert found["authority"]["validation_context"]["watched_directory"] == {"path": "/tls/gateway"}
    assert reference["sds_config"]["path_config_source"] == {"path": str(tmp_path / "edge.json")}
    for service in SERVICES:
        tls = clusters(secrets_folder=str(tmp_path))[service]["transport_socket"]["typed_config"]["common_tls_context"]
        names = tls["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
        assert names == [{"san_type": "DNS", "matcher": {"exact": service}}]


def test_a_trace_may_come_from_a_browser() -> None:
    policy = manager()["route_config"]["virtual_hosts"][0]["typed_per_filter_config"]["envoy.filters.http.cors"]

    assert {"traceparent", "tracestate"} <= set(policy["allow_headers"].split(", "))
    assert {"retry-after", "x-request-id"} <= set(policy["expose_headers"].split(", "))
