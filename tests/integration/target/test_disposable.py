"""Disposable databases: like the target, and never another one's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from include.cutover.errors import Refused
from include.cutover.stack.postgres import Cluster
from include.cutover.target import disposable


@pytest.fixture
def target(cluster: Cluster) -> Iterator[str]:
    """A target with a role of its own, a locale that is not the cluster's, and an extension that it may not make."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD 'of-the-test'".encode())
        locale = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
        connection.execute(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0 {locale}".encode())
    with psycopg.connect(cluster.conninfo(name), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION vector")
    try:
        yield make_conninfo(cluster.conninfo(name), user=name, password="of-the-test")
    finally:
        with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
            for database in disposable.there(cluster.conninfo(), "plan"):
                connection.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            connection.execute(f"DROP ROLE {name}".encode())


def test_disposable_database_is_like_the_target_and_is_dropped_while_in_use(target: str, cluster: Cluster) -> None:
    name = disposable.name("plan", "/evidence/one")
    made, lacks = disposable.make(target, name)
    assert made and lacks[0].startswith("vector (permission denied")
    administrator = make_conninfo(target, user="postgres", password=cluster.password)
    assert disposable.make(administrator, name) == (False, []), "it stays as it is, and gets what was left out"
    with closing(psycopg.connect(disposable.conninfo(target, name))) as connection:
        row = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datlocprovider, datlocale, "
            "(SELECT count(*) FROM pg_extension WHERE extname = 'vector') "
            "FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        assert row == ("UTF8", "b", "C.UTF-8", 1)
        assert disposable.there(target, "plan") == [name]
        assert disposable.there(target, "pla") == []
        assert disposable.drop(target, name) is True
    assert disposable.drop(target, name) is False
    assert disposable.there(target, "plan") == []


def test_missing_createdb_is_named(target: str, cluster: Cluster) -> None:
    role = psycopg.conninfo.conninfo_to_dict(target)["user"]
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {role} NOCREATEDB".encode())
    with pytest.raises(Refused, match=f'ALTER ROLE "{role}" CREATEDB'):
        disposable.make(target, disposable.name("plan", "two"))


def test_other_databases_are_never_dropped(target: str) -> None:
    with pytest.raises(Refused, match="not a disposable database"):
        disposable.drop(target, str(psycopg.conninfo.conninfo_to_dict(target)["dbname"]))


def test_names_are_short_enough_and_differ() -> None:
    longest = disposable.name("p" * 41, "x")
    assert len(longest) <= 63 and longest != disposable.name("p" * 41, "y")
