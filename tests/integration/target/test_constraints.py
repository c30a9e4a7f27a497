"""Constraints that are NOT VALID, validated."""

from __future__ import annotations

import psycopg
import pytest

from include.cutover.errors import LeaseLost, WrongData
from include.cutover.target import (
    catalog,
    constraints,
)
from tests.support.target_schema import lost, prepare

FOREIGN_KEYS = """
    CREATE TABLE "Parent" (id integer PRIMARY KEY, "Second" text, UNIQUE ("Second", id));
    INSERT INTO "Parent" VALUES (1, 'a'), (2, 'b');
    CREATE TABLE child ("Key" integer PRIMARY KEY, "Parent" integer, token text);
    INSERT INTO child SELECT n, n % 2 + 1, 'S3cret' FROM generate_series(1, 100) AS n;
    INSERT INTO child VALUES (101, NULL, 'S3cret');
    ALTER TABLE child ADD CONSTRAINT "child→Parent" FOREIGN KEY ("Parent") REFERENCES "Parent" NOT VALID;
    CREATE TABLE pair (a integer, b text, c integer);
    INSERT INTO pair VALUES (1, 'a', 7), (NULL, 'zzz', 8), (9, NULL, 9);
    ALTER TABLE pair ADD CONSTRAINT pair_fkey FOREIGN KEY (b, a) REFERENCES "Parent" ("Second", id) NOT VALID;
    ALTER TABLE pair ADD CONSTRAINT pair_c_check CHECK (c > 0) NOT VALID;
"""


def test_all_constraints_are_validated_once(conninfo: str) -> None:
    prepare(conninfo, FOREIGN_KEYS)
    calls: list[int] = []
    keys = constraints.validate_foreign_keys(conninfo, "app", lambda connection: calls.append(1), secret={})
    assert [(key.name, key.validated) for key in keys] == [("child→Parent", True), ("pair_fkey", True)]
    with psycopg.connect(conninfo) as connection:
        assert catalog.unvalidated_constraints(connection, "app") == []
    assert len(calls) == 3
    assert constraints.validate_foreign_keys(conninfo, "app", lost, secret={}) == keys


def test_orphans_are_counted_and_named_by_key_only(conninfo: str) -> None:
    prepare(conninfo, FOREIGN_KEYS)
    prepare(
        conninfo,
        """ALTER TABLE child DROP CONSTRAINT "child→Parent";
        INSERT INTO child SELECT n, 77, 'S3cret' FROM generate_series(201, 1300) AS n;
        ALTER TABLE child ADD CONSTRAINT "child→Parent" FOREIGN KEY ("Parent") REFERENCES "Parent" NOT VALID;
        ALTER TABLE pair DROP CONSTRAINT pair_fkey, DROP CONSTRAINT pair_c_check;
        INSERT INTO pair VALUES (1, 'b', -1);
        ALTER TABLE pair ADD CONSTRAINT pair_fkey FOREIGN KEY (b, a) REFERENCES "Parent" ("Second", id) NOT VALID;
        ALTER TABLE pair ADD CONSTRAINT pair_c_check CHECK (c > 0) NOT VALID;
        ALTER TABLE "Parent" ADD CONSTRAINT good CHECK (id > 0) NOT VALID""",
    )
    with pytest.raises(WrongData) as caught:
        constraints.validate_foreign_keys(conninfo, "app", secret={})
    told = str(caught.value)
    assert (
        "child→Parent: 1,100 orphans in child (Parent), first with Key=201 / Key=202 / Key=203 / Key=204 / Key=205" in told
    )
    assert "pair_fkey: 1 orphan in pair (b, a)" in told
    assert "pair_c_check of pair" in told
    assert "S3cret" not in told
    with psycopg.connect(conninfo) as connection:
        assert catalog.unvalidated_constraints(connection, "app") == [
            "child.child→Parent", "pair.pair_c_check", "pair.pair_fkey",
        ]  # fmt: skip


def test_without_the_lease_nothing_is_validated(conninfo: str) -> None:
    prepare(conninfo, FOREIGN_KEYS)
    with pytest.raises(LeaseLost):
        constraints.validate_foreign_keys(conninfo, "app", lost, secret={})
    with psycopg.connect(conninfo) as connection:
        assert len(catalog.unvalidated_constraints(connection, "app")) == 3


def test_a_partitioned_table_takes_a_plain_foreign_key(conninfo: str) -> None:
    prepare(
        conninfo,
        """CREATE TABLE p (id integer PRIMARY KEY);
        CREATE TABLE c (id integer, p integer) PARTITION BY LIST (id);
        CREATE TABLE c1 PARTITION OF c FOR VALUES IN (1);
        ALTER TABLE c ADD FOREIGN KEY (p) REFERENCES p""",
    )
    assert [(key.table, key.validated) for key in constraints.validate_foreign_keys(conninfo, "app", secret={})] == [
        ("c", True)
    ]
