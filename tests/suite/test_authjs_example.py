"""The Auth.js adapter of examples/authjs, in Node, against a real suite."""

import shutil
import subprocess
from pathlib import Path

from tests.suite.conftest import Running, Tools

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "authjs"
FUNCTIONS = (
    *("createUser", "getUser", "getUserByEmail", "getUserByAccount", "updateUser", "deleteUser"),
    *("linkAccount", "unlinkAccount", "createSession", "getSessionAndUser", "updateSession", "deleteSession"),
    *("createVerificationToken", "useVerificationToken", "createAccessToken"),
)


def admin(running: Running, *arguments: str) -> str:
    """What a command of `guildhall admin` prints."""
    done = running.guildhall("admin", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_adapter_passes_its_own_test(running: Running, tool: Tools, tmp_path: Path) -> None:
    tool("node")
    npm = tool("npm")
    folder = tmp_path / "authjs"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    account_id = admin(running, "create-service-account", "web", "--scope", "identity.adapter")
    environment = {
        **running.environment,
        "GUILDHALL_URL": f"http://{running.gateway}",
        "GUILDHALL_SERVICE_KEY": admin(running, "create-service-key", account_id),
    }
    for command in (["ci", "--no-audit", "--no-fund"], ["test"]):
        done = subprocess.run([npm, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "ℹ fail 0" in done.stdout
    assert "ℹ skipped 0" in done.stdout
    assert [function for function in FUNCTIONS if function not in done.stdout] == []
