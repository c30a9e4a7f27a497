"""Stages of Great Expectations on a real database: what passes, what fails, what is unknown, and the site that it leaves."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, Unreachable
from include.cutover.places import ROOT
from include.cutover.proof.docs_site import DocsSite
from include.cutover.proof.expectations import StageResult, run_list, run_stage
from include.cutover.proof.requirements import (
    Asset,
    Make,
    Requirement,
    finds_no_row,
    in_bounds,
    in_set,
    names_at_fault,
    rows_of,
)
from tests.support.data_docs import Page, pages, result_page

SCHEMA = "ward"
LOG = "https://airflow.example/dags/cutover_ward_ops/runs/r/tasks/check_tables?try_number=1&tab=logs"


def execute(conninfo: str, statements: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statements.encode())


@pytest.fixture
def target(conninfo: str) -> str:
    execute(
        conninfo,
        """
        CREATE SCHEMA ward;
        SET search_path = ward;
        CREATE TABLE branches (id int PRIMARY KEY);
        CREATE TABLE devices (id int PRIMARY KEY, secret text);
        INSERT INTO devices SELECT n, 'gAAAA-do-not-show' FROM generate_series(1, 3) AS n;
        """,
    )
    return conninfo


def required(name: str, make: Make, **kwargs: str) -> Requirement:
    return Requirement(
        name=name,
        title=kwargs.get("title", f"{name} holds"),
        expected="it holds",
        origin="The test says so.",
        make=make,
        found=lambda result: str(result["observed_value"]),
        do="Look.",
    )


def counted(table: str, rows: int) -> Asset:
    def make(gxe: Any, **about: Any) -> Any:
        return gxe.ExpectTableRowCountToEqual(value=rows, **about)

    return Asset(table, [required(f"count_{table}", make)], table=table)


def asked(query: str, table: str = "devices") -> Asset:
    return Asset(table, [required("query", finds_no_row(sql.SQL(query).format()))], table=table)


def stage(conninfo: str, docs: Path, *assets: Asset, link: str | None = LOG) -> StageResult:
    return run_stage("odd", "An odd stage", conninfo, SCHEMA, assets, DocsSite(docs, link, "Ward OPS · a run"), seconds=30)


def outcomes(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.outcome for check in checks}


# ---- what is evaluated


def test_what_holds_passes_and_what_does_not_fails(target: str, tmp_path: Path) -> None:
    result = stage(target, tmp_path / "docs", counted("branches", 0), counted("devices", 4))
    assert outcomes(result.checks) == {"count_branches": "passed", "count_devices": "failed"}
    assert not result.success
    assert (result.checks[1].found, result.checks[1].where, result.checks[1].do) == ("3", "ward.devices", "Look.")
    assert (result.checks[0].found, result.checks[0].do) == ("0", "")
    assert stage(target, tmp_path / "docs", counted("devices", 3)).success


def test_a_query_is_asked_once_and_gives_no_more_than_it_selects(target: str, tmp_path: Path) -> None:
    execute(target, "CREATE SEQUENCE ward.asked; INSERT INTO ward.devices SELECT n FROM generate_series(4, 400) AS n")
    query = 'SELECT id, count(*) OVER () AS "rows found" FROM ward.devices WHERE id > 3 ORDER BY id LIMIT 20'
    result = stage(target, tmp_path / "docs", asked(query))
    assert outcomes(result.checks) == {"query": "failed"}
    assert result.results[0]["observed_value"] == 397
    assert rows_of(result.results[0]) == [{"id": str(number)} for number in range(4, 24)]


def test_rows_in_memory_are_held_and_named(target: str, tmp_path: Path) -> None:
    given = {"a:b": 1, "c %s {x} :d": 2, "é'\\:e": 2, "f": None}
    rows = [{"name": name, "number": number} for name, number in given.items()]
    wanted = Requirement("ones", "ones", "1", "Here.", in_set("number", [1]), names_at_fault, "Look.")
    result = stage(target, tmp_path / "docs", Asset("in memory", [wanted], rows=rows))
    assert outcomes(result.checks) == {"ones": "failed"}
    assert result.checks[0].found == "not true for c %s {x} :d, é'\\:e"
    assert "c %s {x} :d" in result_page(tmp_path / "docs", "in memory").text


@pytest.mark.parametrize(
    ("figures", "outcome"),
    [
        ({"rows": 3, "faults": 0}, "passed"),
        ({"rows": 3, "faults": 1}, "failed"),
        ({"rows": 2, "faults": 0}, "failed"),
        ({"rows": 3}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_figures_are_within_their_bounds_or_not(
    target: str, tmp_path: Path, figures: Mapping[str, int], outcome: str
) -> None:
    make = in_bounds(lambda: figures, at_least={"rows": 3}, at_most={"rows": 3, "faults": 0})
    asset = Asset("devices", [required("figures", make)], table="devices")
    result = stage(target, tmp_path / "docs", asset, counted("branches", 0))
    assert outcomes(result.checks)["figures"] == outcome


def test_figures_without_bounds_prove_nothing(target: str, tmp_path: Path) -> None:
    made = required("figures", in_bounds(lambda: {"rows": 3}))
    result = stage(target, tmp_path / "docs", Asset("devices", [made], table="devices"), counted("branches", 0))
    assert outcomes(result.checks) == {"figures": "unknown", "count_branches": "passed"}
    assert not result.success


def test_figures_that_could_not_be_had_are_unknown_with_their_reason(target: str, tmp_path: Path) -> None:
    def broken() -> Mapping[str, int]:
        raise CannotCheck("the other side is away")

    made = required("figures", in_bounds(broken, at_most={"faults": 0}))
    result = stage(target, tmp_path / "docs", Asset("devices", [made], table="devices"), counted("branches", 0))
    assert (result.checks[0].outcome, result.checks[0].found) == ("unknown", "the other side is away.")


def test_what_was_found_elsewhere_is_told_also_of_a_table_that_is_not_there(target: str, tmp_path: Path) -> None:
    made = Requirement(
        "elsewhere",
        "found elsewhere",
        "1",
        "Here.",
        in_bounds(lambda: {"n": 0}, at_least={"n": 1}),
        lambda _: "0",
        "Look.",
        elsewhere=True,
    )
    asset = Asset("gone", [made, *counted("gone", 0).requirements], table="gone")
    result = stage(target, tmp_path / "docs", asset)
    assert outcomes(result.checks) == {"elsewhere": "failed", "count_gone": "unknown"}
    assert "no such table in schema ward" in result_page(tmp_path / "docs", "gone").text


# ---- what could not be looked at


def test_an_expectation_over_no_value_at_all_does_not_pass(target: str, tmp_path: Path) -> None:
    """Great Expectations itself calls some of these a success."""

    def ones(name: str, column: str) -> Requirement:
        return Requirement(name, name, "1", "Here.", in_set(column, [1]), names_at_fault, "Look.")

    result = stage(
        target,
        tmp_path / "docs",
        Asset("only empty values", [ones("nulls", "value")], rows=[{"name": "a", "value": None}]),
        Asset("no such column", [ones("absent", "other")], rows=[{"name": "a", "value": 1}]),
        counted("gone", 0),
        asked("SELECT nothing_like_it FROM ward.devices"),
        Asset("fine", [ones("fine", "value")], rows=[{"name": "a", "value": 1}]),
    )
    assert outcomes(result.checks) == {
        "nulls": "unknown", "absent": "unknown", "count_gone": "unknown", "query": "unknown", "fine": "passed",
    }  # fmt: skip
    assert not result.success
    assert 'column "nothing_like_it" does not exist' in result.checks[3].found
    page = result_page(tmp_path / "docs", "only empty values")
    assert "1 could not be made" in page.text and "all 1 checks passed" not in page.text


def test_a_stage_that_evaluates_nothing_is_an_error(target: str, tmp_path: Path) -> None:
    for assets in ([], [Asset("devices", [], table="devices")], [counted("gone", 0)], [asked("SELECT nothing_like_it")]):
        with pytest.raises(CannotCheck, match="not a single expectation"):
            stage(target, tmp_path / "docs", *assets)


def test_a_table_that_may_not_be_read_is_unknown_and_the_others_are_still_told(target: str, tmp_path: Path) -> None:
    name = f"half_{database(target)}"
    execute(target, f"CREATE ROLE {name} LOGIN PASSWORD 'p'; GRANT USAGE ON SCHEMA ward TO {name}")
    execute(target, f"GRANT SELECT ON ward.devices TO {name}")
    reader = make_conninfo(target, user=name, password="p")
    query = 'SELECT id, 1 AS "rows found" FROM ward.branches'
    result = stage(reader, tmp_path / "docs", counted("branches", 0), counted("devices", 3), asked(query))
    assert outcomes(result.checks) == {"count_branches": "unknown", "count_devices": "passed", "query": "unknown"}
    for check in (result.checks[0], result.checks[2]):
        assert "permission denied for table branches" in check.found


def database(conninfo: str) -> str:
    with psycopg.connect(conninfo) as connection:
        return connection.info.dbname


def test_a_server_that_does_not_answer_is_an_error_and_leaves_no_site(target: str, tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        stage(make_conninfo(target, port="1"), tmp_path / "docs", counted("devices", 3))
    assert not (tmp_path / "docs").exists()


def test_a_connection_that_breaks_on_the_way_is_worth_another_try(target: str, tmp_path: Path) -> None:
    query = 'SELECT pg_terminate_backend(pg_backend_pid()) AS "rows found"'
    with pytest.raises(Unreachable) as caught:
        stage(target, tmp_path / "docs", asked(query), counted("branches", 0))
    assert caught.value.retry_helps


def test_a_query_that_takes_too_long_is_unknown(target: str, tmp_path: Path) -> None:
    query = 'SELECT pg_sleep(60) AS "rows found"'
    result = run_stage(
        "slow", "Slow", target, SCHEMA, [asked(query), counted("branches", 0)], DocsSite(tmp_path / "docs"), seconds=0.5
    )
    assert outcomes(result.checks) == {"query": "unknown", "count_branches": "passed"}


def test_nothing_can_be_written_through_a_stage(target: str, tmp_path: Path) -> None:
    query = 'WITH gone AS (DELETE FROM ward.devices RETURNING id) SELECT id, 1 AS "rows found" FROM gone'
    result = stage(target, tmp_path / "docs", asked(query), counted("devices", 3))
    assert outcomes(result.checks) == {"query": "unknown", "count_devices": "passed"}
    assert "read-only" in result.checks[0].found


def test_data_docs_that_cannot_be_written_are_an_error(target: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "validations").write_text("a file in the way")
    with pytest.raises(CannotCheck, match="Data Docs are not complete"):
        stage(target, tmp_path / "docs", counted("devices", 3))


# ---- checks that were made elsewhere


def test_a_list_of_checks_is_a_stage(target: str, tmp_path: Path) -> None:
    good, bad = Check("a", "first", "passed", where="here"), Check("b", "second", "failed", found="<b>", where="there")
    unsure = Check("c", "third", "unknown")
    listed = run_list("listed", "A list", [good], target, SCHEMA, DocsSite(tmp_path / "docs", LOG, "Ward OPS · a run"))
    assert listed.success and listed.summary == "1 check passed"
    assert "Data Docs · Ward OPS · a run · A list" in result_page(tmp_path / "docs", "A list").text
    listed = run_list("listed", "A list", [good, bad, unsure], target, SCHEMA, DocsSite(tmp_path / "docs", LOG))
    assert not listed.success
    assert outcomes(listed.checks) == {
        "a": "passed", "b": "failed", "c": "unknown", "listed_looked_at": "unknown", "listed_passed": "failed",
    }  # fmt: skip
    page = result_page(tmp_path / "docs", "A list")
    assert "<b>" not in page.tags and "there second failed" in page.text
    for outcome in ("failed", "unknown"):  # the expectation and the row that it is about
        assert page.source.count(f'<tr class="{outcome}">') == 2
    assert (listed.checks[3].found, listed.checks[4].found) == ("not true for c", "not true for there")
    assert listed.summary == "2 of 3 checks did not pass: second: <b>; third: "
    with pytest.raises(CannotCheck, match="nothing was checked"):
        run_list("listed", "A list", [], target, SCHEMA, DocsSite(tmp_path / "docs"))


# ---- the site


def test_the_site_is_whole_relative_and_needs_nothing_from_elsewhere(target: str, tmp_path: Path) -> None:
    docs = tmp_path / "a folder" / "docs"
    stage(target, docs, counted("branches", 0), counted("devices", 4), counted("gone", 1), asked("SELECT 1 AS nothing"))
    found = pages(docs)
    assert len(found) == 1 + 4  # a table that is not there has its page as well
    assert {path.suffix for path in docs.rglob("*") if path.is_file()} == {".html"}
    for page in found:
        assert "script" not in page.tags
        assert not re.search(r"https?://", page.source.replace(LOG.replace("&", "&amp;"), ""))
        assert LOG in page.links
        assert "Ward OPS · a run" in page.text and "An odd stage" in page.text
        for link in page.links:
            if link in (LOG, "data:,"):
                continue
            assert not link.startswith("/")
            there = (page.path.parent / unquote(link)).resolve()
            assert there.is_file() and there.is_relative_to(docs.resolve()), f"{page.path}: {link}"
    index = Page(docs / "index.html")
    assert sum(link.startswith("validations/") for link in index.links) == 4
    names = ["devices", "gone", "branches"]
    assert [name for name in index.text.split() if name in names][:2] == ["devices", "devices"], "failed ones first"
    assert index.text.rindex("branches") > index.text.rindex("gone") > index.text.index("devices")


def test_a_page_says_what_was_expected_and_why_what_was_found_and_what_to_do(target: str, tmp_path: Path) -> None:
    query = """SELECT id, 1 AS "rows found" FROM "ward"."devices" WHERE id::text || '{1}:a' = '1{1}:a'"""
    made = required("query", finds_no_row(sql.Composed([sql.SQL(query)])), title="no device is the first")
    stage(target, tmp_path / "docs", Asset("devices", [made, *counted("devices", 3).requirements], table="devices"))
    page = result_page(tmp_path / "docs", "devices")
    for words in (
        "devices: of 2 checks, 1 failed.", "No device is the first", "The test says so.", "it holds", "Look.", "id 1", query,
    ):  # fmt: skip
        assert words in page.text, words
    assert page.text.index("failed No device is the first") < page.text.index("passed Count_devices holds")


def test_names_and_keys_that_look_like_markup_or_placeholders_stay_text(conninfo: str, tmp_path: Path) -> None:
    hostile = '<img src=x onerror=alert(1)> :bound {batch} %s $x \\ "q"'
    name = f"s:{hostile}".encode()[:63].decode()
    names = {
        "schema": sql.Identifier(name),
        "table": sql.Identifier(hostile[:55]),
        "column": sql.Identifier("a {0}:b%"),
        "value": sql.Literal("<script>alert(2)</script>"),
        "found": sql.Identifier("rows found"),
    }
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in (
            "CREATE SCHEMA {schema}",
            "CREATE TABLE {schema}.{table} ({column} text)",
            "INSERT INTO {schema}.{table} VALUES ({value})",
        ):
            connection.execute(sql.SQL(statement).format(**names))
    query = sql.SQL("SELECT {column}, 1 AS {found} FROM {schema}.{table}").format(**names)
    asset = Asset(
        hostile[:55],
        [required("query", finds_no_row(query), title=hostile), *counted(hostile[:55], 2).requirements],
        table=hostile[:55],
    )
    result = run_stage("odd", hostile, conninfo, name, [asset], DocsSite(tmp_path / "docs", "javascript:alert(1)", hostile))
    assert outcomes(result.checks) == {"query": "failed", f"count_{hostile[:55]}": "failed"}
    assert rows_of(result.results[0]) == [{"a {0}:b%": "<script>alert(2)</script>"}]
    for page in pages(tmp_path / "docs"):
        assert not page.tags & {"script", "img", "b"}
        assert "javascript:alert(1)" not in page.links
    page = result_page(tmp_path / "docs", hostile[:55])
    assert "<script>alert(2)</script>" in page.text and hostile in page.text


def test_names_that_become_alike_have_pages_of_their_own(target: str, tmp_path: Path) -> None:
    names = ["a b", "a/b", "a_b", "a_b-0", "ა", "ბ", "All tables"]
    with psycopg.connect(target, autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("CREATE TABLE ward.{} (id int)").format(sql.Identifier(name)))
    result = stage(target, tmp_path / "docs", *(counted(name, 0) for name in names))
    assert result.success
    assert len(pages(tmp_path / "docs")) == 1 + len(names)
    for name in names:
        assert f"{name}: the check passed." in result_page(tmp_path / "docs", name).text


def test_a_second_try_replaces_the_site_and_touches_nothing_else(target: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "notes.txt").write_text("mine")
    assert not stage(target, docs, counted("devices", 4), counted("branches", 0)).success
    assert stage(target, docs, counted("devices", 3)).success
    assert len(pages(docs)) == 2
    assert "failed" not in Page(docs / "index.html").text
    assert (docs / "notes.txt").read_text() == "mine"


def test_a_log_in_with_special_characters_works_and_gets_into_no_page(target: str, tmp_path: Path) -> None:
    password = "p@ss:w/rd%24 $HOME ${PATH} '\"\\#?&"
    name = f"odd-{database(target)} @:/"
    with psycopg.connect(target, autocommit=True) as connection:
        role = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA ward TO {}").format(role))
        connection.execute(sql.SQL("GRANT SELECT ON ward.devices TO {}").format(role))
    conninfo = make_conninfo(target, user=name, password=password, application_name="run:check_tables")
    query = 'SELECT id, 1 AS "rows found" FROM ward.branches'
    told = str(stage(conninfo, tmp_path / "docs", counted("devices", 3), counted("branches", 0), asked(query)))
    assert "permission denied for table branches" in told  # errors of the database are in the pages too
    for page in pages(tmp_path / "docs"):
        told += page.source
    for form in (password, quote(password), quote(password, safe=""), password[:8], "creator"):
        assert form not in told


STAGE = """
import sys
from pathlib import Path
from tests.integration.proof.test_expectations import counted, stage
conninfo, docs = sys.argv[1:]
sys.exit(0 if stage(conninfo, Path(docs), counted("devices", 3)).success else 7)
"""


def test_stages_run_side_by_side_without_a_home_and_write_nothing_but_their_site(target: str, tmp_path: Path) -> None:
    temporary, here = tmp_path / "tmp", tmp_path / "here"
    temporary.mkdir()
    here.mkdir()
    environment = {
        "PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/proc/no-such-home", "TMPDIR": str(temporary),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE, target, str(tmp_path / "docs" / "there")],
        cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        while process.poll() is None:
            assert stage(target, tmp_path / "docs" / "here", counted("devices", 3)).success
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
        said = process.stdout.read() if process.stdout else ""
        assert (process.returncode, said) == (0, "")
    finally:
        process.kill()
        process.communicate()
    assert list(temporary.iterdir()) == [] and list(here.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"tmp", "here", "docs"}
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"here", "there"}
    assert {path.name for path in (tmp_path / "docs" / "there").iterdir()} == {"index.html", "validations"}
