"""PostgreSQL as the target: sessions, catalog, SQL files, ledger and lease, constraints, sequences, roles and the fence.

Everything here works on one connection string and one schema. It neither copies rows nor compares them with the source.
"""
