"""identity: who somebody is.

It owns users, password hashes, sessions and their tokens, verification tokens and the keys that access tokens are
signed with. It refuses to know what anybody may do: workspaces, roles and guests are other services' business, and
it asks none of them anything.
"""
