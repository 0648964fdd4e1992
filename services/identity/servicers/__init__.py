"""One class per proto service, one method per RPC in proto order."""
