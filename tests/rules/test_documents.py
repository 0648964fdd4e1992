"""What the documents say of the project: links that lead somewhere, tests that exist, settings as they are."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

from deploy import configuration
from deploy.stack.settings import OF_OTHERS, SettingsError, load
from tests.kubernetes.given import SETTINGS
from tests.rules.sources import ROOT, everything, report

DOCUMENTS = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*.md")),
    ROOT / "clients" / "python" / "README.md",
)
VARIABLE = r"(?<![\w…])GUILDHALL_[A-Z0-9]+(?:_[A-Z0-9]+)*(?![\w*])"


def prose(text: str) -> str:
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What its headings are called in links."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path, text: str) -> list[str]:
    """Relative links that lead nowhere."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+://", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists():
            found.append(f"{path.name}: {target}: there is no such file")
        elif anchor and place.suffix == ".md" and anchor not in anchors(place.read_text() if file else text):
            found.append(f"{path.name}: {target}: there is no such heading")
    return found


def named_tests(text: str) -> list[tuple[str, str]]:
    """Tests that a document names, each with the file that stands after it, or after those named with it."""
    found, waiting = [], []
    for name, file in re.findall(r"`(test_\w+)`|\((\w+/test_\w+\.py)\)", text):
        if name:
            waiting.append(name)
        else:
            found += [(file, each) for each in waiting]
            waiting = []
    return found + [("", each) for each in waiting]


def missing_tests(text: str) -> list[str]:
    """Named tests that are not in their files."""
    missing = []
    for file, name in named_tests(text):
        path = ROOT / "tests" / file
        tree = ast.parse(path.read_text()) if path.is_file() else ast.parse("")
        if name not in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}:
            missing.append(f"{file or 'nowhere'}: there is no {name}")
    return missing


def references_to_nowhere(name: str, text: str) -> list[str]:
    """Numbers of a list of demands, or of a document's sections, that nobody finds in this repository."""
    found = re.findall(r"\bR\d{1,2}\b|\bsemantics \d+|\barchitecture \u00a7\d+|\bproof\.md\b", text)
    return [f"{name}: {each} is in no document here: say what it says" for each in found]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere_and_headings_leave_no_level_out(path: Path) -> None:
    text = path.read_text()

    assert not (faults := broken_links(path, text)), report(faults)
    levels = [len(level) for level in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_nothing_refers_to_what_is_not_here() -> None:
    texts = {path.name: path.read_text() for path in DOCUMENTS}
    texts |= {source.path: source.text for source in everything()}

    assert not (faults := [fault for each in texts.items() for fault in references_to_nowhere(*each)]), report(faults)


@pytest.mark.parametrize("reference", ["R{}", "semantics {}", "architecture \u00a7{}", "R{}, ADR 8"])
def test_a_reference_to_what_is_not_here_is_found(reference: str) -> None:
    assert len(references_to_nowhere("x.py", f"Kept for ever ({reference.format(30)}).")) == 1
    assert not references_to_nowhere("x.py", "Kept for ever (ADR 8, AIP-134, RFC 7519 \u00a74.1.4, test S8).")


def test_every_control_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| .+ \| .+ \| (`test_.+) \|$", text, re.MULTILINE)

    assert len(rows) >= 30
    assert len(named_tests(text)) >= len(rows)
    assert not (faults := missing_tests(text)), report(faults)
    # A row of the tables of controls without a test is no control.
    assert len(rows) == len(re.findall(r"^\| (?!threat|---)", text.partition("## Controls")[2], re.MULTILINE))


@pytest.mark.parametrize(
    "text",
    [
        "`test_that_never_was` (unit/test_remote.py)",
        "`test_a_damaged_file_is_told_with_what_to_do` (unit/test_stack.py)",
        "`test_a_damaged_file_is_told_with_what_to_do` (unit/test_nothing.py)",
        "`test_a_damaged_file_is_told_with_what_to_do`",
    ],
)
def test_a_test_that_does_not_exist_is_found(text: str) -> None:
    assert len(missing_tests(text)) == 1
    assert not missing_tests("`test_a_damaged_file_is_told_with_what_to_do` (unit/test_remote.py)")


def test_a_link_that_leads_nowhere_is_found() -> None:
    path = ROOT / "docs" / "security.md"
    for target in ("nothing.md", "#nothing", "limits.md#nothing", "../docs/nothing.md"):
        assert len(broken_links(path, f"# Title\n[a]({target})")) == 1
    assert not broken_links(path, "# Title\n[a](limits.md#the-gateway) [b](#title) [c](https://example.com/x)")


def test_the_configuration_reference_is_what_the_classes_say() -> None:
    assert configuration.FILE.read_text() == configuration.render(), "run: python -m deploy.configuration"


def test_the_reference_is_of_the_classes_that_the_processes_load() -> None:
    assert {**SETTINGS, **configuration.LOADED} == configuration.LOADED
    documented = {name for classes in configuration.GROUPS.values() for each in classes for name in own(each)}
    assert {name for settings in configuration.LOADED.values() for name in settings.model_fields} == documented


def own(settings: type[configuration.BaseModel]) -> list[str]:
    """The names of a class's own settings, each of which says what it is for."""
    fields = dict(configuration.own_fields(settings))
    assert not [name for name, field in fields.items() if not field.description], settings.__name__
    return list(fields)


def test_every_variable_that_anything_names_is_in_the_reference() -> None:
    reference = set(re.findall(r"`(GUILDHALL_[A-Z0-9_]+)`", configuration.render()))
    named: set[str] = set()
    for path in (*DOCUMENTS, *(ROOT / "deploy").rglob("*.py"), *(ROOT / "services").rglob("*.py")):
        named |= set(re.findall(VARIABLE, path.read_text()))

    unknown = {
        name for name in named - reference - set(OF_OTHERS) if not any(each.startswith(name) for each in reference)
    }
    assert unknown == set()


def test_up_minds_no_variable_that_people_are_told_to_export_for_something_else() -> None:
    told: set[str] = set()
    for path in DOCUMENTS:
        told |= set(re.findall(rf"export ({VARIABLE})", path.read_text()))
    # What compose and the examples take from the shell.
    told |= set(re.findall(rf"\$\{{({VARIABLE})", (ROOT / "deploy" / "compose.yaml").read_text()))
    for path in (ROOT / "examples").glob("*/*.*"):
        if path.suffix in (".md", ".py", ".sh", ".ts"):
            told |= set(re.findall(VARIABLE, path.read_text()))
    assert {"GUILDHALL_URL", "GUILDHALL_SERVICE_KEY", "GUILDHALL_PORT", "GUILDHALL_IMAGE"} <= told
    problems: list[str] = []
    try:
        load(dict.fromkeys(told, ""), only_known=True)
    except SettingsError as error:  # that empty values are wrong is another matter
        problems = error.problems
    assert [each for each in problems if "is no setting" in each] == []
