"""`make load`: how fast the suite is, as ratios to a bare echo behind the same gateway, taken in the same run.

Read `__main__.py` first, then `scenarios.py`. `generator.py` is the process that makes the load; what it does there is
in `callers.py`, `publishers.py` and `subscribers.py`.
"""
