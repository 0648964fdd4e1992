"""`python -m deploy.stack.ensure_roles`, as the Job of an installation runs it, on a PostgreSQL that is there."""

from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from deploy.stack import secrets
from deploy.stack.ensure_roles import ROLES, main
from deploy.stack.roles import DATABASE
from deploy.stack.suite import Suite as Stack


@pytest.fixture
def mounted(backends: Stack, tmp_path: Path) -> Path:
    """The files that the Job's Secrets would be, with the passwords that this PostgreSQL has already."""
    passwords = secrets.database_passwords(backends.settings.layout.secrets)
    for role in ROLES:
        (tmp_path / "passwords" / role).mkdir(parents=True)
        (tmp_path / "passwords" / role / "password").write_text(passwords[role] + "\n")
    (tmp_path / "admin").mkdir()
    (tmp_path / "admin" / "username").write_text("postgres")
    (tmp_path / "admin" / "password").write_text(backends.postgres.password_file.read_text())
    return tmp_path


def arguments(backends: Stack, mounted: Path) -> list[str]:
    """The Job's, but that the server is at a socket."""
    server = f"/{DATABASE}?host={quote(str(backends.postgres.socket_folder))}"
    return [f"--server={server}", f"--admin={mounted / 'admin'}", f"--passwords={mounted / 'passwords'}"]


def connect(backends: Stack, role: str, password: str) -> psycopg.Connection:
    """A connection under a role."""
    return psycopg.connect(backends.postgres.url(role, DATABASE), password=password, connect_timeout=5)


def test_the_job_may_run_again_on_a_database_that_is_in_use(backends: Stack, mounted: Path) -> None:
    passwords = secrets.database_passwords(backends.settings.layout.secrets)

    assert main(arguments(backends, mounted)) == 0
    for role in ROLES:
        with connect(backends, role, passwords[role]) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (role,)


def test_the_job_gives_a_role_its_new_password(backends: Stack, mounted: Path) -> None:
    file = mounted / "passwords" / "guest_owner" / "password"
    before = file.read_text().strip()
    file.write_text("a new one")
    try:
        assert main(arguments(backends, mounted)) == 0

        with connect(backends, "guest_owner", "a new one") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            connect(backends, "guest_owner", before)
    finally:
        file.write_text(before)
        assert main(arguments(backends, mounted)) == 0


def test_the_job_says_why_it_could_not(backends: Stack, mounted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mounted / "admin" / "password").write_text("wrong")

    assert main(arguments(backends, mounted)) == 1
    shown = capsys.readouterr().err
    assert "cannot set up the roles" in shown
    assert "wrong" not in shown
