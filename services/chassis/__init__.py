"""The frame every service bolts onto: server, interceptors, database, coalescing, outbox, inbox.

No business word in it.
"""
