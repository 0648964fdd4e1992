"""The examples fit the installation that they are examples for; and each policy finds what does not."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes import pods, wholeness
from tests.kubernetes.examples import (
    NATIVE,
    connections,
    of_other_versions,
    wrong_admin,
    wrong_certificates,
    wrong_database,
    wrong_routes,
    wrong_secrets,
)
from tests.kubernetes.given import SECRETS
from tests.kubernetes.objects import COMPONENT, EXAMPLES, Object, Objects, changed, example, name, of_kind
from tests.kubernetes.test_policies import GONE, spoiled
from tests.rules.sources import ROOT
from tests.support.pools import connections_of_server, connections_of_worker

FILES = sorted(path.name for path in EXAMPLES.glob("*.yaml"))
DOCUMENT = ROOT / "docs" / "kubernetes.md"


def admin_job() -> Object:
    """The example, with the name that a cluster would give it."""
    (job,) = example("admin.yaml")
    job["metadata"]["name"] = job["metadata"].pop("generateName") + "x"
    return job


@pytest.mark.parametrize("file", FILES)
def test_the_examples_are_of_the_kinds_and_versions_that_they_are_written_for(file: str) -> None:
    objects = [admin_job()] if file == "admin.yaml" else example(file)

    assert not of_other_versions(objects)
    assert not wholeness.invalid([one for one in objects if one["kind"] in NATIVE])


@pytest.mark.parametrize("version", ["cert-manager.io/v1alpha2", "example.com/v1"])
def test_an_example_of_another_version_is_found(version: str) -> None:
    spoiled_example = spoiled(example("certificates.yaml"), ("Issuer", "guildhall"), "apiVersion", version)

    assert len(of_other_versions(spoiled_example)) == 1


def test_the_certificates_are_who_they_are_for() -> None:
    assert not wrong_certificates(example("certificates.yaml"))


@pytest.mark.parametrize(
    ("called", "path", "value"),
    [
        ("guest", "spec|dnsNames", ["guest", "identity"]),
        ("guest", "spec|dnsNames", ["guest.guildhall.svc"]),
        ("guest", "spec|secretName", "identity-tls"),
        ("guest", "spec|usages", ["server auth"]),
        ("guest", "spec|issuerRef|name", "letsencrypt"),
        ("guest", "metadata|name", "guests"),
        ("gateway", "spec|usages", ["server auth", "client auth"]),
        ("edge", "spec|dnsNames", ["gateway"]),
        ("edge", "spec|usages", ["server auth", "client auth"]),
        ("edge", "spec|issuerRef|name", "guildhall"),
        ("guildhall-ca", "spec|privateKey|rotationPolicy", "Always"),
        ("guildhall-ca", "spec|secretName", "other"),
    ],
)
def test_a_certificate_that_is_somebody_elses_is_found(called: str, path: str, value: Any) -> None:
    assert wrong_certificates(spoiled(example("certificates.yaml"), ("Certificate", called), path, value))


def test_the_routes_lead_to_the_gateway(prod: Objects) -> None:
    assert not wrong_routes(example("gateway-api.yaml"), prod)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec|rules|0|backendRefs|0|port", 8443),
        ("spec|rules|0|backendRefs|0|name", "envoy"),
        ("spec|hostnames", ["guildhall.example"]),
    ],
)
def test_a_route_that_leads_astray_is_found(path: str, value: Any, prod: Objects) -> None:
    assert (
        len(wrong_routes(spoiled(example("gateway-api.yaml"), ("GRPCRoute", "guildhall-grpc"), path, value), prod)) == 1
    )


def test_the_database_is_the_installations_and_has_room_for_it(prod: Objects) -> None:
    assert not wrong_database(example("cloudnativepg.yaml"), prod)


def test_the_documentation_says_how_many_connections_they_are(prod: Objects) -> None:
    text = " ".join(DOCUMENT.read_text().split())
    said = re.search(r"A server holds up to (\d+), a worker up to (\d+)\..*?of everything, that is (\d+);", text)

    assert said is not None
    counted = (connections_of_server(), connections_of_worker(), connections(prod))
    assert tuple(map(int, said.groups())) == counted


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata|name", "other"),
        ("metadata|namespace", "other"),
        ("spec|postgresql|parameters|max_connections", "400"),
        ("spec|postgresql|parameters|pg_stat_statements.track", GONE),
        ("spec|postgresql|synchronous", GONE),
        ("spec|postgresql|synchronous|dataDurability", "preferred"),
        ("spec|enableSuperuserAccess", GONE),
    ],
)
def test_a_database_that_does_not_do_is_found(path: str, value: Any, prod: Objects) -> None:
    assert wrong_database(spoiled(example("cloudnativepg.yaml"), ("Cluster", "database"), path, value), prod)


def test_an_installation_that_outgrows_its_database_is_found(prod: Objects) -> None:
    grown = changed(prod)
    for one in of_kind(grown, "HorizontalPodAutoscaler"):
        one["spec"]["maxReplicas"] = 20

    assert wrong_database(example("cloudnativepg.yaml"), grown)


def test_external_secrets_make_secrets_of_ours() -> None:
    assert not wrong_secrets(example("external-secrets.yaml"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec|target|name", "identity-password"),
        ("spec|target|template|data|username", GONE),
    ],
)
def test_an_external_secret_that_nobody_can_use_is_found(path: str, value: Any) -> None:
    broken = spoiled(example("external-secrets.yaml"), ("ExternalSecret", "identity-database"), path, value)

    assert len(wrong_secrets(broken)) == 1


def test_the_admin_job_is_identitys_own(prod: Objects) -> None:
    job = admin_job()

    assert not wrong_admin(job, prod)
    # The namespace and the account are the installation's.
    whole = [*(one for one in prod if one["kind"] in ("Namespace", "ServiceAccount")), job]
    assert not [found for policy in (pods.unrestricted, pods.accounts, pods.unbounded) for found in policy(whole)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec|template|spec|containers|0|image", "registry.example.com/guildhall:0.0.1"),
        ("spec|template|spec|containers|0|env|0|value", "postgresql://identity@elsewhere/guildhall"),
        ("spec|backoffLimit", 3),
        ("spec|ttlSecondsAfterFinished", GONE),
    ],
)
def test_an_admin_job_that_is_not_identitys_is_found(path: str, value: Any, prod: Objects) -> None:
    job = admin_job()
    (broken,) = spoiled([job], ("Job", job["metadata"]["name"]), path, value)

    assert len(wrong_admin(broken, prod)) == 1


def test_the_script_makes_the_secrets_that_nobody_gives_an_operator(kubectl: str) -> None:
    command = [str(EXAMPLES / "secrets.sh"), "guildhall", "--dry-run=client", "--output=yaml"]
    environment = {**os.environ, "PATH": f"{Path(kubectl).parent}:{os.environ['PATH']}", "KUBECONFIG": os.devnull}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr

    made = {one["metadata"]["name"]: one for one in yaml.safe_load_all(done.stdout) if one}
    others = {"database-admin", "database-ca", "mail", "blobs"}
    assert set(made) == {called for called in SECRETS if not called.endswith("-tls")} - others
    for called, one in made.items():
        keys = {re.sub(r"^\d{8}T\d{6}Z\.pem$", "20260101T000000Z.pem", key) for key in one["data"]}
        assert keys == SECRETS[called]
        assert one["metadata"]["namespace"] == "guildhall"


class Api(BaseHTTPRequestHandler):
    """As much of a cluster's API as `kubectl create secret` asks of it."""

    kept: set[str]
    forbids = False

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        """Creates a Secret, of which only the name is kept."""
        # In the protobuf of Kubernetes, with the name before all else of the object.
        named = re.search(rb"(identity|membership|guest|messaging)[a-z-]+", self.rfile.read(self.length))
        called = named[0].decode() if named else ""
        if self.forbids or self.path.split("?")[0] != "/api/v1/namespaces/guildhall/secrets":
            self.answer(403, _refusal(403, "Forbidden", "secrets are not yours to create"))
        elif called in self.kept:
            self.answer(409, _refusal(409, "AlreadyExists", f'secrets "{called}" already exists'))
        else:
            self.kept.add(called)
            self.answer(201, {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": called}})

    @property
    def length(self) -> int:
        return int(self.headers["content-length"])

    def answer(self, code: int, content: Object) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _refusal(code: int, reason: str, message: str) -> Object:
    return {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason} | {
        "message": message
    }


@pytest.fixture
def cluster() -> Iterator[ThreadingHTTPServer]:
    """A server that keeps Secrets."""
    handler = type("OwnApi", (Api,), {"kept": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def make_secrets(kubectl: str, server: ThreadingHTTPServer, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs the script against a cluster."""
    command = [str(EXAMPLES / "secrets.sh"), "guildhall", f"--server=http://127.0.0.1:{server.server_port}"]
    path = f"{Path(kubectl).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "KUBECONFIG": os.devnull, "HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_the_script_leaves_secrets_that_are_there_as_they_are_and_makes_the_others(
    kubectl: str, cluster: ThreadingHTTPServer, tmp_path: Path
) -> None:
    kept = cluster.RequestHandlerClass.kept  # type: ignore[attr-defined]
    kept |= {"membership-database", "identity-signing-keys"}

    done = make_secrets(kubectl, cluster, tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    there = "is there, and stays as it is"
    assert re.findall(rf"^secret/(\S+) {there}$", done.stdout, re.M) == ["membership-database", "identity-signing-keys"]
    others = {"database-admin", "database-ca", "mail", "blobs"}
    assert kept == {called for called in SECRETS if not called.endswith("-tls")} - others


def test_the_script_stops_where_it_may_not_create(kubectl: str, cluster: ThreadingHTTPServer, tmp_path: Path) -> None:
    cluster.RequestHandlerClass.forbids = True  # type: ignore[attr-defined]

    done = make_secrets(kubectl, cluster, tmp_path)

    assert done.returncode != 0
    assert done.stderr.count("not yours to create") == 1


def test_the_documentation_names_every_secret_and_key() -> None:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    text = "\n".join(rows)

    assert not [called for called in SECRETS if not re.search(rf"`{re.escape(_pattern(called))}`", text)]
    keys = {key for called, each in SECRETS.items() for key in each if called != "identity-signing-keys"}
    assert not [key for key in keys if f"`{key}`" not in text]


def _pattern(called: str) -> str:
    """How the table names it: those of every service in one row."""
    for service in ("identity", "membership", "guest", "messaging"):
        if called in (f"{service}-database", f"{service}-owner-database", f"{service}-key", f"{service}-tls"):
            return called.replace(service, "SERVICE", 1)
    return called


def test_the_documentation_names_files_that_are_there() -> None:
    named = set(re.findall(r"deploy/kubernetes/[\w./-]*\w", DOCUMENT.read_text()))

    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_what_the_documentation_applies_first_is_all_but_what_serves(prod: Objects) -> None:
    (left_out,) = set(re.findall(r"app\.kubernetes\.io/component notin \(([\w,]+)\)", DOCUMENT.read_text()))

    later = {name(one) for one in prod if one["metadata"].get("labels", {}).get(COMPONENT) in left_out.split(",")}
    assert later == {name(one) for one in of_kind(prod, "Deployment")}


def test_what_the_documentation_deletes_before_a_release_is_every_job(prod: Objects) -> None:
    (deleted,) = set(re.findall(r"component in \(([\w, -]+)\)", DOCUMENT.read_text()))

    jobs = [one for one in prod if one["metadata"].get("labels", {}).get(COMPONENT) in deleted.split(", ")]
    assert {name(one) for one in jobs} == {name(one) for one in of_kind(prod, "Job")}
