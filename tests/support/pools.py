"""How many connections to PostgreSQL a process opens at most, read from the code that opens them."""

import ast
import inspect

from services.chassis.database import Database
from tests.rules.sources import sources


def connections_of_server() -> int:
    """Of a service's `serve`."""
    own: int = inspect.signature(Database.__init__).parameters["pool_size"].default
    return _pools() * own


def connections_of_worker() -> int:
    """Of its `worker`."""
    (worker,) = sources("services/chassis/worker.py")
    (size,) = (
        keyword.value
        for node in ast.walk(worker.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Database"
        for keyword in node.keywords
        if keyword.arg == "pool_size"
    )
    return _pools() * int(ast.literal_eval(size))


def _pools() -> int:
    """How many pools of that size a process has."""
    (database,) = sources("services/chassis/database.py")
    return sum(
        isinstance(node, ast.Call) and ast.unparse(node.func) == "self._engine" for node in ast.walk(database.tree)
    )
