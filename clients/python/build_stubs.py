"""Generates the stubs that the client is shipped with, from the contracts of the repository it stands in."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


class StubsHook(BuildHookInterface[Any]):
    """Generates the code before hatchling collects the files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sys.path.insert(0, str(REPOSITORY))
        import build_protos

        build_protos.generate(HERE / "generated")
        # The comments of the contracts, for the gateway's reference; in the stubs they are docstrings.
        (HERE / "generated" / build_protos.COMMENTED).unlink()
        for package in ("guildhall", "buf"):
            build_data["force_include"][str(HERE / "generated" / package)] = package
