"""The templates of mails: ours, and a product's in their place, file by file."""

from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined, TemplateSyntaxError, select_autoescape
from jinja2.sandbox import ImmutableSandboxedEnvironment


def environment(*folders: Path) -> ImmutableSandboxedEnvironment:
    """Each template from the first of the folders that has it. HTML is escaped; what nobody gave may not be named."""
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(folders),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def holds_templates(folder: Path) -> Path:
    """Refuses a folder that cannot be read, or one with .txt or .html files that do not compile, naming each."""
    if not folder.is_dir():
        raise ValueError(f"is not a folder ({folder})")
    templates, faults = environment(folder), []
    for name in templates.list_templates(extensions=["txt", "html"]):
        try:
            templates.get_template(name)
        except TemplateSyntaxError as error:
            faults.append(f"{folder / name} line {error.lineno}: {error.message}")
        except (OSError, UnicodeDecodeError) as error:
            faults.append(f"{folder / name}: cannot be read: {type(error).__name__}")
    if faults:
        raise ValueError("; ".join(faults))
    return folder
