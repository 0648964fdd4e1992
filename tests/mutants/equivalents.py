"""Mutants that no test can tell from the code, each with the reason. One that no longer exists is an error."""

from collections.abc import Mapping

EQUIVALENT: Mapping[str, str] = {}
