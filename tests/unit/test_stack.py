"""The embedded stack without its servers: settings, certificates, secrets, the run lock, and the supervisor."""

import os
import signal
import socket
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from deploy.stack import certificates, runs, secrets, suite
from deploy.stack import supervisor as supervisor_module
from deploy.stack.postgres import Postgres
from deploy.stack.processes import Program, describe_exit, last_lines
from deploy.stack.settings import SERVICES, Layout, Ports, SettingsError, StackError, ensure_private_folder, load
from deploy.stack.supervisor import Child, State, Supervisor, boot
from tests.support.backends import free_settings, release


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "_BACKOFF_SECONDS", 0.02)
    monkeypatch.setattr(supervisor_module, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(runs, "_LOCK_SECONDS", 0.02)


def program(folder: Path, name: str, script: str, **fields: object) -> Program:
    return Program(name=name, command=["sh", "-c", script], log_file=folder / f"{name}.log", **fields)  # type: ignore[arg-type]


def wait_until(supervisor: Supervisor, condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    supervisor.watch(lambda: condition() or time.monotonic() > deadline)  # type: ignore[operator]
    assert condition()  # type: ignore[operator]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_wrong_setting_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {
        "GUILDHALL_PORT_OFFSET": "1500",
        "GUILDHALL_DATA_DIR": str(tmp_path / "file" / "data"),
        "GUILDHALL_LOG_LEVEL": "loud",
    }

    with pytest.raises(SettingsError) as raised:
        load(environment, replicas=10)

    assert raised.value.exit_code == 2
    named = [problem.split()[0] for problem in raised.value.problems]
    assert named == ["GUILDHALL_PORT_OFFSET", "GUILDHALL_DATA_DIR", "GUILDHALL_LOG_LEVEL", "--replicas"]


@pytest.mark.parametrize("offset", ["", "-1000", "50000", "1e3", "١٠٠٠", "1_000", " 1000"])
def test_an_offset_that_is_no_multiple_of_1000_in_range_is_refused(offset: str) -> None:
    with pytest.raises(SettingsError):
        load({"GUILDHALL_PORT_OFFSET": offset})


def test_what_is_set_for_the_services_is_handed_on_and_the_stacks_own_is_not(tmp_path: Path) -> None:
    given = {
        "GUILDHALL_DATA_DIR": str(tmp_path),
        "GUILDHALL_MESSAGES_PER_SECOND_OF_SENDER": "5",
        "GUILDHALL_SIGN_UP": "invited",
        "GUILDHALL_SMTP_HOST": "mail.example.com",
        "GUILDHALL_MAIL_DIR": "/elsewhere",
        "GUILDHALL_DATABASE_URL": "postgresql://elsewhere/",
    }
    settings = load(given)
    assert settings.of_services == {
        "GUILDHALL_MESSAGES_PER_SECOND_OF_SENDER": "5",
        "GUILDHALL_SIGN_UP": "invited",
        "GUILDHALL_SMTP_HOST": "mail.example.com",
    }


def test_limits_of_the_gateway_are_whole_numbers(tmp_path: Path) -> None:
    given = {"GUILDHALL_DATA_DIR": str(tmp_path), "GUILDHALL_CALLS_PER_SECOND_OF_USER": "7"}
    assert load(given).of_gateway == {"calls_per_second_of_user": 7}
    for wrong in ("", "0", "-1", "1.5", "1000001", "many"):
        with pytest.raises(SettingsError, match="GUILDHALL_SIGN_INS_PER_SECOND_OF_ADDRESS must be"):
            load({**given, "GUILDHALL_SIGN_INS_PER_SECOND_OF_ADDRESS": wrong})


def test_no_two_listeners_of_two_stacks_share_a_port() -> None:
    seen: set[int] = set()
    for offset in range(0, 50_000, 1000):
        needed = set(Ports(offset).needed(replicas=1))
        assert not seen & needed
        seen |= needed
    assert len(Ports(49_000).needed(replicas=9)) == 3 + (9 * 3 + 1) * len(SERVICES)
    assert max(Ports(49_000).needed(replicas=9)) < 65_536


def test_socket_paths_fit_however_deep_the_data_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 30)))

    path = Layout(tmp_path / ("deep" * 40)).postgres_sockets / ".s.PGSQL.5432.lock"

    assert len(os.fsencode(path)) <= 107


def test_a_folder_of_somebody_elses_making_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir(mode=0o755)

    for name in ("link", "file"):
        with pytest.raises(StackError, match="not a private folder"):
            ensure_private_folder(tmp_path / name)
    ensure_private_folder(tmp_path / "open")

    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o700


def test_secrets_are_private_and_stay(tmp_path: Path) -> None:
    secrets_folder, keys = tmp_path / "secrets", tmp_path / "keys"
    secrets_folder.mkdir()
    keys.mkdir()

    secrets.ensure(secrets_folder, keys)
    files = [*secrets_folder.iterdir(), *keys.iterdir()]
    first = {path: path.read_bytes() for path in files}
    secrets.ensure(secrets_folder, keys)

    assert {path: path.read_bytes() for path in [*secrets_folder.iterdir(), *keys.iterdir()]} == first
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    assert len(set(secrets.database_passwords(secrets_folder).values())) == 2 * len(SERVICES)
    assert len(bytes.fromhex(secrets.secret_key_file(secrets_folder, "guest").read_text())) == 32
    (signing_key,) = keys.glob("*.pem")
    load_pem_private_key(signing_key.read_bytes(), password=None)
    Fernet(secrets.provider_keys_file(secrets_folder).read_text().strip())


def test_development_passwords_differ_by_address_and_by_data_directory(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        secrets.ensure(folder, folder)

    derived = {secrets.development_password(folder, who) for folder in folders for who in ("a@example.com", "b@x.org")}

    assert len(derived) == 4
    assert derived & {secrets.development_password(folders[0], "a@example.com")}


def test_certificates_name_their_service_and_stay(tmp_path: Path) -> None:
    found = certificates.ensure(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    certificates.ensure(tmp_path)

    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    ca = x509.load_pem_x509_certificate(found["guest"].ca.read_bytes())
    guest = x509.load_pem_x509_certificate(found["guest"].certificate.read_bytes())
    guest.verify_directly_issued_by(ca)
    names = guest.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["guest", "localhost"]


def test_the_public_certificate_opens_no_service(tmp_path: Path) -> None:
    found = certificates.ensure(tmp_path)

    def usages(name: str) -> list[x509.ObjectIdentifier]:
        certificate = x509.load_pem_x509_certificate(found[name].certificate.read_bytes())
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)

    assert ExtendedKeyUsageOID.CLIENT_AUTH not in usages(certificates.EDGE)
    assert ExtendedKeyUsageOID.CLIENT_AUTH in usages("gateway")


def test_a_certificate_is_renewed_when_30_days_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_LIFETIME", timedelta(days=29))
    short = certificates.ensure(tmp_path, ("guest",))["guest"].certificate.read_bytes()
    monkeypatch.undo()

    renewed = certificates.ensure(tmp_path, ("guest",))["guest"].certificate.read_bytes()

    assert renewed != short
    assert x509.load_pem_x509_certificate(renewed).not_valid_after_utc > datetime.now(UTC) + timedelta(days=300)


def test_a_new_ca_and_a_lost_key_make_new_certificates(tmp_path: Path) -> None:
    first = certificates.ensure(tmp_path)["guest"].certificate.read_bytes()
    (tmp_path / "guest-key.pem").write_text("half a k")
    second = certificates.ensure(tmp_path)["guest"].certificate.read_bytes()
    (tmp_path / "ca-key.pem").unlink()
    third = certificates.ensure(tmp_path)["guest"].certificate.read_bytes()

    assert len({first, second, third}) == 3
    ca = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    x509.load_pem_x509_certificate(third).verify_directly_issued_by(ca)


def test_a_renewed_certificate_is_another_by_the_same_authority(tmp_path: Path) -> None:
    before = certificates.ensure(tmp_path)["gateway"]
    old, authority = before.certificate.read_bytes(), before.ca.read_bytes()

    certificates.renew(tmp_path, ("gateway",))

    assert before.certificate.read_bytes() != old
    assert before.ca.read_bytes() == authority
    assert certificates.ensure(tmp_path)["gateway"].certificate.read_bytes() != old


def test_certificates_are_published_all_at_once_by_one_link(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    source = certificates.ensure(tmp_path / "certs")["gateway"]
    folder = tmp_path / "published"
    versions = []
    for _ in range(3):
        certificates.renew(tmp_path / "certs", ("gateway",))
        published = certificates.publish(source, folder)
        assert published.certificate.read_bytes() == source.certificate.read_bytes()
        assert published.key.read_bytes() == source.key.read_bytes()
        assert published.ca.read_bytes() == source.ca.read_bytes()
        versions.append((folder / "..data").resolve())

    assert len(set(versions)) == 3
    assert [path.exists() for path in versions] == [False, True, True]
    assert all(path.readlink().parts[0] == "..data" for path in vars(published).values())
    assert published.key.resolve().stat().st_mode & 0o077 == 0


def test_one_run_at_a_time_holds_a_data_directory(tmp_path: Path) -> None:
    assert runs.find_pid(tmp_path) is None
    lock = runs.RunLock(tmp_path)

    assert runs.find_pid(tmp_path) == os.getpid()
    with pytest.raises(StackError, match=f"already running on .*pid {os.getpid()}"):
        runs.RunLock(tmp_path)

    lock.release()
    assert runs.find_pid(tmp_path) is None
    runs.RunLock(tmp_path).release()


def test_a_taken_port_is_named_with_who_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "_PORT_SECONDS", 0)
    settings = free_settings(tmp_path)
    with socket.create_server(("127.0.0.1", settings.ports.health("guest"))) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(StackError, match=f"port {port} is taken, and guest's health check needs it"):
            suite.require_free_ports(settings)

    suite.require_free_ports(settings)
    release(settings)


def test_data_of_another_postgresql_major_is_left_alone_with_advice(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("17\n")
    unused = tmp_path / "unused"
    postgres = Postgres(data_folder=data, socket_folder=unused, password_file=unused, log_file=unused)

    with pytest.raises(StackError, match=r"PostgreSQL 17(.|\n)*pg_dumpall(.|\n)*mv "):
        postgres.prepare()

    assert [path.name for path in data.iterdir()] == ["PG_VERSION"]


def test_programs_start_when_what_they_need_is_ready(tmp_path: Path) -> None:
    marker = tmp_path / "migrated"
    programs = [
        program(tmp_path, "server", f"test -e {marker} && exec sleep 60", after=("migration",)),
        program(tmp_path, "migration", f"sleep 0.2; touch {marker}", one_shot=True),
    ]

    with boot(programs) as supervisor:
        assert supervisor.children["server"].restarts == 0
        assert supervisor.children["migration"].state is State.DONE


def test_a_crashed_child_is_reported_with_its_last_lines_and_restarted(tmp_path: Path) -> None:
    heard: list[tuple[str, str, list[str]]] = []

    def notify(child: Child, event: str) -> None:
        if event == "crashed":
            heard.append((child.program.name, child.ended, child.report))

    with Supervisor([program(tmp_path, "server", "echo some; echo words; exec sleep 60")], notify) as supervisor:
        supervisor.boot(10)
        child = supervisor.children["server"]
        wait_until(supervisor, lambda: child.program.log_file.stat().st_size > 0)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        wait_until(supervisor, lambda: child.restarts == 1 and child.state is State.READY)

    assert heard == [("server", "killed by SIGKILL", ["some", "words"])]


@pytest.mark.parametrize("script", ["echo GUILDHALL_X is missing; exit 2", "echo GUILDHALL_X is missing; exit 1"])
def test_a_child_that_cannot_start_ends_the_boot_with_its_own_words(tmp_path: Path, script: str) -> None:
    other = program(tmp_path, "other", "exec sleep 60")
    supervisor = Supervisor([other, program(tmp_path, "server", script, ready=lambda: False)])

    with pytest.raises(StackError, match=r"server does not start \(exit code [12]\)\nGUILDHALL_X is missing"):
        with supervisor:
            supervisor.boot(20)

    assert supervisor.children["other"].pid is None


def test_a_failed_migration_ends_the_boot(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"migrate-x failed \(exit code 3\)\nno such table"):
        boot([program(tmp_path, "migrate-x", "echo no such table; exit 3", one_shot=True)])


def test_children_stop_by_stage_and_a_deaf_one_is_killed(tmp_path: Path) -> None:
    stopped: list[str] = []
    deaf = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"
    programs = [
        program(tmp_path, "database", "exec sleep 60", stop_stage=4, stop_signal=signal.SIGINT),
        program(tmp_path, "deaf", deaf, stop_stage=1, stop_seconds=0.2),
        program(tmp_path, "polite", "exec sleep 60", stop_stage=1),
    ]
    supervisor = Supervisor(
        programs, lambda child, event: stopped.append(child.program.name) if event == "stopped" else None
    )
    supervisor.boot(10)
    pids = [child.pid for child in supervisor.children.values() if child.pid]
    wait_until(supervisor, lambda: (tmp_path / "deaf.log").read_text() == "deaf\n")

    supervisor.stop()

    assert stopped == ["polite", "deaf", "database"]
    assert supervisor.children["deaf"].ended == "killed by SIGKILL"
    assert not any(is_alive(pid) for pid in pids)


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    supervisor_process = os.fork()
    if supervisor_process == 0:
        child = boot([program(tmp_path, "server", "exec sleep 60")]).children["server"]
        pid_file.with_suffix(".new").write_text(str(child.pid))
        pid_file.with_suffix(".new").rename(pid_file)
        signal.pause()
    deadline = time.monotonic() + 10
    while not pid_file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child_pid = int(pid_file.read_text())
    assert is_alive(child_pid)

    os.kill(supervisor_process, signal.SIGKILL)
    os.waitpid(supervisor_process, 0)

    while is_alive(child_pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(child_pid)


def test_only_the_lines_of_this_start_are_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\nnew\n" + "x" * 10)

    assert last_lines(log, start=4) == ["new", "x" * 10]
    assert last_lines(log, start=4, count=1) == ["x" * 10]
    assert last_lines(tmp_path / "none") == []


def test_an_exit_is_described_in_words() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-64) in ("killed by SIGRTMAX", "killed by signal 64")


def test_a_log_that_grows_is_put_aside_while_the_process_goes_on_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.stack.supervisor._LOG_SECONDS", 0.1)
    fill = "head -c 17000000 /dev/zero | tr '\\0' 'x'; echo"
    script = f"{fill}; while ! test -e go; do sleep 0.05; done; echo after; exec sleep 60"
    with Supervisor([program(tmp_path, "server", f"cd {tmp_path}; {script}")]) as supervisor:
        supervisor.boot(10)
        log, aside = tmp_path / "server.log", tmp_path / "server.log.1"
        wait_until(supervisor, lambda: aside.exists() and log.stat().st_size < 1_000_000)
        (tmp_path / "go").touch()
        wait_until(supervisor, lambda: "after" in log.read_text())
    assert aside.stat().st_size > 16_000_000
