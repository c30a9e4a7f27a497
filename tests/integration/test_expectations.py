"""Great Expectations on a real database: what passes, what fails, what is unknown, and the site that it leaves."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from include.cutover.checks import Check
from include.cutover.errors import CannotCheck, Unreachable
from include.cutover.expectations import Asset, Requirement, check_counts, check_orphans, run_stage
from include.cutover.plan import ROOT
from include.cutover.verification import ExpectedCount, expected_counts

SCHEMA = "ward"
LOG = "https://airflow.example/dags/cutover_ward_ops/runs/r/tasks/check_counts?try_number=1&tab=logs"
SNAPSHOT = {"branches": 1, "devices": 3, "history": 0}


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
        CREATE TABLE branches (id uuid PRIMARY KEY);
        CREATE TABLE devices (id bigint PRIMARY KEY, branch_id uuid REFERENCES branches, secret text);
        CREATE TABLE history (id bigint PRIMARY KEY, device_id bigint REFERENCES devices, up bigint REFERENCES history);
        INSERT INTO branches VALUES ('00000000-0000-0000-0000-000000000001');
        INSERT INTO devices
            SELECT n, '00000000-0000-0000-0000-000000000001', 'gAAAA-do-not-show' FROM generate_series(1, 3) AS n;
        """,
    )
    return conninfo


def outcomes(checks: list[Check], outcome: str) -> list[str]:
    return [check.name for check in checks if check.outcome == outcome]


class Page(HTMLParser):
    """Tags, addresses and text of one page of a site."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.tags, self.links, self.words = path, set[str](), list[str](), list[str]()
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def pages(docs: Path) -> list[Page]:
    return [Page(path) for path in sorted(docs.rglob("*.html"))]


def result_page(docs: Path, asset: str) -> Page:
    (path,) = (docs / "validations" / asset).rglob("*.html")
    return Page(path)


# ---- counts


def test_equal_counts_pass_on_every_table_and_on_the_reconciliation(target: str, tmp_path: Path) -> None:
    execute(target, "INSERT INTO ward.history SELECT n FROM generate_series(1, 2) AS n")
    result = check_counts(target, SCHEMA, expected_counts(SNAPSHOT, {"history": 2}), tmp_path / "counts", LOG)
    assert result.success, result.checks
    assert {check.outcome for check in result.checks} == {"passed"}
    assert [check.name for check in result.checks[:3]] == ["row_count_branches", "row_count_devices", "row_count_history"]
    assert len(result.checks) == 3 + 5
    assert (result.checks[2].expected, result.checks[2].found) == ("2 rows (reference data)", "2 rows")
    assert result.summary == "3 tables, 6 rows: every count is as expected"
    assert result.figures["rows"] == 6
    assert result.figures["tables"][0] == {
        "table": "branches", "source_rows": 1, "target_rows": 1, "delta": 0, "origin": "snapshot",
    }  # fmt: skip
    assert result.docs_index == tmp_path / "counts" / "index.html"
    page = result_page(tmp_path / "counts", "history")
    assert "2 rows (reference data). The number is what the reference data brought" in page.text


@pytest.mark.parametrize(("rows", "found"), [(4, "3 rows (-1)"), (2, "3 rows (+1)")])
def test_a_row_missing_or_too_many_fails(target: str, tmp_path: Path, rows: int, found: str) -> None:
    result = check_counts(target, SCHEMA, expected_counts({**SNAPSHOT, "devices": rows}), tmp_path / "counts")
    assert not result.success
    assert outcomes(result.checks, "failed") == ["row_count_devices", "reconciliation_delta"]
    assert outcomes(result.checks, "unknown") == []
    check = result.checks[1]
    assert (check.where, check.expected, check.found) == ("ward.devices", f"{rows} rows (snapshot)", found)
    assert check.do
    assert result.checks[-1].found == "not so for devices"
    assert f"devices: expected {rows}, found 3" in result.summary
    assert "failed" in result_page(tmp_path / "counts", "devices").source
    assert "devices" in result_page(tmp_path / "counts", "reconciliation").text


def test_a_table_that_is_missing_is_no_pass_also_when_it_should_be_empty(target: str, tmp_path: Path) -> None:
    result = check_counts(target, SCHEMA, expected_counts({**SNAPSHOT, "gone": 0}), tmp_path / "counts")
    assert not result.success
    assert outcomes(result.checks, "unknown") == ["row_count_gone", "reconciliation_counted"]
    assert next(check for check in result.checks if check.name == "row_count_gone").found == "no such table in schema ward"
    assert "gone" in result_page(tmp_path / "counts", "reconciliation").text


def test_when_no_table_is_there_nothing_passes_for_it(conninfo: str, tmp_path: Path) -> None:
    result = check_counts(conninfo, "nowhere", {"users": ExpectedCount(0)}, tmp_path / "counts")
    assert not result.success
    assert outcomes(result.checks, "unknown") == ["row_count_users", "reconciliation_counted", "reconciliation_delta"]


def test_nothing_to_count_is_an_error(target: str, tmp_path: Path) -> None:
    with pytest.raises(CannotCheck):
        check_counts(target, SCHEMA, {}, tmp_path / "counts")


def test_a_server_that_does_not_answer_is_an_error_and_leaves_no_site(target: str, tmp_path: Path) -> None:
    away = make_conninfo(target, port="1")
    with pytest.raises(Unreachable):
        check_counts(away, SCHEMA, expected_counts(SNAPSHOT), tmp_path / "docs")
    with pytest.raises(Unreachable):
        check_orphans(away, SCHEMA, tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


# ---- orphans


def test_no_orphan_passes_for_every_foreign_key_of_the_catalog(target: str, tmp_path: Path) -> None:
    result = check_orphans(target, SCHEMA, tmp_path / "orphans", LOG)
    assert result.success, result.checks
    assert sorted(check.name for check in result.checks) == [
        "orphans_devices_devices_branch_id_fkey",
        "orphans_history_history_device_id_fkey",
        "orphans_history_history_up_fkey",
    ]
    assert result.figures == {"foreign_keys": 3, "orphans": []}
    assert result.summary == "3 foreign keys looked at, no orphan"


def orphans(target: str) -> None:
    execute(
        target,
        """
        SET search_path = ward;
        SET session_replication_role = replica;
        INSERT INTO devices
            SELECT n, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'gAAAA-do-not-show' FROM generate_series(10, 40) AS n;
        INSERT INTO history VALUES (1, 10, NULL), (2, NULL, NULL), (3, 99, 1);
        """,
    )


def test_orphans_fail_with_their_keys_and_nothing_else_in_checks_figures_and_docs(target: str, tmp_path: Path) -> None:
    orphans(target)
    result = check_orphans(target, SCHEMA, tmp_path / "orphans", LOG)
    assert not result.success
    assert sorted(outcomes(result.checks, "failed")) == [
        "orphans_devices_devices_branch_id_fkey",
        "orphans_history_history_device_id_fkey",
    ]
    first = result.checks[0]
    assert first.where == "ward.devices"
    assert first.found.startswith("31 orphans: id=10, branch_id=ffffffff-ffff-ffff-ffff-ffffffffffff; id=11,")
    assert first.found.endswith("and 11 more")
    assert result.figures["orphans"][1] == {
        "foreign_key": "history_device_id_fkey", "table": "history", "columns": ["device_id"],
        "referenced_table": "devices", "count": 1, "keys": [{"id": "3", "device_id": "99"}],
    }  # fmt: skip
    assert result.summary == "32 orphans under 2 of 3 foreign keys (devices.branch_id: 31; history.device_id: 1)"
    page = result_page(tmp_path / "orphans", "history")
    assert "id device_id 3 99" in page.text
    assert "do-not-show" not in str(result) + "".join(page.source for page in pages(tmp_path / "orphans"))


def test_a_key_that_is_secret_is_shown_nowhere(target: str, tmp_path: Path) -> None:
    orphans(target)
    result = check_orphans(target, SCHEMA, tmp_path / "orphans", None, {"devices": {"branch_id"}})
    assert result.checks[0].found.startswith("31 orphans: id=10; id=11")
    assert "ffffffff" not in str(result) + "".join(page.source for page in pages(tmp_path / "orphans"))


def test_a_schema_without_foreign_keys_is_an_error(conninfo: str, tmp_path: Path) -> None:
    execute(conninfo, "CREATE TABLE alone (id int)")
    with pytest.raises(CannotCheck, match="no foreign key"):
        check_orphans(conninfo, "public", tmp_path / "orphans")


# ---- what could not be looked at


def test_an_expectation_that_raises_is_unknown_and_the_others_are_still_told(target: str, tmp_path: Path) -> None:
    name = f"half_{conninfo_database(target)}"
    execute(
        target,
        f"CREATE ROLE {name} LOGIN PASSWORD 'p'; GRANT USAGE ON SCHEMA ward TO {name};"
        f" GRANT SELECT ON ward.devices, ward.history TO {name};",
    )
    result = check_orphans(make_conninfo(target, user=name, password="p"), SCHEMA, tmp_path / "orphans")
    assert not result.success
    assert outcomes(result.checks, "unknown") == ["orphans_devices_devices_branch_id_fkey"]
    assert "permission denied for table branches" in result.checks[0].found
    assert len(outcomes(result.checks, "passed")) == 2
    assert "1 could not be looked at" in result.summary

    counted = check_counts(
        make_conninfo(target, user=name, password="p"), SCHEMA, expected_counts(SNAPSHOT), tmp_path / "counts"
    )
    assert "row_count_branches" in outcomes(counted.checks, "unknown")
    assert "permission denied for table branches" in counted.checks[0].found


def conninfo_database(conninfo: str) -> str:
    with psycopg.connect(conninfo) as connection:
        return connection.info.dbname


def requirement(name: str, column: str) -> Requirement:
    return Requirement(
        name=name,
        title="values are 1",
        expected="1",
        origin="The test.",
        make=lambda gxe, **about: gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[1], **about),
        found=lambda result: f"{result['unexpected_count']} others",
        do="Look.",
    )


def test_an_expectation_over_no_value_at_all_does_not_pass(target: str, tmp_path: Path) -> None:
    """Great Expectations itself calls all of these a success, or has nothing to evaluate."""
    assets = [
        Asset("only empty values", [requirement("nulls", "value")], rows=[{"key": "a", "value": None}]),
        Asset("no such column", [requirement("absent", "other")], rows=[{"key": "a", "value": 1}]),
        Asset("no such table", [requirement("gone", "value")], table="gone"),
        Asset("fine", [requirement("fine", "value")], rows=[{"key": "a", "value": 1}]),
    ]
    result = run_stage("odd", "Odd", target, SCHEMA, assets, tmp_path / "odd")
    assert {check.name: check.outcome for check in result.checks} == {
        "nulls": "unknown", "absent": "unknown", "gone": "unknown", "fine": "passed",
    }  # fmt: skip
    assert not result.success


def test_a_stage_that_evaluates_nothing_is_an_error(target: str, tmp_path: Path) -> None:
    for assets in ([], [Asset("devices", [], table="devices")], [Asset("gone", [requirement("x", "y")], table="gone")]):
        with pytest.raises(CannotCheck, match="not a single expectation"):
            run_stage("empty", "Empty", target, SCHEMA, assets, tmp_path / "empty")


def test_data_docs_that_cannot_be_written_are_an_error(target: str, tmp_path: Path) -> None:
    (tmp_path / "counts").mkdir()
    (tmp_path / "counts" / "validations").write_text("a file in the way")
    with pytest.raises(CannotCheck, match="Data Docs are not complete"):
        check_counts(target, SCHEMA, expected_counts(SNAPSHOT), tmp_path / "counts")


# ---- the site


def test_the_site_is_whole_relative_and_needs_nothing_from_elsewhere(target: str, tmp_path: Path) -> None:
    orphans(target)
    execute(target, "DELETE FROM ward.history WHERE id = 3")
    docs = tmp_path / "a folder" / "counts"
    check_counts(target, SCHEMA, expected_counts({**SNAPSHOT, "gone": 1}), docs, LOG)
    found = pages(docs)
    assert len(found) == 1 + 2 * 4  # the index; a result and a suite for each table that is there and the reconciliation
    assert {path.suffix for path in docs.rglob("*") if path.is_file()} == {".html"}
    for page in found:
        assert "script" not in page.tags
        assert not re.search(r"https?://", page.source.replace(LOG.replace("&", "&amp;"), ""))
        assert LOG in page.links
        for link in page.links:
            if link in (LOG, "data:,"):
                continue
            place, _, fragment = link.partition("#")
            assert not place.startswith("/")
            there = (page.path.parent / unquote(place)).resolve() if place else page.path
            assert there.is_file() and there.is_relative_to(docs.resolve()), f"{page.path}: {link}"
            assert not fragment or f'id="{fragment}"' in there.read_text()
    index = Page(docs / "index.html")
    assert sum(link.startswith("validations/") for link in index.links) == 4
    assert index.text.index("Failed") < index.text.index("Success")


def test_names_and_keys_that_look_like_markup_or_placeholders_stay_text(conninfo: str, tmp_path: Path) -> None:
    hostile = '<img src=x onerror=alert(1)> :bound {batch} %s $x \\ "q"'
    names = {
        "schema": sql.Identifier(f"s:{hostile}"),
        "table": sql.Identifier(hostile[:55]),
        "column": sql.Identifier("a {0}:b%"),
        "key": sql.Identifier("fk <b>:x {}"),
        "value": sql.Literal("<script>alert(2)</script>"),
    }
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in (
            "CREATE SCHEMA {schema}",
            "CREATE TABLE {schema}.parent (id text PRIMARY KEY)",
            "CREATE TABLE {schema}.{table} (id int PRIMARY KEY, {column} text)",
            "INSERT INTO {schema}.{table} VALUES (1, {value})",
            "ALTER TABLE {schema}.{table} ADD CONSTRAINT {key} FOREIGN KEY ({column}) REFERENCES {schema}.parent NOT VALID",
        ):
            connection.execute(sql.SQL(statement).format(**names))
    name = f"s:{hostile}".encode()[:63].decode()
    counted = check_counts(
        conninfo, name, expected_counts({hostile[:55]: 2, "parent": 0}), tmp_path / "counts", "javascript:alert(1)"
    )
    assert len(outcomes(counted.checks, "failed")) == 2 and not outcomes(counted.checks, "unknown")
    looked = check_orphans(conninfo, name, tmp_path / "orphans", "javascript:alert(1)")
    assert outcomes(looked.checks, "failed") and "<script>alert(2)</script>" in looked.checks[0].found
    for page in [*pages(tmp_path / "counts"), *pages(tmp_path / "orphans")]:
        assert not page.tags & {"script", "img", "b"}
        assert "javascript:alert(1)" not in page.links
    (path,) = (tmp_path / "orphans" / "validations").rglob("*.html")
    assert "<script>alert(2)</script>" in Page(path).text


def test_a_second_try_replaces_the_site_and_touches_nothing_else(target: str, tmp_path: Path) -> None:
    docs = tmp_path / "counts"
    docs.mkdir()
    (docs / "notes.txt").write_text("mine")
    assert not check_counts(target, SCHEMA, expected_counts({**SNAPSHOT, "devices": 4}), docs).success
    assert check_counts(target, SCHEMA, expected_counts({"devices": 3}), docs).success
    assert {path.name for path in (docs / "validations").iterdir()} == {"devices", "reconciliation"}
    assert "Failed" not in Page(docs / "index.html").text
    assert (docs / "notes.txt").read_text() == "mine"


def test_a_log_in_with_special_characters_works_and_gets_into_no_page(target: str, tmp_path: Path) -> None:
    orphans(target)
    password = "p@ss:w/rd%24 $HOME ${PATH} '\"\\#?&"
    name = f"odd-{conninfo_database(target)} @:/"
    with psycopg.connect(target, autocommit=True) as connection:
        role = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password)))
        connection.execute(
            sql.SQL("GRANT USAGE ON SCHEMA ward TO {}; GRANT SELECT ON ALL TABLES IN SCHEMA ward TO {}").format(role, role)
        )
        connection.execute(sql.SQL("REVOKE SELECT ON ward.history FROM {}").format(role))
    conninfo = make_conninfo(target, user=name, password=password, application_name="run:check_counts")
    told = str(check_counts(conninfo, SCHEMA, expected_counts(SNAPSHOT), tmp_path / "counts", LOG))
    told += str(check_orphans(conninfo, SCHEMA, tmp_path / "orphans", LOG))
    assert "permission denied for table history" in told  # errors of the database are in the pages too
    for page in [*pages(tmp_path / "counts"), *pages(tmp_path / "orphans")]:
        told += page.source
    for form in (password, quote(password), quote(password, safe=""), password[:8], "creator"):
        assert form not in told


STAGE = """
import sys
from pathlib import Path
from include.cutover.expectations import check_counts
from include.cutover.verification import expected_counts
conninfo, docs = sys.argv[1:]
result = check_counts(conninfo, "ward", expected_counts({"branches": 1, "devices": 3, "history": 0}), Path(docs))
sys.exit(0 if result.success else 7)
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
        [sys.executable, "-c", STAGE, target, str(tmp_path / "docs" / "counts")],
        cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        while process.poll() is None:
            assert check_orphans(target, SCHEMA, tmp_path / "docs" / "orphans").success
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
        said = process.stdout.read() if process.stdout else ""
        assert (process.returncode, said) == (0, "")
    finally:
        process.kill()
        process.communicate()
    assert list(temporary.iterdir()) == [] and list(here.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"tmp", "here", "docs"}
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"counts", "orphans"}
    assert {path.name for path in (tmp_path / "docs" / "counts").iterdir()} == {"index.html", "validations", "expectations"}
