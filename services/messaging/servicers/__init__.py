"""The servicers: one method per RPC: who, what, one transaction, reply."""
