"""`python requirements.py project | build-system`: what pyproject.toml asks for, one a line, for `pip install -r`.

The versions are those of requirements.lock, which is given to pip as its constraints.
"""

import sys
import tomllib
from pathlib import Path

KEYS = {"project": "dependencies", "build-system": "requires"}

if __name__ == "__main__":
    table = tomllib.loads(Path("pyproject.toml").read_text())[sys.argv[1]]
    sys.stdout.write("\n".join([*table[KEYS[sys.argv[1]]], ""]))
