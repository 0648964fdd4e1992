"""`python requirements.py project | build-system`: what pyproject.toml asks for, one a line, for `pip install -r`.

The versions are those of requirements.lock, which is given to pip as its constraints. Of the extras the image has that
for traces alone: a collector is named by a setting, and whoever runs the image cannot install anything into it.
"""

import sys
import tomllib
from pathlib import Path

EXTRAS = ("traces",)


def required(part: str) -> list[str]:
    """The requirements of a table of pyproject.toml."""
    table = tomllib.loads(Path("pyproject.toml").read_text())[part]
    if part == "build-system":
        return [*table["requires"]]
    return [*table["dependencies"], *(each for extra in EXTRAS for each in table["optional-dependencies"][extra])]


if __name__ == "__main__":
    sys.stdout.write("\n".join([*required(sys.argv[1]), ""]))
