"""The embedded suite: PostgreSQL, Valkey, Envoy and the services as child processes, without Docker.

Read `suite.py` first: it is the wiring diagram. `supervisor.py` starts, watches and stops what it lists.
"""
