"""Copies kept beside the backup for people: a snapshot of Redis and archives of configuration.

No step restores them. The backup of the database itself is not here (``source``).
"""
