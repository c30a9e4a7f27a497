"""Decisions about orphans, carried out on real SQLite files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.cutover.checks import worst
from include.cutover.decisions import quarantine
from include.cutover.decisions.apply import apply_decisions
from include.cutover.decisions.audit import audit
from include.cutover.errors import Refused
from include.cutover.source import schema as source_schema
from include.cutover.source import snapshots
from include.cutover.target.catalog import Column, ForeignKey
from tests.support.deciding import (
    ANYTHING,
    EVERYTHING_GOES,
    PLANNED,
    SITES,
    U1,
    U2,
    carry_out,
    database,
    lines,
    plan_of,
    rows_of,
    run_sql,
    schema_of,
    sites_plan,
)


def test_what_follows_an_orphan_goes_with_it_three_levels_deep(place: Path, sites: Path) -> None:
    plan = sites_plan(EVERYTHING_GOES)
    decided = carry_out(place, sites, plan, PLANNED)
    assert rows_of(decided.file, "SELECT id FROM sites") == [(U1,)]
    assert rows_of(decided.file, "SELECT id FROM devices") == [("d1",), ("d4",)]
    assert rows_of(decided.file, "SELECT id FROM alerts") == [(1,)]
    assert decided.quarantined == {"alerts": 3, "devices": 2, "sites": 1}
    assert decided.foreign_keys == {
        "alerts.alerts_device_fkey": 2,
        "alerts.alerts_other_fkey": 1,
        "devices.devices_main_fkey": 1,
        "devices.devices_site_fkey": 1,
        "sites.sites_region_fkey": 1,
    }
    with snapshots.snapshot(sites) as connection:
        before = source_schema.counts(connection, source_schema.tables(connection))
    with snapshots.snapshot(decided.file) as connection:
        assert decided.expected_rows(before) == source_schema.counts(connection, source_schema.tables(connection))
    reasons = {(line["table"], line["key"]): line["because"] for line in lines(decided)}
    assert reasons["sites", f"id={U2.upper()}"] == "it refers to no row"
    assert reasons["devices", "id=d3"] == "the row that it refers to is in quarantine"


def test_set_null_keeps_the_row_and_what_follows_it(place: Path, sites: Path) -> None:
    plan = sites_plan({**EVERYTHING_GOES, "devices_site_fkey": "set_null"})
    decided = carry_out(place, sites, plan, PLANNED)
    assert rows_of(decided.file, "SELECT site FROM devices WHERE id = 'd2'") == [(None,)]
    assert decided.quarantined == {"sites": 1}
    assert decided.touched == {"devices": {"set_null": 1}}
    assert (
        lines(decided)[0] | {"foreign_key": "devices_site_fkey", "was": "{" + U2 + "}", "became": None} == lines(decided)[0]
    )


def test_set_null_at_the_end_of_a_chain(place: Path, sites: Path) -> None:
    plan = sites_plan({**EVERYTHING_GOES, "alerts_device_fkey": "set_null", "alerts_other_fkey": "set_null"})
    decided = carry_out(place, sites, plan, PLANNED)
    assert rows_of(decided.file, "SELECT id, device, other FROM alerts") == [
        (1, "d1", None),
        (2, None, None),
        (3, None, "d1"),
        (4, "d1", None),
    ]
    assert decided.touched == {"alerts": {"set_null": 3}}


def test_quarantine_comes_before_set_null(place: Path, sites: Path) -> None:
    """Alert 3 points to d3, which goes; by its other key it would be an orphan only once its device is set to NULL."""
    run_sql(sites, "UPDATE alerts SET other = 'missing' WHERE id = 3")
    plan = sites_plan({**EVERYTHING_GOES, "alerts_device_fkey": "set_null"})
    decided = carry_out(place, sites, plan, PLANNED)
    assert decided.touched == {"alerts": {"set_null": 1}}
    (row,) = [json.loads(item.row) for item in quarantine.rows(decided, plan) if item.key == "id=3"]
    assert row == {"id": 3, "device": "d3", "other": "missing", "note": None}


@pytest.mark.parametrize("blocking", ["alerts_device_fkey", "devices_main_fkey"])
def test_row_that_would_become_an_orphan_of_a_blocking_key_is_refused(place: Path, sites: Path, blocking: str) -> None:
    plan = sites_plan({name: choice for name, choice in EVERYTHING_GOES.items() if name != blocking})
    with pytest.raises(Refused, match=rf"{blocking}.*e\.g\. id="):
        apply_decisions(sites, place / "decided.db", plan, PLANNED)
    assert sorted(path.name for path in place.iterdir()) == [".decided.db.lock", "backup.db"]


def test_row_that_another_key_takes_out_does_not_block(place: Path, sites: Path) -> None:
    """Alert 3 points to d3 by a key that blocks, and is an orphan by one that takes it out."""
    run_sql(sites, "UPDATE alerts SET device = 'd1' WHERE id = 2; UPDATE alerts SET other = 'missing' WHERE id = 3")
    plan = sites_plan({name: choice for name, choice in EVERYTHING_GOES.items() if name != "alerts_device_fkey"})
    assert carry_out(place, sites, plan, PLANNED).quarantined == {"alerts": 2, "devices": 2, "sites": 1}


def test_more_orphans_than_allowed_are_refused_and_nothing_is_made(place: Path, sites: Path) -> None:
    with pytest.raises(Refused, match=r"sites_region_fkey.*at most 0 rows; found 1 rows"):
        apply_decisions(sites, place / "decided.db", sites_plan(EVERYTHING_GOES, 0), PLANNED)
    assert sorted(path.name for path in place.iterdir()) == ["backup.db"]


def test_orphans_that_follow_count_as_well(place: Path, sites: Path) -> None:
    run_sql(sites, "UPDATE alerts SET other = NULL; UPDATE alerts SET device = 'd2' WHERE id <> 1")
    with pytest.raises(Refused, match=r"alerts_device_fkey.*at most 2 rows; found 3 rows"):
        apply_decisions(sites, place / "decided.db", sites_plan(EVERYTHING_GOES, 2), PLANNED)
    assert sorted(path.name for path in place.iterdir()) == [".decided.db.lock", "backup.db"]
    assert carry_out(place, sites, sites_plan(EVERYTHING_GOES, 3), PLANNED).quarantined["alerts"] == 3


def test_orphans_are_counted_as_the_decided_values_leave_them(place: Path) -> None:
    """'' in a reference is an orphan until a decision makes it NULL."""
    snapshot = database(
        place / "backup.db", SITES, {"sites": [(U1, None)], "devices": [(str(n), "", None, "") for n in range(5)]}
    )
    tables = {
        "devices": {
            "columns": {"site": {"empty_as_null": True}},
            "foreign_keys": {"devices_site_fkey": {"orphans": "quarantine", "at_most": 0}},
        }
    }
    plan = plan_of({"regions": {}, "sites": {}, "alerts": {}, **tables})
    decided = carry_out(place, snapshot, plan, PLANNED)
    assert decided.quarantined == {} and decided.touched == {"devices": {"empty_as_null": 5}}


def test_value_decision_that_breaks_a_reference_is_refused(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id TEXT PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p TEXT)",
        {"p": [("a\0",)], "t": [(1, "a\0")]},
    )
    planned = schema_of({"p": {"id": "text!"}, "t": {"id": "integer!", "p": "text"}}, [("t", "t_p_fkey", "p", "p", "id")])
    strip = {"columns": {"id": {"strip_nul": True}}}
    with pytest.raises(Refused, match=r"t\.t_p_fkey.*id=1"):
        apply_decisions(snapshot, place / "decided.db", plan_of({"p": strip, "t": {}}), planned)
    both = plan_of({"p": strip, "t": {"columns": {"p": {"strip_nul": True}}}})
    assert carry_out(place, snapshot, both, planned).touched == {"p": {"strip_nul": 1}, "t": {"strip_nul": 1}}


def test_changed_value_in_a_quarantined_row_is_not_counted(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER, x DATE)",
        {"t": [(1, 5, ""), (2, None, "")]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "p": "integer", "x": "date"}}, [("t", "t_p_fkey", "p", "p", "id")]
    )
    plan = plan_of(
        {"p": {}, "t": {"columns": {"x": {"empty_as_null": True}}, "foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}}}}
    )
    decided = carry_out(place, snapshot, plan, planned)
    assert decided.touched == {"t": {"empty_as_null": 1}} and decided.quarantined == {"t": 1}
    assert [(item.kind, json.loads(item.row)["x"]) for item in quarantine.rows(decided, plan)] == [
        ("taken out", ""),
        ("changed", ""),
    ]


def test_column_may_lose_its_type_for_a_quarantined_row(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER, x STRING)",
        {"t": [(1, 5, b"12"), (2, None, "a")]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "p": "integer", "x": "text"}}, [("t", "t_p_fkey", "p", "p", "id")]
    )
    decision = {"columns": {"x": {"encoding": "latin-1"}}, "foreign_keys": {"t_p_fkey": {"orphans": "quarantine"}}}
    decided = carry_out(place, snapshot, plan_of({"p": {}, "t": decision}), planned)
    assert decided.touched == {} and rows_of(decided.file, "SELECT * FROM t") == [(2, None, "a")]


def test_composite_keys_and_null_in_a_part_of_them(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (a INTEGER, b TEXT COLLATE NOCASE, PRIMARY KEY (a, b));"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT COLLATE NOCASE)",
        {"p": [(1, "x"), (2, "y")], "t": [(1, 1, "x"), (2, 1, "y"), (3, 9, None), (4, None, "y"), (5, 2, "Y")]},
    )
    planned = schema_of(
        {"p": {"a": "integer!", "b": "text!"}, "t": {"id": "integer!", "a": "integer", "b": "text"}},
        [("t", "t_fkey", "a b", "p", "a b")],
    )
    out = plan_of({"p": {}, "t": {"foreign_keys": {"t_fkey": {"orphans": "quarantine"}}}})
    decided = carry_out(place, snapshot, out, planned)
    assert rows_of(decided.file, "SELECT id FROM t") == [(1,), (3,), (4,)]
    null = plan_of({"p": {}, "t": {"foreign_keys": {"t_fkey": {"orphans": "set_null"}}}})
    decided = carry_out(place, snapshot, null, planned)
    assert rows_of(decided.file, "SELECT id FROM t WHERE a IS NULL AND b IS NULL") == [(2,), (5,)]
    assert decided.touched == {"t": {"set_null": 4}} and decided.foreign_keys == {"t.t_fkey": 2}


def test_rows_that_point_at_one_another(place: Path) -> None:
    """Of two cycles, one hangs on a row that is missing; and a chain goes from its end to its beginning."""
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE a (id INTEGER PRIMARY KEY, b INTEGER, up INTEGER); CREATE TABLE b (id INTEGER PRIMARY KEY, a INTEGER)",
        {
            "a": [(1, 1, None), (2, 2, 99), (3, None, 3), *((n, None, n - 1) for n in range(51, 80)), (50, None, 99)],
            "b": [(1, 1), (2, 2), (3, None)],
        },
    )
    planned = schema_of(
        {"a": {"id": "integer!", "b": "integer", "up": "integer"}, "b": {"id": "integer!", "a": "integer"}},
        [("a", "a_b_fkey", "b", "b", "id"), ("a", "a_up_fkey", "up", "a", "id"), ("b", "b_a_fkey", "a", "a", "id")],
    )
    go = {"orphans": "quarantine"}
    plan = plan_of({"a": {"foreign_keys": {"a_b_fkey": go, "a_up_fkey": go}}, "b": {"foreign_keys": {"b_a_fkey": go}}})
    decided = carry_out(place, snapshot, plan, planned)
    assert rows_of(decided.file, "SELECT id FROM a") == [(1,), (3,)]
    assert rows_of(decided.file, "SELECT id FROM b") == [(1,), (3,)]
    assert decided.quarantined == {"a": 31, "b": 1}


def test_a_reference_that_is_itself_referred_to(place: Path) -> None:
    """Setting it to NULL makes an orphan of the row behind it."""
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE q (id INTEGER PRIMARY KEY, p INTEGER UNIQUE);"
        "CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER)",
        {"p": [(1,)], "q": [(1, 1), (2, 5)], "t": [(1, 1), (2, 5)]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "q": {"id": "integer!", "p": "integer"}, "t": {"id": "integer!", "p": "integer"}},
        [("q", "q_p_fkey", "p", "p", "id"), ("t", "t_q_fkey", "p", "q", "p")],
    )
    choices = {
        "q": {"foreign_keys": {"q_p_fkey": {"orphans": "set_null"}}},
        "t": {"foreign_keys": {"t_q_fkey": {"orphans": "quarantine"}}},
    }
    decided = carry_out(place, snapshot, plan_of({"p": {}, **choices}), planned)
    assert decided.touched == {"q": {"set_null": 1}} and decided.quarantined == {"t": 1}


def test_tables_that_the_plan_does_not_name_have_no_orphans(place: Path, sites: Path) -> None:
    """The target may have tables that stay empty, and the source may have some that are left behind."""
    planned = replace(
        PLANNED,
        columns={**PLANNED.columns, "visits": [Column("site", "uuid", False, None, False, False)]},
        foreign_keys=[
            *PLANNED.foreign_keys,
            ForeignKey("visits_site_fkey", "visits", ("site",), "sites", ("id",), "CASCADE", False),
        ],
    )
    decided = carry_out(place, sites, sites_plan(EVERYTHING_GOES), planned)
    assert decided.quarantined == {"alerts": 3, "devices": 2, "sites": 1}


def test_set_null_in_a_not_null_column_of_the_source_is_refused(place: Path) -> None:
    snapshot = database(
        place / "backup.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER NOT NULL)",
        {"t": [(1, 5)]},
    )
    planned = schema_of(
        {"p": {"id": "integer!"}, "t": {"id": "integer!", "p": "integer"}}, [("t", "t_p_fkey", "p", "p", "id")]
    )
    with pytest.raises(Refused, match="NOT NULL in the source"):
        apply_decisions(
            snapshot,
            place / "decided.db",
            plan_of({"p": {}, "t": {"foreign_keys": {"t_p_fkey": {"orphans": "set_null"}}}}),
            planned,
        )


NODES = st.lists(st.tuples(*[st.none() | st.integers(0, 6)] * 3), max_size=6)


CHOICES = st.lists(st.sampled_from(["quarantine", "quarantine", "set_null", "block"]), min_size=6, max_size=6)


@ANYTHING
@given(tables=st.tuples(NODES, NODES), choices=CHOICES)
def test_any_references_are_settled_as_a_model_settles_them_row_by_row(
    place: Path, tables: Sequence[Any], choices: list[str]
) -> None:
    """Two tables with three references each, to either of them and itself, against a model that tries row by row."""
    names = ("a", "b")
    keys = [(table, f"f{n}", f"r{n}", names[(n + at) % 2], "id") for at, table in enumerate(names) for n in range(3)]
    kinds = {"id": "integer!", "r0": "integer", "r1": "integer", "r2": "integer"}
    planned = schema_of(dict.fromkeys(names, kinds), keys)
    chosen = {(table, name): choice for (table, name, *_), choice in zip(keys, choices, strict=True)}
    plan = plan_of(
        {
            table: {"foreign_keys": {name: {"orphans": choice} for (own, name), choice in chosen.items() if own == table}}
            for table in names
        }
    )
    shutil.rmtree(place)
    place.mkdir()
    body = "(id INTEGER PRIMARY KEY, r0 INTEGER, r1 INTEGER, r2 INTEGER)"
    content_of = {
        table: [(n, *row) for n, row in enumerate(rows)] for table, rows in zip(names, tables, strict=True) if rows
    }
    snapshot = database(place / "backup.db", f"CREATE TABLE a {body}; CREATE TABLE b {body}", content_of)

    model = {table: {row[0]: list(row[1:]) for row in content_of.get(table, [])} for table in names}

    def orphans(choice: str) -> list[tuple[str, int, int]]:
        return [
            (table, key, int(name[1:]))
            for table, name, _, other, _ in keys
            if chosen[table, name] == choice
            for key, row in model[table].items()
            if row[int(name[1:])] is not None and row[int(name[1:])] not in model[other]
        ]

    while found := orphans("quarantine"):
        for table, key, _ in found:
            model[table].pop(key, None)
    for table, key, n in orphans("set_null"):
        model[table][key][n] = None
    touched = model != {table: {row[0]: list(row[1:]) for row in content_of.get(table, [])} for table in names}
    if touched and any(
        row[int(name[1:])] not in (None, *model[other])
        and row[int(name[1:])] in {item[0] for item in content_of.get(other, [])}
        for table, name, _, other, _ in keys
        if chosen[table, name] == "block"
        for row in model[table].values()
    ):
        with pytest.raises(Refused, match="orphans"):
            apply_decisions(snapshot, place / "decided.db", plan, planned)
        return
    try:
        decided = apply_decisions(snapshot, place / "decided.db", plan, planned)
    except Refused:
        assert orphans("block")  # orphans from the beginning, which no decision is about
        return
    found_rows = {
        table: {row[0]: list(row[1:]) for row in rows_of(decided.file, f"SELECT * FROM {table}")} for table in names
    }
    assert found_rows == model
    assert decided.made == touched
    if not orphans("block"):
        assert worst(audit(decided, plan, planned)) == "passed"
