"""membership owns workspaces, their members and invitations, and decides what a member may do.

It refuses to own people (identity has their names and e-mails), what a guest may see (guest) and who takes part in a
conversation (messaging).
"""
