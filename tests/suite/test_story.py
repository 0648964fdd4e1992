"""The main job, played through the gateway of a real suite."""

import io

from rich.console import Console

from deploy.stack import story
from tests.suite.conftest import Running


def test_the_story_holds(running: Running) -> None:
    told = io.StringIO()
    held = story.play(running.gateway, running.settings.layout.mail, Console(file=told, width=160))
    assert held, told.getvalue()


def test_no_secret_or_personal_text_of_the_story_is_in_a_log(running: Running) -> None:
    logs = {path.name: path.read_text(errors="replace") for path in running.settings.layout.logs.glob("*.log")}
    assert len(logs) >= 10
    for canary in (
        story.PASSWORD,
        "Note G is done.",
        "ada@example.com",
        "gus@example.com",
        "ghs_",
        "ghg_",
        "ghv_",
        "eyJ",
    ):
        assert [name for name, text in logs.items() if canary in text] == [], canary
