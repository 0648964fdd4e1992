"""One mutant: where the source is changed, and to what."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """A change of a text: what is between two of its places gives way to something else."""

    begin: int
    end: int
    instead: str
    kind: str
    """guard, side, comparison or call of Python; lock, condition, case or conflict of SQL."""


@dataclass(frozen=True)
class Mutant:
    """A module with one edit."""

    path: str
    line: int
    scope: str
    """The function it is in, as code objects call it, or the constant."""
    was: str
    """What is changed, on one line."""
    edit: Edit
    number: int = 1
    """Which one it is of those that look the same."""

    @property
    def key(self) -> str:
        """What names it as long as the code around it only moves."""
        nth = f" #{self.number}" if self.number > 1 else ""
        return f"{self.path} {self.scope}: {self.edit.kind}: {self.was} → {self.edit.instead or 'nothing'}{nth}"

    def applied(self, source: str) -> str:
        """The module's text with it."""
        return source[: self.edit.begin] + self.edit.instead + source[self.edit.end :]

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.scope}: {self.edit.kind}: {self.was} → {self.edit.instead or 'nothing'}"
