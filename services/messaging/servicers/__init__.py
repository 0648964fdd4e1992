"""One class per proto service."""
