"""The state of a site, seen from outside: no word of the product is taken for its own outcome.

Content is compared here value by value with sqlite3 and psycopg, both ends are written to, the application is asked, the
chain of the evidence is computed anew. Only then is it held against what the pipeline says about itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
from psycopg import sql

from examples.receivers import read_mail
from tests.faults.site import CUTOVER, PLAN, ROLLBACK, FaultSite, sha256, until

SERVICES = {"api", "worker", "beat"}
# What the application writes by itself: rows here, and this column.
GROWING, TOUCHED = "ping_results", ("standalone_devices", "last_seen")
FENCED_VERSION = 3


class State(StrEnum):
    """The end states that count as survived; ``BROKEN`` is every other."""

    LIVE = "live on PostgreSQL"
    UNTOUCHED = "on SQLite, never stopped"
    RELEASED = "on SQLite, fence lifted"
    RESTORED = "on SQLite, restored"
    BROKEN = "broken"


SEALS: Mapping[State, Collection[str]] = {
    State.LIVE: ("live",),
    State.UNTOUCHED: ("abandoned", "released", ""),
    State.RELEASED: ("released", "rolled_back"),
    State.RESTORED: ("rolled_back",),
}
FINAL_NOTICE: Mapping[State, str] = {
    State.LIVE: "Ward OPS: migration complete",
    State.UNTOUCHED: "Ward OPS: migration did not take place",
    State.RELEASED: "Ward OPS: migration did not take place",
    State.RESTORED: "Ward OPS: migration rolled back",
}


@dataclass
class Before:
    """The state noted before the first run of a cell."""

    pids: dict[str, int]
    sha256: str


@dataclass
class Verdict:
    """The findings.

    Attributes:
        problems: Everything that must not be; empty where the fault was survived.
        sha256: Of the source file, before the cell and at its end.
    """

    state: State
    problems: list[str] = field(default_factory=list)
    sha256: tuple[str, str] = ("", "")

    def require(self, holds: bool, problem: str) -> None:
        """Note a problem unless it holds."""
        if not holds:
            self.problems.append(problem)


def judge(
    site: FaultSite, before: Before, runs: Mapping[str, str], *, marked: Collection[str] = (), notices: bool = True
) -> Verdict:
    """Look at everything from outside.

    Args:
        runs: Airflow's state of each run, by ``<dag id>/<run id>``.
        marked: Those of them whose state a person had set, so that it says nothing.
        notices: True when people must have got notices; not where that itself was broken.
    """
    verdict = Verdict(State.BROKEN)
    until(lambda: _health(site).get("status") == "ok" and set(site.ward_ops.pids()) == SERVICES, site.pulse.patience(12))
    health = _health(site)
    verdict.require(health.get("status") == "ok", f"the application says {health}")
    verdict.require(set(site.ward_ops.pids()) == SERVICES, f"of the services only {sorted(site.ward_ops.pids())} run")
    if health.get("database") == "postgresql":
        verdict.state = State.LIVE
        _live(site, verdict)
    elif health.get("database") == "sqlite":
        verdict.state = _kind_of_sqlite(site, before)
        _on_sqlite(site, verdict)
    source = site.ward_ops.database
    verdict.sha256 = (before.sha256, sha256(source) if source.exists() else "no file")
    _told(site, verdict, runs, marked, notices)
    return verdict


def _health(site: FaultSite) -> dict[str, Any]:
    try:
        answer = httpx.get(f"{site.ward_ops.url}/api/v1/health", timeout=10, trust_env=False)
        found: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        return {"status": type(error).__name__}
    return found


# ---- live on PostgreSQL ----------------------------------------------------------------------------------------------


def _live(site: FaultSite, verdict: Verdict) -> None:
    backups = list((site.folder / "backups").rglob("*.bak"))
    verdict.require(len(backups) == 1, f"{len(backups)} backups")
    for backup in backups[:1]:
        saved = rows_of(backup)
        verdict.problems += different(rows_of(site.pristine / "ward_ops.db"), saved, "the backup")
        fenced = different(saved, rows_of(site.ward_ops.database), "the fenced source", exact=True)
        verdict.problems += fenced
        with psycopg.connect(site.administrator()) as connection:
            verdict.problems += differences_in_target(connection, saved)
            verdict.problems += _behind(connection, backup)
            verdict.problems += _unproven(connection, site.sql / PLAN / "foreign_keys")
    verdict.require(sqlite_refuses(site.ward_ops.database), "SQLite takes writes beside PostgreSQL: both are writable")
    verdict.require(_header_version(site.ward_ops.database) == FENCED_VERSION, "the source is not fenced")
    verdict.require(_pings(site), "the application cannot write to PostgreSQL")


def differences_in_target(connection: psycopg.Connection, saved: Mapping[str, Table]) -> list[str]:
    """Where the target is not the backup, but for what the application wrote since."""
    found = []
    for name, table in saved.items():
        columns = _target_columns(connection, name)
        order = [column for column in table.columns if column in columns]
        if set(columns) != set(table.columns):
            found.append(f"{name}: other columns")
            continue
        listed = [
            sql.SQL("{}::text" if columns[column] == "jsonb" else "{}").format(sql.Identifier(column)) for column in order
        ]
        query = sql.SQL("SELECT {} FROM public.{}").format(sql.SQL(", ").join(listed), sql.Identifier(name))
        convert = [_CONVERSIONS.get(re.sub(r"\(.*?\)", "", columns[column]).strip(), str) for column in order]
        documents = [columns[column] == "jsonb" for column in order]
        expected = {
            key: tuple(None if value is None else to(value) for to, value in zip(convert, row, strict=True))
            for key, row in table.rows.items()
        }
        keys = [order.index(column) for column in table.key]
        target = {
            tuple(str(row[index]) for index in keys): tuple(map(_plain, row, documents)) for row in connection.execute(query)
        }
        by_key = {tuple(str(row[index]) for index in keys): row for row in expected.values()}
        found += _compare(name, order, by_key, target, exact=False, reference=not expected)
    return found


def _target_columns(connection: psycopg.Connection, table: str) -> dict[str, str]:
    query = """SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
               WHERE attrelid = to_regclass(quote_ident('public') || '.' || quote_ident(%s)) AND attnum > 0
                 AND NOT attisdropped"""
    return dict(connection.execute(query, [table]).fetchall())


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(str(value).strip())
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _document(value: Any) -> str:
    return json.dumps(json.loads(value) if isinstance(value, str) else value, sort_keys=True)


_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "boolean": bool,
    "integer": int,
    "bigint": int,
    "smallint": int,
    "double precision": float,
    "numeric": float,
    "timestamp with time zone": _moment,
    "uuid": lambda value: UUID(str(value)),
    "jsonb": _document,
    "bytea": bytes,
}


def _plain(value: Any, is_document: bool) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return _document(value) if is_document and value is not None else value


def _behind(connection: psycopg.Connection, backup: Path) -> list[str]:
    """Sequences that would give a number again."""
    with contextlib.closing(sqlite3.connect(f"file:{backup}?immutable=1", uri=True)) as source:
        given = dict(source.execute("SELECT name, seq FROM sqlite_sequence").fetchall())
    query = """SELECT table_name, column_name FROM information_schema.columns
               WHERE table_schema = 'public' AND (is_identity = 'YES' OR column_default LIKE 'nextval%')"""
    found = []
    for table, column in connection.execute(query).fetchall():
        name = connection.execute("SELECT pg_get_serial_sequence(%s, %s)", [f"public.{table}", column]).fetchone()
        assert name is not None
        last, called = connection.execute(f"SELECT last_value, is_called FROM {name[0]}".encode()).fetchone() or (0, False)
        next_value = last + 1 if called else last
        query = sql.SQL("SELECT coalesce(max({}), 0) FROM public.{}").format(sql.Identifier(column), sql.Identifier(table))  # type: ignore[assignment]
        greatest = (connection.execute(query).fetchone() or (0,))[0]
        if next_value <= max(greatest, given.get(table, 0)):
            found.append(f"{table}: the sequence gives {next_value}, but {max(greatest, given.get(table, 0))} is taken")
    return found


def _unproven(connection: psycopg.Connection, folder: Path) -> list[str]:
    """Constraints that are missing or not validated, and indexes that are not valid."""
    wanted = sum(len(re.findall(r"FOREIGN KEY", file.read_text())) for file in folder.glob("*.sql"))
    query = """SELECT count(*) FILTER (WHERE contype = 'f'), count(*) FILTER (WHERE NOT convalidated)
               FROM pg_constraint WHERE connamespace = 'public'::regnamespace"""
    keys, not_valid = connection.execute(query).fetchone() or (0, 0)
    bad = connection.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone() or (0,)
    return [
        *([f"{keys} foreign keys, not {wanted}"] if keys != wanted else []),
        *([f"{not_valid} constraints are not validated"] if not_valid else []),
        *([f"{bad[0]} indexes are not valid"] if bad[0] else []),
    ]


# ---- on SQLite -------------------------------------------------------------------------------------------------------


def _kind_of_sqlite(site: FaultSite, before: Before) -> State:
    if site.ward_ops.pids() == before.pids:
        return State.UNTOUCHED
    return State.RESTORED if _seen_before_start(site) and _was_copied_back(site) else State.RELEASED


def _was_copied_back(site: FaultSite) -> bool:
    """Require that the file found in the database's place lies in the evidence: it is another one than before."""
    return any((site.evidence / PLAN).glob("*/kept/**/ward_ops.db"))


def _seen_before_start(site: FaultSite) -> dict[str, Any] | None:
    """Return the source's state when the services were about to start on it, for the first time after it was restored.

    A second try of that step finds services that run already, and write. So does a way back that goes on after a reboot.
    """
    file = site.points / "seen.jsonl"
    seen = None
    copies = {sha256(path) for folder in ("backups", "second_copy") for path in (site.folder / folder).rglob("*.bak")}
    for line in file.read_text().splitlines() if file.exists() else ():
        fields = json.loads(line)
        if fields["step"] == "boot":
            if fields["sha256"] in copies:  # they start by themselves on the restored file; a later restore must keep it
                return fields  # type: ignore[no-any-return]
        elif fields["step"] == "rollback.restore_source" and fields["at"] == "end":
            seen = None
        elif fields["step"] == "rollback.start_services" and "sha256" in fields:
            seen = seen or fields
    return seen


def _on_sqlite(site: FaultSite, verdict: Verdict) -> None:
    source = site.ward_ops.database
    now = rows_of(source, in_use=True)
    if verdict.state is State.RESTORED:
        seen = _seen_before_start(site) or {}
        backups = {
            path: sha256(path) for folder in ("backups", "second_copy") for path in (site.folder / folder).rglob("*.bak")
        }
        whole = [path for path, digest in backups.items() if digest == seen.get("sha256")]
        verdict.require(bool(whole), f"when the services started the file, {seen.get('sha256')}, was no copy of the backup")
        verdict.require(seen.get("beside") == [], f"side files lay beside it: {seen.get('beside')}")
        for backup in whole[:1]:
            verdict.problems += different(rows_of(backup), now, "the source since it was restored")
            verdict.problems += different(rows_of(site.pristine / "ward_ops.db"), rows_of(backup), "the backup")
    else:
        verdict.problems += different(rows_of(site.pristine / "ward_ops.db"), now, "the source")
    verdict.require(_header_version(source) != FENCED_VERSION, "the source is still fenced")
    notes = [path.name for path in source.parent.glob("*.fence*")]
    verdict.require(not notes, f"a fence's note is left: {notes}")
    verdict.require(not sqlite_refuses(source), "SQLite does not take writes")
    verdict.require(_pings(site), "the application cannot write to SQLite")
    open_tables = writable_tables(site)
    verdict.require(not open_tables, f"the application's role can write to PostgreSQL too: {open_tables[:3]}")
    verdict.require("sqlite:///" in site.ward_ops.dotenv.read_text(), "the configuration does not name SQLite")


def sqlite_refuses(database: Path) -> bool:
    """Return True when SQLite takes no row and no table; every attempt is rolled back."""
    refused = 0
    for statement in ("UPDATE users SET language = language", "CREATE TABLE judge (x)"):
        with contextlib.closing(
            sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=10, isolation_level=None)
        ) as it:
            try:
                it.execute("BEGIN IMMEDIATE")
                it.execute(statement)
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    refused += 1
            finally:
                if it.in_transaction:
                    it.execute("ROLLBACK")
    return refused == 2


def writable_tables(site: FaultSite) -> list[str]:
    """Tables of the target that the application's role may change, in whatever schema; none where it cannot log in."""
    if site.target.postmaster() is None:
        return []
    query = """SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
               WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"""
    with psycopg.connect(site.administrator()) as connection:
        names = [name for (name,) in connection.execute(query)]
    found = []
    try:
        with psycopg.connect(site.application_login(), autocommit=True) as connection:
            for name in names:
                with contextlib.suppress(psycopg.Error):
                    connection.execute(f"DELETE FROM {name} WHERE false".encode())
                    found.append(name)
    except psycopg.OperationalError:
        return []
    return found


def _header_version(database: Path) -> int:
    with database.open("rb") as file:
        return file.read(20)[18]


def _pings(site: FaultSite) -> bool:
    """A row written through the application's own door."""
    try:
        device = httpx.get(f"{site.ward_ops.url}/api/v1/devices?limit=1", timeout=10, trust_env=False).json()["items"][0][
            "id"
        ]
        answer = httpx.post(f"{site.ward_ops.url}/api/v1/devices/{device}/ping", timeout=15, trust_env=False)
    except (httpx.HTTPError, ValueError, LookupError):
        return False
    return answer.status_code == 200


# ---- content of SQLite -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table's rows by their key."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    rows: dict[tuple[Any, ...], tuple[Any, ...]]


def rows_of(database: Path, *, in_use: bool = False) -> dict[str, Table]:
    """Every table of a SQLite file, read as it lies there, or under SQLite's locks where the application writes to it."""
    tables = {}
    uri = f"file:{database}?{'mode=ro' if in_use else 'immutable=1'}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=15)) as connection:
        connection.execute("BEGIN")
        names = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        for (name,) in names:
            info = connection.execute(f'PRAGMA table_info("{name}")').fetchall()
            columns = tuple(row[1] for row in info)
            key = tuple(row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]) or columns
            indexes = [columns.index(column) for column in key]
            rows = {tuple(row[index] for index in indexes): row for row in connection.execute(f'SELECT * FROM "{name}"')}
            tables[name] = Table(columns, key, rows)
    return tables


def different(expected: Mapping[str, Table], found: Mapping[str, Table], what: str, *, exact: bool = False) -> list[str]:
    """Where two contents differ, but for what the application writes by itself unless ``exact``."""
    problems = [f"{what}: other tables"] if set(expected) != set(found) else []
    for name in sorted(set(expected) & set(found)):
        table = expected[name]
        problems += [
            f"{what}: {text}"
            for text in _compare(name, table.columns, table.rows, found[name].rows, exact=exact, reference=False)
        ]
    return problems


def _compare(
    name: str,
    columns: Sequence[str],
    expected: Mapping[tuple[Any, ...], tuple[Any, ...]],
    found: Mapping[tuple[Any, ...], tuple[Any, ...]],
    *,
    exact: bool,
    reference: bool,
) -> list[str]:
    lost = [key for key in expected if key not in found]
    more = [key for key in found if key not in expected]
    problems = [f"{name}: {len(lost)} rows are lost, such as {lost[0]}"] if lost else []
    if more and (exact or (name != GROWING and not reference)):
        problems.append(f"{name}: {len(more)} rows too many, such as {more[0]}")
    skip = columns.index(TOUCHED[1]) if not exact and name == TOUCHED[0] else None
    for key, row in expected.items():
        other = found.get(key)
        if other is not None and any(
            one != two for index, (one, two) in enumerate(zip(row, other, strict=True)) if index != skip
        ):
            column = next(
                columns[i] for i, (one, two) in enumerate(zip(row, other, strict=True)) if one != two and i != skip
            )
            problems.append(f"{name} {key}: {column} differs")
            break
    return problems


# ---- what the pipeline says ------------------------------------------------------------------------------------------


def _told(site: FaultSite, verdict: Verdict, runs: Mapping[str, str], marked: Collection[str], notices: bool) -> None:
    """Require that the pipeline's own words agree with the findings."""
    evidence = {folder.name: events for folder, events in all_events(site, verdict).items()}
    cutovers = {name: events for name, events in evidence.items() if any(event["event"] == "run.opened" for event in events)}
    seals = [_seal(events) for events in cutovers.values()]
    # Earlier runs of a cell may have ended otherwise; the last one tells the state.
    last = seals[-1] if seals else ""
    if verdict.state is not State.BROKEN:
        allowed = SEALS[verdict.state]
        verdict.require(last in allowed, f"the evidence says '{last or 'nothing'}', the state is: {verdict.state}")
    for run, state in runs.items():
        dag, _, run_id = run.partition("/")
        events = evidence.get(_folder(run_id), [])
        verdict.require(state in ("success", "failed"), f"the run {run} has not ended: {state}")
        if run in marked or state != "success":
            continue
        ended = [event["outcome"] for event in events if event["event"] == "sealed"]
        if dag == CUTOVER:
            verdict.require("live" in ended, f"{run} is green and was never live")
        elif dag == ROLLBACK:
            verdict.require(_rolled_back(events, evidence), f"{run} is green and nothing was rolled back")
    if verdict.state is State.LIVE:
        good = [run for run, state in runs.items() if state == "success" or run in marked]
        verdict.require(bool(good), "live, and no run is green")
    if notices and cutovers and verdict.state is not State.BROKEN:
        _notices(site, verdict, cutovers)


def _rolled_back(events: Sequence[Mapping[str, Any]], evidence: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
    """Require that the run of a rollback was closed as rolled back."""
    subject = next((_folder(str(event["subject"])) for event in events if event["event"] == "rollback.opened"), "")
    ends = [event["outcome"] for event in evidence.get(subject, []) if event["event"] == "sealed"]
    return bool(ends) and ends[-1] in ("rolled_back", "released")


def _folder(run_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", run_id)


def _notices(site: FaultSite, verdict: Verdict, cutovers: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    subjects = [message.subject for message in read_mail(site.received)]
    begun = "Ward OPS: migration begins" in " ".join(subjects) or any("begins" in subject for subject in subjects)
    final = FINAL_NOTICE[verdict.state]
    told = final in subjects or (verdict.state is State.RELEASED and FINAL_NOTICE[State.RESTORED] in subjects)
    verdict.require(told or not begun, f"nobody was told: {final}")
    for subject in set(subjects):
        # Killed between a delivery and its record, a notice goes out once more: that is allowed, more is not. That it takes
        # longer is told at half time and at three quarters, to the lead in person as well.
        kinds = 4 if subject.endswith("is still running") else 1
        verdict.require(subjects.count(subject) <= 2 * kinds * len(cutovers), f"{subjects.count(subject)} times: {subject}")
    ever = any(event.get("outcome") == "rolled_back" for events in cutovers.values() for event in events)
    wrong = FINAL_NOTICE[State.RESTORED]
    verdict.require(ever or wrong not in subjects, f"people were told, wrongly: {wrong}")


def _seal(events: Sequence[Mapping[str, Any]]) -> str:
    ends = [event for event in events if event["event"] in ("sealed", "reopened")]
    return str(ends[-1]["outcome"]) if ends and ends[-1]["event"] == "sealed" else ""


def all_events(site: FaultSite, verdict: Verdict | None = None) -> dict[Path, list[dict[str, Any]]]:
    """The events of every run, oldest first; a chain that does not hold is a problem."""
    found = {}
    for file in (site.evidence / PLAN).glob("*/events.jsonl"):
        events, problem = chained(file.read_bytes())
        if problem and verdict is not None:
            verdict.problems.append(f"{file.parent.name}: {problem}")
        found[file.parent] = events
    return dict(sorted(found.items(), key=lambda item: item[1][0]["time"] if item[1] else ""))


def chained(content: bytes) -> tuple[list[dict[str, Any]], str]:
    """The events of a file, and what is wrong with their chain; a torn last line is what a kill leaves."""
    previous = "0" * 64
    events: list[dict[str, Any]] = []
    for number, line in enumerate(content.split(b"\n")[:-1]):
        try:
            event = json.loads(line)
        except ValueError:
            return events, f"line {number + 1} is no JSON"
        if event.get("previous") != previous or event.get("seq") != number:
            return events, f"the chain breaks at line {number + 1}"
        events.append(event)
        previous = hashlib.sha256(line).hexdigest()
    return events, ""
