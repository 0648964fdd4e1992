"""The processes of the services: their environment, migrations, servers, workers, and the one beat."""

import sys

from deploy.stack import certificates, health, secrets
from deploy.stack.postgres import Postgres
from deploy.stack.processes import Program
from deploy.stack.roles import DATABASE
from deploy.stack.settings import HOST, SERVICES, Settings, instance_name
from deploy.stack.valkey import Valkey

CONNECTIONS_OF_SERVER = 12
CONNECTIONS_OF_WORKER = 6
"""What a process opens to PostgreSQL at most: three pools (services/chassis/database.py) of four, or of two."""
_RESERVED_CONNECTIONS = 30  # for migrations, `guildhall` itself, and whoever looks with psql
_DRAIN_SECONDS = 5.0  # what a server drains for unless told otherwise
_END_SECONDS = 25  # after that: the last calls have 20 s
_SENDS_MAIL = ("identity", "membership", "guest")


def environment(
    settings: Settings, service: str, *, postgres: Postgres, valkey: Valkey, replica: int = 0, as_owner: bool = False
) -> dict[str, str]:
    """The whole environment of one process of a service; `as_owner` gives it the role that migrates."""
    layout, ports = settings.layout, settings.ports
    role = f"{service}_owner" if as_owner else service
    tls = certificates.files(layout.certificates, service)
    variables = {
        "GUILDHALL_DATABASE_URL": postgres.url(role, DATABASE),
        "GUILDHALL_DATABASE_PASSWORD_FILE": str(secrets.database_password_file(layout.secrets, role)),
        "GUILDHALL_REDIS_URL": valkey.url,
        "GUILDHALL_LISTEN": f"{HOST}:{ports.service(service, replica)}",
        "GUILDHALL_HEALTH_LISTEN": f"{HOST}:{ports.health(service, replica)}",
        "GUILDHALL_METRICS_LISTEN": f"{HOST}:{ports.metrics(service, replica)}",
        "GUILDHALL_TLS_CERT_FILE": str(tls.certificate),
        "GUILDHALL_TLS_KEY_FILE": str(tls.key),
        "GUILDHALL_TLS_CA_FILE": str(tls.ca),
        "GUILDHALL_SECRET_KEY_FILE": str(secrets.secret_key_file(layout.secrets, service)),
        "GUILDHALL_PUBLIC_URL": settings.public_url,
        "GUILDHALL_LOG_LEVEL": settings.log_level,
        **{f"GUILDHALL_{peer.upper()}_ADDRESS": _target(settings, peer) for peer in SERVICES},
    }
    if service == "identity":
        variables["GUILDHALL_SIGNING_KEYS_DIR"] = str(layout.keys)
        variables["GUILDHALL_PROVIDER_KEYS_FILE"] = str(secrets.provider_keys_file(layout.secrets))
    if service in _SENDS_MAIL:
        variables["GUILDHALL_MAIL_DIR"] = str(layout.mail)
    if service == "messaging":
        variables["GUILDHALL_BLOB_URL"] = settings.blob_url
    return {**settings.of_services, **variables}


def most_connections(replicas: int) -> int:
    """The connections that all processes of a suite, and those who look after it, may hold at once."""
    return len(SERVICES) * (CONNECTIONS_OF_SERVER * replicas + CONNECTIONS_OF_WORKER) + _RESERVED_CONNECTIONS


def migrations(settings: Settings, *, postgres: Postgres, valkey: Valkey) -> list[Program]:
    """One `migrate` per service, side by side as soon as the database answers."""
    return [
        Program(
            name=f"migrate-{service}",
            command=[sys.executable, "-m", f"services.{service}", "migrate"],
            log_file=settings.layout.logs / f"migrate-{service}.log",
            environment=environment(settings, service, postgres=postgres, valkey=valkey, as_owner=True),
            after=("postgresql",),
            one_shot=True,
        )
        for service in SERVICES
    ]


def programs(settings: Settings, *, postgres: Postgres, valkey: Valkey) -> list[Program]:
    """The servers (each replica), the workers and the beat; each starts when its own schema is migrated."""
    declared = []
    drain_seconds = float(settings.of_services.get("GUILDHALL_DRAIN_SECONDS", _DRAIN_SECONDS))
    for service in SERVICES:
        for replica in range(settings.replicas):
            name = instance_name(service, replica)
            health_port = settings.ports.health(service, replica)
            declared.append(
                Program(
                    name=name,
                    command=[sys.executable, "-m", f"services.{service}", "serve"],
                    log_file=settings.layout.logs / f"{name}.log",
                    environment=environment(settings, service, postgres=postgres, valkey=valkey, replica=replica),
                    after=(f"migrate-{service}", "valkey"),
                    ready=health.probe(health_port),
                    health_port=health_port,
                    stop_seconds=drain_seconds + _END_SECONDS,
                )
            )
    for service in SERVICES:
        declared.append(
            Program(
                name=f"{service}-worker",
                command=[sys.executable, "-m", f"services.{service}", "worker"],
                log_file=settings.layout.logs / f"{service}-worker.log",
                environment={
                    **environment(settings, service, postgres=postgres, valkey=valkey),
                    "GUILDHALL_WORKER_METRICS_LISTEN": f"{HOST}:{settings.ports.worker_metrics(service)}",
                },
                after=(f"migrate-{service}", "valkey"),
            )
        )
    beat = Program(
        name="beat",
        command=[sys.executable, "-m", "services.beat"],
        log_file=settings.layout.logs / "beat.log",
        environment={"GUILDHALL_REDIS_URL": valkey.url, "GUILDHALL_LOG_LEVEL": settings.log_level},
        after=("valkey",),
    )
    return [*declared, beat]


def _target(settings: Settings, peer: str) -> str:
    addresses = [f"{HOST}:{settings.ports.service(peer, replica)}" for replica in range(settings.replicas)]
    return addresses[0] if len(addresses) == 1 else "ipv4:" + ",".join(addresses)
