"""`make faults`: break things under load, heal them, and let a checker look.

Nothing acknowledged may be lost or doubled, and nothing shown to those who had lost access.
"""
