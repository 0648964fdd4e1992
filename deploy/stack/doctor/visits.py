"""One visit of the doctor: every check, and the report."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from deploy.stack import runs, suite
from deploy.stack.doctor import databases, gateway, processes, secrets
from deploy.stack.doctor.findings import Finding, Level, fail, ok
from deploy.stack.settings import Settings

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def visit(settings: Settings, *, least_free_gib: float) -> Iterator[Finding]:
    """Look at everything, one after another. Of a suite that does not run, at what it left on the disk."""
    yield from processes.check_python()
    if settings.layout.data.exists():
        yield from processes.check_disk(settings, least_free_gib=least_free_gib)
    run = runs.find(settings.layout.data)
    if run is None or not run.ready:
        what = "is starting" if run else "does not run"
        yield fail("suite", f"{what} on {settings.layout.data}", "guildhall up --detach; guildhall status")
    else:
        yield ok("suite", f"pid {run.pid} on {settings.layout.data}")
    if run is not None:
        yield from _visit_running(settings, run)
    if settings.layout.certificates.exists():
        yield from secrets.check_certificates(settings)
        yield from secrets.check_private_files(settings)


def _visit_running(settings: Settings, run: runs.Run) -> Iterator[Finding]:
    # Not prepared: that would renew what is about to be looked at.
    stack = suite.assemble(settings)
    yield from processes.check_children(run, settings)
    yield from processes.check_open_files(run)
    yield from databases.check_postgresql(stack)
    yield from databases.check_valkey(stack.valkey.url, str(stack.valkey.log_file))
    yield from gateway.check_envoy(settings)
    published = gateway.read_published(settings)
    yield from gateway.check_calls(settings, published)
    yield from secrets.check_signing_keys(settings, published)
    yield from secrets.check_presented(settings)


def report(findings: Iterator[Finding], console: Console, *, as_json: bool) -> bool:
    """Print what is found; true if nothing failed."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            # As it comes: some checks wait for an answer for seconds.
            console.print(_line(finding), soft_wrap=True)
    failed = sum(1 for finding in found if finding.level is Level.FAIL)
    if as_json:
        print(json.dumps({"ok": failed == 0, "findings": [asdict(finding) for finding in found]}, indent=1))
    else:
        warned = sum(1 for finding in found if finding.level is Level.WARN)
        console.print(f"{len(found)} checks: {failed} failed, {warned} to be looked at", highlight=False)
    return failed == 0


def _line(finding: Finding) -> Text:
    line = Text(f"{finding.level:5}", style=_STYLES[finding.level])
    line.append(f"{finding.check:24} {finding.seen}", style="default")
    if finding.advice:
        line.append(f"\n      → {finding.advice}", style="default")
    return line
