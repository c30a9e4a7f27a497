"""The evidence of a run: the append-only record on disk, the leases and claims beside it, and the fingerprints of a run.

It works with PostgreSQL down. Reading a meaning out of the events is left to ``runs``.
"""
