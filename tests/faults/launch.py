"""`python -m tests.faults.launch SERVICE --without PROTECTION COMMAND`: a service with one protection taken away.

For negative controls. The service itself knows nothing of it: there is no switch in production code.
"""

import argparse
import runpy
import sys

from tests.faults.protections import WITHOUT


def main() -> None:
    """Takes the protection away, then is the service."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.launch")
    parser.add_argument("service")
    parser.add_argument("--without", choices=sorted(WITHOUT), action="append", required=True)
    parser.add_argument("command", choices=["serve", "worker"])
    wanted = parser.parse_args()
    for protection in wanted.without:
        WITHOUT[protection]()
    sys.argv = [f"services.{wanted.service}", wanted.command]
    runpy.run_module(f"services.{wanted.service}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
