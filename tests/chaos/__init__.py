"""``make chaos``: everything is killed while two independent ledgers count.

A client process writes down every 202 (``client.py``), the sandbox every message a provider took on; ``checker.py``
joins both with the database. ``docs/reliability.md`` has the promises and the last figures.
"""
