"""The access matrix as a text that people read and edit: a legend, and a line for each RPC."""

from collections.abc import Mapping
from pathlib import Path

WIDTH = 5
NAMES = 33
NOT_APPLICABLE = "-"


class Table:
    """What each caller is to find behind each RPC, by the names of examples and columns."""

    def __init__(self, path: Path, columns: Mapping[str, str]) -> None:
        """`columns` gives each column's heading."""
        self._path = path
        self._columns = columns
        self.legend: dict[str, str] = {}
        """What each short word stands for."""
        self.rows: dict[str, dict[str, str]] = {}
        self.remarks: dict[str, str] = {}
        """Why nobody may call an RPC, where nobody may."""
        self._head: list[str] = []
        self._read(path.read_text(encoding="utf-8").splitlines())

    def _read(self, lines: list[str]) -> None:
        service = ""
        for line in lines:
            body, _, remark = line.partition("  # ")
            if line.startswith("#") or (not service and not line.strip()):
                self._head.append(line)
                word, is_legend, meaning = line.removeprefix("#").partition(" = ")
                if is_legend:
                    self.legend[word.strip()] = meaning.split()[0]
            elif line.strip() and not line.startswith(" "):
                service = body.split()[0]
            elif line.strip():
                name = f"{service}{body[2:NAMES].rstrip()}"
                words = body[NAMES:].split()
                assert len(words) == len(self._columns), f"{name}: {len(words)} words for {len(self._columns)} columns"
                self.rows[_spelled(name)] = dict(zip(self._columns, words, strict=True))
                if remark:
                    self.remarks[_spelled(name)] = remark

    def word(self, verdict: str) -> str:
        """The short word for a verdict; the verdict itself, without spaces, where the legend has none."""
        return next((word for word, meaning in self.legend.items() if meaning == verdict), verdict)

    def write(self, rows: Mapping[str, Mapping[str, str]]) -> None:
        """Puts other rows into the text, for a person to look through with `git diff`."""
        lines, service = list(self._head), ""
        for name, row in rows.items():
            its_service, _, method = name.partition("/")
            if its_service != service:
                service = its_service
                headings = "".join(heading.ljust(WIDTH) for heading in self._columns.values())
                lines += ["", f"{service}/".ljust(NAMES) + headings.rstrip()]
            cells = "".join(row[column].ljust(WIDTH - 1) + " " for column in self._columns)
            remark = f"  # {self.remarks[name]}" if name in self.remarks else ""
            lines.append((f"  {method}".ljust(NAMES) + cells).rstrip() + remark)
        self._path.write_text("\n".join(lines).replace("\n\n\n", "\n\n") + "\n", encoding="utf-8")


def _spelled(name: str) -> str:
    return " ".join(name.split())
