"""Values that SQLite accepts and PostgreSQL does not: found before the window, decided by the plan, or refused by the copy.

All cases live in one source and one target. The source is assessed; each table with a value that blocks is copied without
the assessment and has to fail on that row; then the plan's decisions are carried out, everything else is copied, and the
content proof compares both ends. The database, the session and this process stand in three time zones.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import yaml
from psycopg import sql

from include.cutover.assessment.assess import assess
from include.cutover.assessment.decided import assess_decided
from include.cutover.assessment.findings import Assessment, Finding
from include.cutover.assessment.target import read_target
from include.cutover.checks import Check, worst
from include.cutover.cli import assess as assess_command
from include.cutover.copying import tables as copying
from include.cutover.copying.table_copy import RunLease
from include.cutover.decisions import quarantine
from include.cutover.decisions.apply import apply_decisions
from include.cutover.decisions.audit import audit
from include.cutover.decisions.decided_snapshot import Decided
from include.cutover.errors import CutoverError, WrongData
from include.cutover.plan.model import Plan
from include.cutover.preflight import source as preflight_source
from include.cutover.proof import content, orphans
from include.cutover.proof.table_result import TableResult
from include.cutover.source import cloning, snapshots
from include.cutover.source import schema as source_schema
from include.cutover.stack.postgres import Cluster
from include.cutover.target import ledger, sql_runner
from include.cutover.target import sequences as target_sequences
from include.cutover.target import session as target_session
from include.cutover.target.sides import Sides
from tests.support.assessing import Raw, insert, plan_of, source_of, sql_folder, target_of

SCHEMA = "public"

# In SQLite, and what must happen here.
LIST = {
    "text in an INTEGER column": "finding with keys; blocked",
    "3.0 in an INTEGER column": "copied as 3",
    "3.5 in an INTEGER column": "blocked",
    "integer beyond the target's range": "finding; blocked",
    "integer key beyond int4 in a table whose target is `integer`": "finding; blocked",
    "'' in a DATETIME or number column": "blocked; decision `empty_as_null` allowed",
    "'' in a text column": "stays ''",
    "text longer than varchar(n)": "finding with the longest; blocked",
    "NUL character in text": "blocked; decision `strip_nul` allowed",
    r"`\u0000` inside JSON": "blocked, same decision",
    "bytes that are not UTF-8": "blocked; decision `encoding: latin-1` (or other) allowed",
    "invalid JSON, duplicate keys, NaN in JSON": "invalid blocked; duplicate keys reported (jsonb keeps the last)",
    "naive datetime": "UTC whatever the session, the server or the worker says",
    "ISO with T, Z, offset; date only; fractions of 1-9 digits": "same instant; more than 6 digits blocked unless zero",
    "unix seconds, milliseconds, Julian day in a DATETIME column": "blocked unless the plan says which",
    "2, 'true', 't', 'yes' in a BOOLEAN column": "blocked; decision allowed",
    "UUID with or without hyphens, upper case, braces": "same uuid; anything else blocked",
    "UUID or JSON column whose value SQLite turned into INTEGER or REAL": 'blocked: "damaged at the source", with the key',
    "REAL": "float8, equal to the last bit; numeric(p,s) only where it is exact, else finding",
    "Infinity, NaN-as-NULL": "reported; copied to float8, blocked for numeric",
    "BLOB in a TEXT column, TEXT in a BLOB column": "blocked, or bytes equal for bytea",
    "NULL in a NOT NULL target column; NULL in a non-INTEGER primary key": "finding with keys",
    "duplicates under the target's unique key (NOCASE, trailing blanks, uuid forms)": "finding with both keys",
    "orphans of each foreign key, also transitive ones": "per-key decision: block (default), quarantine, set null",
    "AUTOINCREMENT ahead of max(id); empty table with a sqlite_sequence row": "sequence = max(both), proved by a"
    " rolled-back insert",
    "quoted, mixed-case, reserved, non-ASCII identifiers": "work",
    "WITHOUT ROWID, no primary key at all, composite key": "work (one chunk where no order exists)",
    "generated columns, views, triggers, partial and expression indexes, collations": "listed in the assessment; the plan"
    " says what became of each",
    "a table in the source that the plan does not know, or the other way round": "blocked by name",
    "WAL not checkpointed, `-wal` beside the file, hot journal": "content includes the WAL",
    "corrupted page, truncated file, zero bytes, not a database, encrypted": "clear error at the assessment,"
    " nothing started",
}
DECISIONS = {
    "'' in a DATETIME or number column": {"empty_as_null"},
    "NUL character in text": {"strip_nul"},
    r"`\u0000` inside JSON": {"strip_nul"},
    "bytes that are not UTF-8": {"encoding"},
    "unix seconds, milliseconds, Julian day in a DATETIME column": {"datetime"},
    "2, 'true', 't', 'yes' in a BOOLEAN column": {"boolean"},
    "orphans of each foreign key, also transitive ones": {"quarantine", "set_null"},
}


@dataclass(frozen=True)
class Case:
    """Tables of the list in one state. ``{t}`` is what the names of a case's own tables begin with.

    Attributes:
        row: The row of the list.
        source: Statements for SQLite.
        rows: The rows of its tables.
        made: The target's tables.
        later: Keys, indexes and foreign keys, as they are added after the load.
        finds: Code, severity, column, and keys of each finding.
        tables: Settings of its tables in the plan.
        refused: The copy's words without the assessment: table, column, key, and the class of value.
        arrives: Query → what it gives in the target after the decisions and the copy; empty where it must not be copied.
        kept: Table and key → original row in quarantine.
    """

    row: str
    source: Sequence[str]
    rows: Mapping[str, Sequence[Sequence[Any]]]
    made: Sequence[str]
    later: Sequence[str] = ()
    finds: Sequence[tuple[str, str, str, tuple[str, ...]]] = ()
    tables: Mapping[str, Any] = field(default_factory=dict)
    refused: tuple[str, str, str, str] | None = None
    arrives: Mapping[str, Sequence[tuple[Any, ...]]] = field(default_factory=dict)
    kept: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)

    @property
    def decided(self) -> bool:
        """Return True when the plan holds a decision."""
        return any(settings for settings in self.tables.values())


def column(
    row: str,
    declared: str,
    made: str,
    values: Sequence[Any],
    *,
    finds: str = "",
    at: Sequence[int] = (),
    severity: str = "blocks",
    said: str = "",
    arrives: Sequence[str | None] = (),
    **decision: Any,
) -> Case:
    """One column ``v`` beside an ``id`` that counts from 1.

    Args:
        finds: The code of the finding about it.
        at: The ids that it is about.
        said: How the copy calls the class of the value.
        arrives: The text of each value in the target, after the decision.
        decision: Of the plan about the column.
    """
    return Case(
        row,
        [f"CREATE TABLE {{t}} (id INTEGER PRIMARY KEY, v {declared})"],
        {"{t}": list(enumerate(values, start=1))},
        [f"CREATE TABLE {{t}} (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v {made})"],
        finds=[(finds, severity, "v", tuple(f"id={key}" for key in at[:5]))] if finds else [],
        tables={"{t}": {"columns": {"v": decision}} if decision else None},
        refused=("{t}", "v", f"id={at[0]}", said) if finds and severity == "blocks" else None,
        arrives={"SELECT v::text FROM {t} ORDER BY id": [(text,) for text in arrives]} if arrives else {},
        kept={("{t}", f"id={key}"): {"id": key, "v": as_kept(values[key - 1])} for key in at} if decision else {},
    )


def as_kept(value: Any) -> Any:
    """A value as the quarantine keeps it: text that JSON cannot hold, and bytes, in hexadecimal."""
    if isinstance(value, Raw):
        return {"text": value.data.hex()}
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    return {"text": value.encode().hex()} if isinstance(value, str) and "\0" in value else value


U1, U2, U3 = "6f1ed002ab5595859014ebf0951522d9", "11111111111111111111111111111111", "22222222222222222222222222222222"
SPELLED = "6f1ed002-ab55-9585-9014-ebf0951522d9"
EMPTY, NUL, ESCAPED = "'' in a DATETIME or number column", "NUL character in text", r"`\u0000` inside JSON"
NOT_UTF8, JSON = "bytes that are not UTF-8", "invalid JSON, duplicate keys, NaN in JSON"
ISO = "ISO with T, Z, offset; date only; fractions of 1-9 digits"
COUNTED = "unix seconds, milliseconds, Julian day in a DATETIME column"
WORDS = "2, 'true', 't', 'yes' in a BOOLEAN column"
UUID = "UUID with or without hyphens, upper case, braces"
DAMAGED = "UUID or JSON column whose value SQLite turned into INTEGER or REAL"
INFINITE, BLOBS = "Infinity, NaN-as-NULL", "BLOB in a TEXT column, TEXT in a BLOB column"
NULLS = "NULL in a NOT NULL target column; NULL in a non-INTEGER primary key"
TWICE = "duplicates under the target's unique key (NOCASE, trailing blanks, uuid forms)"
ORPHANS = "orphans of each foreign key, also transitive ones"
SEQUENCES = "AUTOINCREMENT ahead of max(id); empty table with a sqlite_sequence row"
NAMES = "quoted, mixed-case, reserved, non-ASCII identifiers"
SHAPES = "WITHOUT ROWID, no primary key at all, composite key"
OBJECTS = "generated columns, views, triggers, partial and expression indexes, collations"
TABLES = "a table in the source that the plan does not know, or the other way round"
LOGS = "WAL not checkpointed, `-wal` beside the file, hot journal"
DAMAGE = "corrupted page, truncated file, zero bytes, not a database, encrypted"


UNDECIDED = (
    ("orphans", "blocks", "device_id", ("id=2",)),
    ("orphans", "blocks", "item_id", ("id=5",)),
    ("orphans_that_follow", "note", "item_id", ("id=3", "id=4")),
)


def twice(declared: str, made: str, later: str, values: Sequence[Any], keys: str) -> Case:
    """Rows that are one under a unique key that the target gets after the load."""
    return Case(
        TWICE,
        [f"CREATE TABLE {{t}} (id INTEGER PRIMARY KEY, v {declared})"],
        {"{t}": list(enumerate(values, start=1))},
        [f"CREATE TABLE {{t}} (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v {made})"],
        [f"CREATE UNIQUE INDEX {{t}}_once ON {{t}} ({later})"],
        [("duplicate_key", "blocks", later, (keys,)), *([("collation", "note", "v", ())] if "COLLATE" in declared else [])],
        {"{t}": None},
    )


def referring(finds: Sequence[tuple[str, str, str, tuple[str, ...]]], item: Any, reading: Any, **more: Any) -> Case:
    """Three tables in a row: item 2 has no device, readings 3 and 4 are of item 2, reading 5 is of none."""
    return Case(
        ORPHANS,
        [
            "CREATE TABLE {t}_device (id UUID PRIMARY KEY)",
            "CREATE TABLE {t}_item (id INTEGER PRIMARY KEY, device_id VARCHAR(36))",
            "CREATE TABLE {t}_reading (id INTEGER PRIMARY KEY, item_id INTEGER)",
        ],
        {
            "{t}_device": [(U1,)],
            "{t}_item": [(1, SPELLED.upper()), (2, U2), (6, None)],
            "{t}_reading": [(1, 1), (3, 2), (4, 2), (5, 99), (6, None)],
        },
        [
            "CREATE TABLE {t}_device (id uuid PRIMARY KEY)",
            "CREATE TABLE {t}_item (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, device_id uuid)",
            "CREATE TABLE {t}_reading (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, item_id int)",
        ],
        [
            "ALTER TABLE {t}_item ADD CONSTRAINT {t}_of_device FOREIGN KEY (device_id) REFERENCES {t}_device NOT VALID",
            "ALTER TABLE {t}_reading ADD CONSTRAINT {t}_of_item FOREIGN KEY (item_id) REFERENCES {t}_item NOT VALID",
        ],
        finds,
        {
            "{t}_device": None,
            "{t}_item": item and {"foreign_keys": {"{t}_of_device": {"orphans": item}}},
            "{t}_reading": reading and {"foreign_keys": {"{t}_of_item": {"orphans": reading}}},
        },
        **more,
    )


CASES = [
    column("text in an INTEGER column", "INTEGER", "integer", [1, "abc", 2, "7 m"], finds="text_in_number", at=[2, 4],
           said="text of 3 characters"),
    column("3.0 in an INTEGER column", "INTEGER", "integer", [3.0, "3.0", 3, None], arrives=["3", "3", "3", None]),
    column("3.5 in an INTEGER column", "INTEGER", "integer", [3, 3.5], finds="real_in_integer", at=[2], said="a real"),
    column("integer beyond the target's range", "INTEGER", "integer", [2**31 - 1, -(2**31), 2**31, -(2**31) - 1],
           finds="out_of_range", at=[3, 4], said="an integer beyond that"),
    column("integer beyond the target's range", "INTEGER", "smallint", [32767, 32768], finds="out_of_range", at=[2],
           said="an integer beyond that"),
    column("integer beyond the target's range", "INTEGER", "bigint", [2**63 - 1, -(2**63)],
           arrives=["9223372036854775807", "-9223372036854775808"]),
    Case("integer key beyond int4 in a table whose target is `integer`",
         ["CREATE TABLE {t} (id INTEGER PRIMARY KEY)"], {"{t}": [(1,), (2**31,), (2**40,)]},
         ["CREATE TABLE {t} (id integer GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)"],
         finds=[("key_out_of_range", "blocks", "id", ("id=2147483648", "id=1099511627776"))], tables={"{t}": None},
         refused=("{t}", "id", "id=2147483648", "an integer beyond that")),
    column(EMPTY, "DATETIME", "timestamptz", ["2025-10-10 08:08:59", "", None], finds="empty_text", at=[2],
           said="empty text", arrives=["2025-10-10 08:08:59+00", None, None], empty_as_null=True),
    column(EMPTY, "INTEGER", "integer", ["", 1, ""], finds="empty_text", at=[1, 3], said="empty text",
           arrives=[None, "1", None], empty_as_null=True),
    column(EMPTY, "REAL", "double precision", [0.5, ""], finds="empty_text", at=[2], said="empty text"),
    column("'' in a text column", "TEXT", "text", ["", None, " ", r"\N", "NULL"], arrives=["", None, " ", r"\N", "NULL"]),
    column("'' in a text column", "VARCHAR(5)", "varchar(5)", ["", None], arrives=["", None]),
    column("text longer than varchar(n)", "VARCHAR(5)", "varchar(5)", ["გამარ", "გამარჯობა", "abcdef"],
           finds="text_too_long", at=[2, 3], said="text of 9 characters"),
    column("text longer than varchar(n)", "VARCHAR(5)", "varchar(5)", ["🛰🛰🛰🛰🛰", "abc  "], arrives=["🛰🛰🛰🛰🛰", "abc  "]),
    column("text longer than varchar(n)", "TEXT", "char(3)", ["abc", "ab"], finds="text_too_short", at=[2],
           said="text of 2 characters"),
    column(NUL, "TEXT", "text", ["a", "b\0c", "\0"], finds="nul_in_text", at=[2, 3], said="1 of them NUL",
           arrives=["a", "bc", ""], strip_nul=True),
    column(NUL, "VARCHAR(3)", "varchar(3)", ["abc\0"], finds="nul_in_text", at=[1], said="1 of them NUL"),
    column(ESCAPED, "JSON", "jsonb", ['{"a": "x\\u0000y"}', '"\\\\u0000"'], finds="nul_in_json", at=[1],
           said="UntranslatableCharacter", arrives=['{"a": "xy"}', '"\\\\u0000"'], strip_nul=True),
    column(NOT_UTF8, "TEXT", "text", ["café", Raw(b"caf\xe9")], finds="not_utf8", at=[2], said="4 bytes that are not",
           arrives=["café", "café"], encoding="latin-1"),
    column(NOT_UTF8, "VARCHAR(20)", "varchar(20)", [Raw("Тбилиси".encode("cp1251")), "თბილისი"], finds="not_utf8", at=[1],
           said="7 bytes that are not", arrives=["Тбилиси", "თბილისი"], encoding="cp1251"),
    column(NOT_UTF8, "JSON", "jsonb", [Raw(b'"caf\xe9"')], finds="not_utf8", at=[1], said="6 bytes that are not"),
    column(JSON, "JSON", "jsonb", ['{"a": 1}', "{'a': 1}", "[1,]"], finds="invalid_json", at=[2, 3],
           said="InvalidTextRepresentation"),
    column(JSON, "JSON", "jsonb", ['{"a": NaN}'], finds="invalid_json", at=[1], said="InvalidTextRepresentation"),
    column(JSON, "JSON", "jsonb", ['{"a": 1, "b": 2, "a": 3}', "null", None], finds="duplicate_json_keys", at=[1],
           severity="note", arrives=['{"a": 3, "b": 2}', "null", None]),
    column("naive datetime", "DATETIME", "timestamptz", ["2025-10-10 08:08:59.575644", "2025-03-30 02:30:00", "1999-12-31"],
           arrives=["2025-10-10 08:08:59.575644+00", "2025-03-30 02:30:00+00", "1999-12-31 00:00:00+00"]),
    column("naive datetime", "DATETIME", "timestamp", ["2025-10-10 08:08:59.5"], arrives=["2025-10-10 08:08:59.5"]),
    column(ISO, "TEXT", "timestamptz",
           ["2025-10-10T08:08:59Z", "2025-10-10 08:08:59+04:00", "2025-10-10T08:08:59-03:30", "2025-10-10",
            *(f"2025-10-10 08:08:59.{'123456'[:digits]}" for digits in range(1, 7)),
            *(f"2025-10-10 08:08:59.123456{'0' * more}Z" for more in range(1, 4))],
           arrives=["2025-10-10 08:08:59+00", "2025-10-10 04:08:59+00", "2025-10-10 11:38:59+00", "2025-10-10 00:00:00+00",
                    *(f"2025-10-10 08:08:59.{'123456'[:digits]}+00" for digits in range(1, 7)),
                    *("2025-10-10 08:08:59.123456+00" for _ in range(3))]),
    *(column(ISO, "TEXT", "timestamptz", ["2025-10-10", f"2025-10-10 08:08:59.{fraction}"], finds="fraction_too_long",
             at=[2], said=f"{len(fraction)} digits") for fraction in ("1234567", "00000001", "123456789")),
    column(ISO, "TEXT", "timestamptz", ["now", "11/10/2025", "2025-02-30", "2025-10-10 08:08:59+0400"],
           finds="not_a_datetime", at=[1, 2, 3, 4], said="other text"),
    column(COUNTED, "DATETIME", "timestamptz", ["2025-10-10", 1760083739, 1760083739.25], finds="number_in_datetime",
           at=[2, 3], said="an integer",
           arrives=["2025-10-10 00:00:00+00", "2025-10-10 08:08:59+00", "2025-10-10 08:08:59.25+00"], datetime="unix"),
    column(COUNTED, "DATETIME", "timestamptz", [1760083739123], finds="number_in_datetime", at=[1], said="an integer",
           arrives=["2025-10-10 08:08:59.123+00"], datetime="unix_ms"),
    column(COUNTED, "DATETIME", "timestamptz", [2460958.75], finds="number_in_datetime", at=[1], said="a real",
           arrives=["2025-10-10 06:00:00+00"], datetime="julian"),
    column(COUNTED, "TEXT", "timestamptz", ["1760083739"], finds="number_in_datetime", at=[1], said="other text",
           arrives=["2025-10-10 08:08:59+00"], datetime="unix"),
    column(COUNTED, "DATETIME", "timestamptz", [20251011], finds="number_in_datetime", at=[1], said="an integer"),
    column(WORDS, "BOOLEAN", "boolean", [0, 1, None, "true", "t", "no"], finds="not_boolean", at=[4, 5, 6],
           said="text of 4 characters", arrives=["false", "true", None, "true", "true", "false"],
           boolean={"true": True, "t": True, "no": False}),
    column(WORDS, "BOOLEAN", "boolean", [1, 2], finds="not_boolean", at=[2], said="another integer",
           arrives=["true", "true"], boolean={"2": True}),
    column(WORDS, "VARCHAR(5)", "boolean", ["yes"], finds="not_boolean", at=[1], said="text of 3 characters",
           arrives=["false"], boolean={"yes": False}),
    column(WORDS, "BOOLEAN", "boolean", ["yes"], finds="not_boolean", at=[1], said="text of 3 characters"),
    column(UUID, "UUID", "uuid", [U1, SPELLED, SPELLED.upper(), f"{{{SPELLED}}}", f"{{{U1}}}"], arrives=[SPELLED] * 5),
    column(UUID, "UUID", "uuid", [U1[:31], f"{U1[:2]}-{U1[2:]}", "x" * 32], finds="not_uuid", at=[1, 2, 3],
           said="other text"),
    column(DAMAGED, "UUID", "uuid", [U1, 123456789012345678], finds="damaged_at_source", at=[2], said="an integer"),
    column(DAMAGED, "UUID", "uuid", [1.5e30], finds="damaged_at_source", at=[1], said="a real"),
    column(DAMAGED, "JSON", "jsonb", ["[1.10]", "1.10"], finds="damaged_at_source", at=[2], said="a real"),
    column("REAL", "REAL", "double precision", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 3, -2.5e-7],
           arrives=["0.30000000000000004", "5e-324", "1.7976931348623157e+308", "3", "-2.5e-07"]),
    column("REAL", "REAL", "numeric(9,6)", [44.8271, 41.7151377, 999.999999], finds="inexact_number", at=[2], said="a real"),
    column("REAL", "REAL", "numeric(9,6)", [44.8271, -12.5, 44], arrives=["44.827100", "-12.500000", "44.000000"]),
    column("REAL", "REAL", "numeric(9,6)", [1000.0], finds="out_of_range", at=[1], said="a real"),
    column(INFINITE, "REAL", "double precision", [math.inf, -math.inf, 1.5], finds="infinity", at=[1, 2], severity="note",
           arrives=["Infinity", "-Infinity", "1.5"]),
    column(INFINITE, "REAL", "double precision", [math.nan, 1.5], arrives=[None, "1.5"]),
    column(INFINITE, "REAL", "numeric", [1.5, math.inf], finds="infinite_in_numeric", at=[2], said="an infinite real"),
    column(BLOBS, "TEXT", "text", ["a", b"\xff\xfe"], finds="blob_in_text", at=[2], said="a blob of 2 bytes"),
    column(BLOBS, "TEXT", "text", ["თბილისი".encode()], finds="blob_in_text", at=[1], said="a blob of 21 bytes",
           arrives=["თბილისი"], encoding="utf-8"),
    column(BLOBS, "BLOB", "bytea", [b"a", "abc"], finds="text_in_blob", at=[2], said="text of 3 characters"),
    column(BLOBS, "BLOB", "bytea", [b"", b"\0\xff\x1d\x1f\n\\"], arrives=["\\x", "\\x00ff1d1f0a5c"]),
    column(NULLS, "TEXT", "text NOT NULL", ["a", None], finds="null_in_not_null", at=[2], said="NULL"),
    Case(NULLS, ["CREATE TABLE {t} (id TEXT PRIMARY KEY)"], {"{t}": [("a",), (None,), (None,)]},
         ["CREATE TABLE {t} (id text PRIMARY KEY)"],
         finds=[("null_in_not_null", "blocks", "id", ("rowid=2", "rowid=3"))], tables={"{t}": None},
         refused=("{t}", "id", "rowid=2", "NULL")),
    twice("TEXT UNIQUE", "text", "lower(v)", ["Ana@x", "ani", "ana@x"], "id=1 and id=3"),
    twice("TEXT COLLATE NOCASE", "text", "v", ["Ana", "ana", "Ana"], "id=1 and id=3"),
    twice("TEXT UNIQUE", "text", "rtrim(v)", ["a", "b", "a  "], "id=1 and id=3"),
    twice("TEXT UNIQUE", "bpchar", "v", ["a", "b", "a  "], "id=1 and id=3"),
    twice("TEXT UNIQUE", "uuid", "v", [U1, U2, f"{{{SPELLED.upper()}}}"], "id=1 and id=3"),
    referring(UNDECIDED, None, None),
    referring([*UNDECIDED[:2], ("orphans_that_follow", "decision applied", "item_id", ("id=3", "id=4"))],
              "quarantine", "quarantine",
              arrives={"SELECT id FROM {t}_item ORDER BY id": [(1,), (6,)],
                       "SELECT id, item_id FROM {t}_reading ORDER BY id": [(1, 1), (6, None)]},
              kept={("{t}_item", "id=2"): {"id": 2, "device_id": U2}, ("{t}_reading", "id=3"): {"id": 3, "item_id": 2},
                    ("{t}_reading", "id=4"): {"id": 4, "item_id": 2}, ("{t}_reading", "id=5"): {"id": 5, "item_id": 99}}),
    referring(UNDECIDED[:2], "set_null", "quarantine",
              arrives={"SELECT id, device_id::text FROM {t}_item ORDER BY id": [(1, SPELLED), (2, None), (6, None)],
                       "SELECT id, item_id FROM {t}_reading ORDER BY id": [(1, 1), (3, 2), (4, 2), (6, None)]},
              kept={("{t}_item", "id=2"): {"id": 2, "device_id": U2}, ("{t}_reading", "id=5"): {"id": 5, "item_id": 99}}),
    Case(SEQUENCES,
         ["CREATE TABLE {t}_ahead (id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO {t}_ahead VALUES (1), (9)",
          "DELETE FROM {t}_ahead WHERE id = 9", "CREATE TABLE {t}_emptied (id INTEGER PRIMARY KEY AUTOINCREMENT)",
          "INSERT INTO {t}_emptied VALUES (5)", "DELETE FROM {t}_emptied",
          "CREATE TABLE {t}_behind (id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO {t}_behind VALUES (30)",
          "UPDATE sqlite_sequence SET seq = 3 WHERE name = '{t}_behind'"], {},
         [f"CREATE TABLE {{t}}_{name} (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)"
          for name in ("ahead", "emptied", "behind")],
         finds=[("sequence_ahead", "note", "id", ())],
         tables={"{t}_ahead": None, "{t}_emptied": None, "{t}_behind": None},
         arrives={"SELECT (SELECT nextval('{t}_ahead_id_seq') > 9), (SELECT nextval('{t}_emptied_id_seq') > 5),"
                  " (SELECT nextval('{t}_behind_id_seq') > 30)": [(True, True, True)]}),
    Case(NAMES,
         ['CREATE TABLE "{t} Group By ""ქალაქი""" ("Id" INTEGER PRIMARY KEY, "select" TEXT, "na me" TEXT, "quo""te" TEXT,'
          ' "სახელი" TEXT, "rowid" TEXT)'],
         {'{t} Group By "ქალაქი"': [(1, "a", None, "", "ა", "b"), (2, "\x1d", "\x1f", "\x1e", "\\", "\n")]},
         ['CREATE TABLE "{t} Group By ""ქალაქი""" ("Id" int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, "select" text,'
          ' "na me" text, "quo""te" text, "სახელი" text, "rowid" text)'],
         tables={'{t} Group By "ქალაქი"': None},
         arrives={'SELECT * FROM "{t} Group By ""ქალაქი""" ORDER BY "Id"':
                  [(1, "a", None, "", "ა", "b"), (2, "\x1d", "\x1f", "\x1e", "\\", "\n")]}),
    Case(SHAPES,
         ["CREATE TABLE {t}_without (a TEXT, b INTEGER, v TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID",
          "CREATE TABLE {t}_keyless (v TEXT, w INTEGER)",
          "CREATE TABLE {t}_composite (a TEXT, b INTEGER, PRIMARY KEY (a, b))",
          "CREATE TABLE {t}_shadowed (rowid TEXT, _rowid_ TEXT, oid TEXT)"],
         {"{t}_without": [("b", 1, "x"), ("a", 2, "y"), ("a", -1, None)], "{t}_keyless": [("x", 1), ("x", 1), (None, None)],
          "{t}_composite": [("a", 1), ("a", 2)], "{t}_shadowed": [("1", "2", "3"), ("1", "2", "3")]},
         ["CREATE TABLE {t}_without (a text, b int, v text, PRIMARY KEY (a, b))", "CREATE TABLE {t}_keyless (v text, w int)",
          "CREATE TABLE {t}_composite (a text, b int, PRIMARY KEY (a, b))",
          "CREATE TABLE {t}_shadowed (rowid text, _rowid_ text, oid text)"],
         tables={"{t}_without": None, "{t}_keyless": None, "{t}_composite": None, "{t}_shadowed": None},
         arrives={"SELECT * FROM {t}_without ORDER BY a, b": [("a", -1, None), ("a", 2, "y"), ("b", 1, "x")],
                  "SELECT * FROM {t}_keyless ORDER BY v": [("x", 1), ("x", 1), (None, None)],
                  "SELECT count(*) FROM {t}_composite": [(2,)], "SELECT * FROM {t}_shadowed": [("1", "2", "3")] * 2}),
    Case(OBJECTS,
         ["CREATE TABLE {t} (id INTEGER PRIMARY KEY, v TEXT COLLATE NOCASE, w TEXT AS (upper(v)) STORED)",
          "CREATE VIEW {t}_view AS SELECT v FROM {t}",
          "CREATE TRIGGER {t}_trigger AFTER UPDATE ON {t} BEGIN SELECT 1; END",
          "CREATE INDEX {t}_partial ON {t} (id) WHERE id > 1", "CREATE INDEX {t}_expression ON {t} (lower(v))",
          "INSERT INTO {t} VALUES (1, 'a'), (2, 'B')"], {},
         ["CREATE TABLE {t} (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text,"
          " w text GENERATED ALWAYS AS (upper(v)) STORED)"],
         finds=[("view", "note", "", ()), ("trigger", "note", "", ()), ("generated_column", "note", "w", ()),
                ("partial_index", "note", "id", ()), ("expression_index", "note", "an expression", ()),
                ("collation", "note", "v", ())],
         tables={"{t}": None},
         objects={"{t}_view": "now a query of the application", "{t}_trigger": "done by the application",
                  "{t}.w": "computed by the target", "{t}_partial": "full in the target",
                  "{t}_expression": "not needed", "{t}.v": "compared by lower()"},
         arrives={"SELECT * FROM {t} ORDER BY id": [(1, "a", "A"), (2, "B", "B")]}),
]  # fmt: skip

T = TypeVar("T")


def of(case: Case, value: T) -> T:
    """The value with the names of the case's own tables."""
    name = f"c{CASES.index(case):02}"

    def named(item: Any) -> Any:
        if isinstance(item, str):
            return item.replace("{t}", name)
        if isinstance(item, Mapping):
            return {named(key): named(one) for key, one in item.items()}
        if isinstance(item, tuple | list):
            return type(item)(named(one) for one in item)
        return item

    found: T = named(value)
    return found


def belongs(case: Case, finding: Finding) -> bool:
    return (finding.table or finding.value).startswith(of(case, "{t}"))


IDS = [f"{number:02} {case.row[:40]}" for number, case in enumerate(CASES)]
each = pytest.mark.parametrize("case", CASES, ids=IDS)
REFUSED = [case for case in CASES if case.refused]
ARRIVING = [case for case in CASES if case.arrives]
DECIDED = [case for case in CASES if case.decided]


@dataclass
class World:
    """Everything that was done with all cases at once."""

    conninfo: str
    file: Path
    undecided: Assessment
    assessed: Assessment
    by_its_lines: Assessment
    decided: Decided
    audited: list[Check]
    slipped: dict[str, tuple[CutoverError | None, int]]
    failed: dict[str, str]
    proved: dict[str, TableResult]
    sequences: list[Check]
    quarantined: dict[tuple[str, str], tuple[str, str, Any]]


@pytest.fixture(scope="module")
def world(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder, name = tmp_path_factory.mktemp("awkward"), f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        connection.execute(f"ALTER DATABASE \"{name}\" SET TimeZone = 'Asia/Tbilisi'")
        connection.execute(f"ALTER DATABASE \"{name}\" SET DateStyle = 'SQL, DMY'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        try:
            yield made(cluster.conninfo(name), folder)
        finally:
            patch.undo()
            time.tzset()
            with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def made(conninfo: str, folder: Path) -> World:
    file = source_of(folder / "s.db", *(text for case in CASES for text in of(case, case.source)))
    for case in CASES:
        for table, rows in of(case, case.rows).items():
            insert(file, table, rows)
    sql_files = sql_folder(folder / "sql", *(text for case in CASES for text in of(case, case.made)))
    (sql_files / "post_data").mkdir()
    (sql_files / "post_data" / "001_all.sql").write_text(";\n".join(t for case in CASES for t in of(case, case.later)))
    target = read_target(conninfo, sql_files)

    objects = {name: why for case in CASES for name, why in of(case, case.objects).items()}
    settings = {table: given for case in CASES for table, given in of(case, case.tables).items()}
    plan = plan_of(settings, source_objects=objects)
    undecided = assess_decided(file, plan_of(dict.fromkeys(settings)), target)
    assessed = assess_decided(file, plan, target)
    shutil.copy(file, folder / "lines.db")
    by_its_lines = assess_decided(folder / "lines.db", plan_of_its_lines(undecided), target)

    sql_runner.apply(conninfo, sql_files, "pre_data", schema=SCHEMA, run_id="slipped")
    slipped = copied_without_the_assessment(conninfo, file)

    decided = apply_decisions(file, folder / "decided" / "s.db", plan, target.planned, listing=folder / "evidence")
    ledger.ensure(conninfo)
    epoch = ledger.open_run(conninfo, "run", "shop")
    failed = {}
    for case in CASES:
        for table in of(case, case.tables):
            if not case.refused or case.arrives:
                copying.copy_table(Sides(decided.file, conninfo, SCHEMA), RunLease("run", epoch), table)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for case in CASES:
            for statement in of(case, case.later):
                try:
                    connection.execute(statement.encode())
                except psycopg.errors.UniqueViolation as error:
                    failed[of(case, "{t}")] = target_session.primary_message(error)
    quarantine.store(conninfo, "run", quarantine.rows(decided, plan), ledger.guard("run", epoch))
    with snapshots.snapshot(file) as reading:
        given = source_schema.sqlite_sequence(reading)
    target_sequences.set_sequences(conninfo, SCHEMA, given)
    tables = [table for case in CASES for table in of(case, case.tables) if not case.refused or case.arrives]
    with psycopg.connect(conninfo) as connection:
        kept = connection.execute("SELECT table_name, key, kind, reason, row FROM cutover.quarantine").fetchall()
    return World(
        conninfo,
        file,
        undecided,
        assessed,
        by_its_lines,
        decided,
        audit(decided, plan, target.planned),
        slipped,
        failed,
        {result.table: result for result in content.compare(Sides(decided.file, conninfo, SCHEMA), tables)},
        target_sequences.check_sequences(conninfo, SCHEMA, given),
        {(table, key): (kind, reason, row) for table, key, kind, reason, row in kept},
    )


def plan_of_its_lines(found: Assessment) -> Plan:
    """A plan of the cases that can be decided, with nothing but the lines that the assessment printed for them."""
    lines: dict[str, Any] = {"tables": {table: {} for case in DECIDED for table in of(case, case.tables)}}
    for finding in found.findings:
        if finding.decide and any(belongs(case, finding) for case in DECIDED):
            merge(lines, yaml.safe_load(finding.decide))
    others = {table: "not decidable" for case in CASES for table in of(case, case.tables) if table not in lines["tables"]}
    return plan_of(lines.pop("tables"), ignored_tables=others, **lines)


def merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            assert into.get(key) in (None, value), f"two lines disagree about {key}"
            into[key] = value


def copied_without_the_assessment(conninfo: str, file: Path) -> dict[str, tuple[CutoverError | None, int]]:
    """Return the copy's words about each table that should not have come so far, and the rows that it left there."""
    ledger.ensure(conninfo)
    epoch = ledger.open_run(conninfo, "slipped", "shop")
    slipped: dict[str, tuple[CutoverError | None, int]] = {}
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for case in REFUSED:
            for table in of(case, case.tables):
                error = None
                try:
                    copying.copy_table(Sides(file, conninfo, SCHEMA), RunLease("slipped", epoch), table)
                except CutoverError as refused:
                    error = refused
                query = sql.SQL("SELECT (SELECT count(*) FROM {}) + (SELECT count(*) FROM cutover.copied)")
                row = connection.execute(query.format(sql.Identifier(SCHEMA, table))).fetchone()
                slipped[table] = error, row[0] if row else -1
    ledger.release(conninfo, "slipped", epoch)
    return slipped


# --- what the assessment says -------------------------------------------------------------------------------------------

QUIET = {"table_stays_empty", "sequence_missing", "unique_key"}


def told(found: Assessment, case: Case) -> dict[tuple[str, str, str], set[str]]:
    """Code, severity and column, with all keys: values of several classes are distinguished."""
    keys: dict[tuple[str, str, str], set[str]] = {}
    for item in found.findings:
        if belongs(case, item) and item.code not in QUIET:
            keys.setdefault((item.code, item.severity, item.column), set()).update(item.keys)
    return keys


def expected(case: Case, severity: str) -> dict[tuple[str, str, str], set[str]]:
    """Return the expected findings, when those that block or are decided have this severity."""
    return {(code, was if was == "note" else severity, name): set(keys) for code, was, name, keys in case.finds}


@each
def test_awkward_data_is_found_before_the_window(world: World, case: Case) -> None:
    # What would follow from a decision is a note as long as there is none.
    undecided = replace(case, finds=UNDECIDED) if case.row == ORPHANS else case
    assert told(world.undecided, case) == expected(undecided, "blocks")
    for item in world.undecided.findings:
        if belongs(case, item) and item.severity == "blocks":
            assert item.rows >= len(item.keys) and item.becomes


@each
def test_a_decision_of_the_plan_settles_awkward_data(world: World, case: Case) -> None:
    assert told(world.assessed, case) == expected(case, "decision applied" if case.decided else "blocks")
    if case.objects:
        becomes = {item.becomes for item in world.assessed.findings if belongs(case, item)}
        assert becomes == {f"the plan: {why}" for why in case.objects.values()}


@pytest.mark.parametrize("case", DECIDED, ids=[IDS[CASES.index(case)] for case in DECIDED])
def test_the_printed_lines_decide_the_findings(world: World, case: Case) -> None:
    found = [item for item in world.by_its_lines.findings if belongs(case, item) and item.severity != "note"]
    assert found and {item.severity for item in found} == {"decision applied"}
    assert not world.by_its_lines.blocks
    blocked = {(item.code, item.table, item.column) for item in world.undecided.blocks if belongs(case, item)}
    assert {(item.code, item.table, item.column) for item in found} >= blocked


def test_the_longest_text_is_reported(world: World) -> None:
    assert {item.value for item in world.undecided.blocks if item.code == "text_too_long"} == {"text of up to 9 characters"}


# --- what the copy says when one slips past it --------------------------------------------------------------------------


@pytest.mark.parametrize("case", REFUSED, ids=[IDS[CASES.index(case)] for case in REFUSED])
def test_without_the_assessment_the_copy_fails_on_that_row(world: World, case: Case) -> None:
    assert case.refused is not None
    table, name, key, said = of(case, case.refused)
    error, rows = world.slipped[table]
    assert isinstance(error, WrongData)
    assert error.where == f"table {table}, column {name}, key {key}"
    assert said in error.found and error.expected and error.do
    assert rows == 0


@pytest.mark.parametrize("case", [case for case in CASES if case.row == TWICE], ids=lambda case: case.later[0][-12:])
def test_without_the_assessment_duplicates_stop_at_the_key(world: World, case: Case) -> None:
    assert of(case, "could not create unique index") in world.failed[of(case, "{t}")]
    assert of(case, "{t}_once") in world.failed[of(case, "{t}")]


def test_without_the_assessment_orphans_stop_the_proof(world: World) -> None:
    undecided = next(case for case in CASES if case.row == ORPHANS and not case.decided)
    found = {result.foreign_key.name: result for result in orphans.orphan_checks(world.conninfo, SCHEMA, {})}
    items, readings = (found[of(undecided, f"{{t}}_of_{name}")] for name in ("device", "item"))
    assert (items.count, [key["id"] for key in items.keys]) == (1, ["2"])
    assert (readings.count, [key["id"] for key in readings.keys]) == (1, ["5"])
    assert {result.count for name, result in found.items() if not name.startswith(of(undecided, "{t}"))} == {0}


# --- what arrives, and what is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ARRIVING, ids=[IDS[CASES.index(case)] for case in ARRIVING])
def test_what_arrives_is_what_was_there_or_what_was_decided(world: World, case: Case) -> None:
    with psycopg.connect(world.conninfo, options="-c TimeZone=UTC -c DateStyle=ISO") as connection:
        for query, rows in of(case, case.arrives).items():
            assert connection.execute(query.encode()).fetchall() == [*rows]
    for table in of(case, case.tables):
        assert world.proved[table].outcome == "passed", world.proved[table].summary


def test_what_was_decided_is_proved_and_listed_and_kept(world: World) -> None:
    assert worst(world.audited) == "passed"
    expected = {key: row for case in CASES for key, row in of(case, case.kept).items()}
    assert {key: row for key, (_, _, row) in world.quarantined.items()} == expected
    assert world.decided.listing is not None
    listed = [json.loads(line) for line in world.decided.listing.file.read_text().splitlines()]
    assert {(line["table"], line["key"]) for line in listed} == set(expected)
    taken = {key for key, (kind, _, _) in world.quarantined.items() if kind == "taken out"}
    assert {table.partition("_")[2] for table, _ in taken} == {"item", "reading"}


def test_sequences_go_on_behind_both(world: World) -> None:
    (case,) = (case for case in CASES if case.row == SEQUENCES)
    found = [check for check in world.sequences if check.where.startswith(of(case, "{t}"))]
    assert len(found) == 3 and {check.outcome for check in found} == {"passed"}
    with psycopg.connect(world.conninfo) as connection:
        connection.execute(of(case, "SELECT setval('{t}_behind_id_seq', 3)").encode())
    (wrong,) = (
        check
        for check in target_sequences.check_sequences(world.conninfo, SCHEMA, {})
        if check.where.startswith(of(case, "{t}_beh"))
    )
    assert wrong.outcome == "failed"


# --- rows of the list that are about more than a table --------------------------------------------------------------------

COVERED = {case.row for case in CASES}
Test = TypeVar("Test", bound=Callable[..., Any])


def covers(row: str) -> Callable[[Test], Test]:
    COVERED.add(row)
    return lambda test: test


@covers(TABLES)
def test_tables_that_one_side_does_not_know_block_by_name(conninfo: str, tmp_path: Path) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE forgotten (id INTEGER)")
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)")
    plan = plan_of({"t": None, "lost": None})
    found = assess(path, plan, target).blocks
    assert [(item.code, item.table) for item in found] == [
        ("table_unknown", "forgotten"),
        ("table_missing", "lost"),
        ("table_not_made", "lost"),
    ]
    decided = plan_of({"t": None}, **yaml.safe_load(found[0].decide))
    assert not assess(path, decided, target).blocks
    checks = preflight_source.check_clone(path, plan=plan, planned=target.planned)
    wrong = {check.name: check.found for check in checks if check.outcome == "failed"}
    assert wrong == {
        "source_tables_unknown": "forgotten",
        "source_tables_missing": "lost",
        "target_tables_missing": "lost",
    }


def killed_while_writing(path: Path, mode: str, *, commit: bool) -> None:
    """A database whose writer was killed: with a log that is not checkpointed, or a journal that is hot."""
    source_of(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    insert(path, "t", [(number, "before" * 100) for number in range(1, 200)])
    script = (
        "import apsw, os, sys\n"
        "it = apsw.Connection(sys.argv[1])\n"
        "for one in (f'journal_mode = {sys.argv[2]}', 'wal_autocheckpoint = 0', 'cache_size = 1'):\n"
        "    it.execute(f'PRAGMA {one}').fetchall()\n"
        "it.execute('BEGIN IMMEDIATE; UPDATE t SET v = replace(v, ?, ?)', ('before', 'after')).fetchall()\n"
        "if sys.argv[3] == 'True':\n"
        "    it.execute('COMMIT')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path), mode, str(commit)], check=False)


@covers(LOGS)
@pytest.mark.parametrize(
    ("mode", "commit", "arrives"), [("WAL", True, "after"), ("WAL", False, "before"), ("DELETE", False, "before")]
)
def test_committed_rows_are_content_in_whichever_file_they_lie(
    conninfo: str, tmp_path: Path, mode: str, commit: bool, arrives: str
) -> None:
    live = tmp_path / "live" / "s.db"
    live.parent.mkdir()
    killed_while_writing(live, mode, commit=commit)
    beside = {item.name: item.read_bytes() for item in live.parent.iterdir() if not item.name.endswith("-shm")}
    assert beside.keys() == {"s.db", "s.db-wal" if mode == "WAL" else "s.db-journal"}
    cloning.sound_clone(live, tmp_path / "clone.db")
    assert {name: (live.parent / name).read_bytes() for name in beside} == beside
    target = target_of(conninfo, tmp_path, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    assert not assess(tmp_path / "clone.db", plan_of({"t": None}), target).blocks
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    ledger.ensure(conninfo)
    epoch = ledger.open_run(conninfo, "run", "shop")
    copying.copy_table(Sides(tmp_path / "clone.db", conninfo, SCHEMA), RunLease("run", epoch), "t")
    with psycopg.connect(conninfo) as connection:
        assert connection.execute("SELECT DISTINCT v FROM t").fetchall() == [(arrives * 100,)]


DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "the database is damaged": lambda data: data[: 4096 * 2] + bytes(4096) + data[4096 * 3 :],
    "the file is truncated": lambda data: data[: 4096 * 3],
    "the file has zero bytes": lambda data: b"",
    "the file is not an SQLite database; ": lambda data: b"PK\3\4 something else" * 100,
    "the file is not an SQLite database, or it is encrypted": lambda data: os.urandom(len(data)),
}


@covers(DAMAGE)
@pytest.mark.parametrize("says", DAMAGES)
def test_a_file_that_is_not_a_database_is_reported_and_nothing_starts(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    path = source_of(tmp_path / "s.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")
    insert(path, "t", [(number, "x" * 100) for number in range(1, 500)])
    broken = DAMAGES[says](path.read_bytes())
    path.write_bytes(broken)
    monkeypatch.setattr(assess_command, "read_target", lambda *_: pytest.fail("the target was asked"))
    monkeypatch.setattr(assess_command, "load_plan", lambda _: plan_of({"t": None}))
    out, err = io.StringIO(), io.StringIO()
    status = assess_command.run(assess_command.AssessOptions("shop", path, cluster.conninfo()), out=out, err=err)
    assert (status, out.getvalue()) == (2, "")
    assert f"cutover: {path}: {says}" in err.getvalue() and err.getvalue().count("\n") == 1
    assert path.read_bytes() == broken and [item.name for item in tmp_path.glob("s.db*")] == ["s.db"]


# --- none is forgotten ----------------------------------------------------------------------------------------------------


def test_no_row_of_the_list_is_forgotten() -> None:
    assert set(LIST) == COVERED
    rows = list(dict.fromkeys(case.row for case in CASES))
    assert rows == [row for row in LIST if row in rows]
    for row, wanted in DECISIONS.items():
        used: set[str] = set()
        for case in CASES:
            if case.row == row:
                for settings in case.tables.values():
                    for choice in (settings or {}).get("columns", {}).values():
                        used |= set(choice)
                    used |= {choice["orphans"] for choice in (settings or {}).get("foreign_keys", {}).values()}
        assert used == wanted, row
