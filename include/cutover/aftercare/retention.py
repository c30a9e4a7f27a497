"""How long what a run left behind is kept: backups are compressed, then removed; kept schemas are dropped; evidence stays.

What may go is read from the runs' evidence alone: a file that no run recorded, that is a symbolic link, or that is not what
was recorded is left where it is. Nothing of a run goes that is open, whose way back is not complete, whose incident is not
closed, that somebody is rolling back, or whose aftercare still looks. A backup goes only when another one, proven at that
moment, is left.

Everything that is done is recorded here before and after. Killed at any instant, the next call finishes: a backup has its
archive, proven, before its file goes, and its manifest, which says where the archive is, before that.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg import sql

from include.cutover import files
from include.cutover.aftercare import record as aftercare_record
from include.cutover.errors import CannotCheck, CutoverError, Refused
from include.cutover.evidence import lease
from include.cutover.evidence.record import EVENTS, Event, Evidence, evidence_root, sealing
from include.cutover.extras import take as extras
from include.cutover.files import sync_folder, write_atomically
from include.cutover.locks import locked
from include.cutover.plan.model import Plan
from include.cutover.proof import digests
from include.cutover.source import backup, backup_archive
from include.cutover.source.backup import Manifest
from include.cutover.target import drop, sql_files
from include.cutover.target import schema as target_schema
from include.cutover.target import session as target_session

log = logging.getLogger(__name__)

ARCHIVED, REMOVING, REMOVED, DROPPING, DROPPED = (
    "archived", "removing", "removed", "dropping", "dropped",
)  # fmt: skip
"""Events of the retention's evidence; each names the run."""

INCIDENT_CLOSED = "incident.closed"

Kind = Literal["archive", "remove", "drop"]
_AFTER_AFTERCARE = timedelta(days=1)  # one that was killed never closes


@dataclass(frozen=True)
class Deed:
    """One thing that was done, would be done, or could not be.

    Attributes:
        run: The run's folder name.
        what: The backup's file, or the schema.
        done: Whether it was done, or would be in a dry run.
        why: Why it was left, when it was not done.
        failed: It was left although it was due and nothing speaks for keeping it: somebody must look.
    """

    kind: Kind
    run: str
    what: str
    done: bool
    why: str = ""
    failed: bool = False

    def __str__(self) -> str:
        words = {"archive": "archived", "remove": "removed", "drop": "dropped"}
        return f"{self.run}: {self.what} {words[self.kind] if self.done else f'is left: {self.why}'}"


def evidence_of(plan: str) -> Evidence:
    """The retention's own evidence."""
    return Evidence(evidence_root() / "retention" / plan)


def removed(plan: str, run: str) -> Event | None:
    """The event that says that a run's backup is gone, or is on its way; None while it is kept.

    Args:
        run: The run's folder name.
    """
    evidence = evidence_of(plan)
    if not evidence.exists:
        return None
    return evidence.last(REMOVED, run=run) or evidence.last(REMOVING, run=run)


def refuse_removed(plan: str, run: str) -> None:
    """Refuse to roll a run back whose backup is gone.

    Raises:
        Refused: When retention removed it.
    """
    event = removed(plan, run)
    if event is not None:
        raise Refused(
            "the backup of this run was removed by retention, so there is nothing to go back to",
            where=run,
            found=f"removed at {event['time'][:16].replace('T', ' ')} UTC, as the plan says",
            do="Nothing was stopped. Another copy of the backup can be put back by hand; see docs/rollback.md.",
        )


def look_after(
    plan: Plan,
    what: Kind,
    *,
    conninfo: Callable[[], str] | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
) -> list[Deed]:
    """Archive, remove or drop what is due. Safe to be killed and to run again.

    Args:
        conninfo: The target; only asked for kept schemas.
        dry_run: Change and record nothing, and tell what would be done.

    Returns:
        One for each thing that was due.

    Raises:
        Unreachable: When another call is at work.
    """
    evidence = evidence_of(plan.name)
    work = _Work(plan, evidence, dry_run, now or datetime.now(UTC))
    if dry_run:
        return list(work.all(what, conninfo))
    with locked(evidence.folder / ".lock", seconds=1):
        return list(work.all(what, conninfo))


@dataclass
class _Run:
    """A run, as its evidence tells."""

    evidence: Evidence
    events: list[Event]

    @property
    def name(self) -> str:
        return self.evidence.folder.name

    def last(self, kind: str) -> Event | None:
        return next((event for event in reversed(self.events) if event["event"] == kind), None)

    @property
    def run_id(self) -> str:
        return str((self.last("run.opened") or {})["run_id"])


@dataclass
class _Work:
    """One call."""

    plan: Plan
    evidence: Evidence
    dry_run: bool
    now: datetime
    gone: set[str] = field(default_factory=set)

    def all(self, what: Kind, conninfo: Callable[[], str] | None) -> Iterator[Deed]:
        runs = self._runs()
        for run in runs:
            try:
                if what == "archive":
                    yield from self._archive(run)
                elif what == "remove":
                    yield from self._remove(run, runs)
                else:
                    yield from self._drop(run, conninfo)
            except (CutoverError, OSError, psycopg.Error) as error:
                said = target_session.primary_message(error) if isinstance(error, psycopg.Error) else str(error)
                yield Deed(what, run.name, "what it left", False, said, failed=True)

    def _runs(self) -> list[_Run]:
        """The cutovers that left whole evidence, oldest first; of what is damaged nothing is touched."""
        folder = evidence_root() / self.plan.name
        found = []
        for item in sorted(folder.iterdir()) if folder.is_dir() else []:
            if item.is_symlink() or not (item / EVENTS).is_file():
                continue
            try:
                events = Evidence(item).events()
            except CannotCheck as error:
                log.warning("nothing of it is touched: %s", error)
                continue
            if any(event["event"] == "run.opened" for event in events):
                found.append(_Run(Evidence(item), events))
        return sorted(found, key=lambda run: str(run.events[0]["time"]))

    def _older(self, moment: str, days: float) -> bool:
        return self.now - datetime.fromisoformat(moment) >= timedelta(days=days)

    # --- what speaks for keeping it -------------------------------------------------------------------------------------

    def _kept_because(self, run: _Run) -> str:
        """Why nothing of the run may go yet; empty when it may."""
        sealed = sealing(run.events)
        if sealed is None:
            return "its run is open"
        outcome = sealed.get("outcome")
        if outcome == "failed":
            return "the way back of its run is not complete"
        if outcome in ("rolled_back", "released") and not any(
            event["event"] == INCIDENT_CLOSED and event["seq"] > sealed["seq"] for event in run.events
        ):
            return "the incident of its run is not closed"
        if outcome == "live":
            return self._live_because(run, sealed)
        return ""

    def _live_because(self, run: _Run, sealed: Event) -> str:
        watched = aftercare_record.evidence_of(self.plan.name, run.run_id)
        if watched.exists and not aftercare_record.is_over(watched):
            opened = watched.last(aftercare_record.OPENED)
            if opened is None or self.now < aftercare_record.end_of(opened) + _AFTER_AFTERCARE:
                return "its aftercare is not over"
        due = datetime.fromisoformat(sealed["time"]) + timedelta(minutes=self.plan.aftercare.minutes)
        if not watched.exists and self.plan.aftercare.enabled and self.now < due:
            return "the time of its aftercare is not over"
        held = lease.read(self.plan.name)
        if held is not None and _is_going_back(held, run):
            return "somebody is rolling it back"
        return ""

    def _still(self, run: _Run, held: lease.Lease | None) -> str:
        """The same, asked anew while nobody can take the lease."""
        newest = _Run(run.evidence, run.evidence.events())
        if held is not None and _is_going_back(held, newest) and (sealing(newest.events) or {}).get("outcome") == "live":
            return "somebody is rolling it back"
        return self._kept_because(newest)

    # --- archive --------------------------------------------------------------------------------------------------------

    def _archive(self, run: _Run) -> Iterator[Deed]:
        taken = run.last("backup")
        if taken is None or not self._older(taken["taken_at"], self.plan.retention.archive_days):
            return
        if removed(self.plan.name, run.name) is not None:
            return
        copies = [(Path(taken[key]), str(taken["sha256"])) for key in ("file", "second_file") if taken.get(key)]
        copies += _decided(run)
        if not any(_lies_there(file) for file, _ in copies):
            return
        because = self._kept_because(run)
        for file, sha256 in copies:
            if not _lies_there(file):
                continue
            problem = because or _foreign(file, sha256)
            if problem:
                yield Deed("archive", run.name, str(file), False, problem, failed=not because)
            elif self.dry_run:
                yield Deed("archive", run.name, str(file), True)
            else:
                yield self._compress(run, file, sha256)

    def _compress(self, run: _Run, file: Path, sha256: str) -> Deed:
        to = backup_archive.archive_of(file)
        if os.path.lexists(to):  # of a call that was killed, and whole; anything else is not ours
            if not _is_plain(to) or _digest_or_none(to) != sha256:
                return Deed("archive", run.name, str(file), False, f"{to.name} is there and is not its archive", failed=True)
        else:
            files.require_space({file.parent: file.stat().st_size})
            backup_archive.compress(file, sha256)
        _say_where(file, to)
        with lease.unchanged(self.plan.name) as held:
            because = self._still(run, held)
            if because:
                return Deed("archive", run.name, str(file), False, because)
            self.evidence.append(ARCHIVED, run=run.name, file=str(file), archive=str(to), sha256=sha256)
            file.unlink()
        sync_folder(file.parent)
        return Deed("archive", run.name, str(file), True)

    # --- remove ---------------------------------------------------------------------------------------------------------

    def _remove(self, run: _Run, runs: list[_Run]) -> Iterator[Deed]:
        taken = run.last("backup")
        if taken is None or not self._older(taken["taken_at"], self.plan.retention.backup_days):
            return
        event = removed(self.plan.name, run.name)
        if event is not None and event["event"] == REMOVED:
            return
        what = str(taken["file"])
        if event is None:
            because = self._kept_because(run)
            damaged = not because and not _has_backup(run)
            because = because or ("no copy of it is what was recorded" if damaged else self._only_one(run, runs))
            if because or self.dry_run:
                yield Deed("remove", run.name, what, not because, because, failed=damaged)
                if not because:
                    self.gone.add(run.name)
                return
            with lease.unchanged(self.plan.name) as held:
                because = self._still(run, held)
                if because:
                    yield Deed("remove", run.name, what, False, because)
                    return
                self.evidence.append(REMOVING, run=run.name, sha256=taken["sha256"], bytes=taken["bytes"])
        elif self.dry_run:
            yield Deed("remove", run.name, what, True)
            return
        gone, left = self._unlink(run, taken)
        self.gone.add(run.name)
        self.evidence.append(REMOVED, run=run.name, files=gone, left=left)
        yield Deed("remove", run.name, what, True)
        for path, why in left.items():
            yield Deed("remove", run.name, path, False, why, failed=True)

    def _only_one(self, run: _Run, runs: list[_Run]) -> str:
        """Why the backup is needed still: no other one can be proven now."""
        for other in reversed(runs):
            if other.name == run.name or other.name in self.gone or removed(self.plan.name, other.name) is not None:
                continue
            if _has_backup(other) or _has_dump(self.plan.name, other):
                return ""
        return "" if _has_dump(self.plan.name, run) else "it is the only valid backup"

    def _unlink(self, run: _Run, taken: Event) -> tuple[list[str], dict[str, str]]:
        """Remove what is the run's and what was recorded: data first, manifests last. Returns what went and what stays."""
        gone: list[str] = []
        left: dict[str, str] = {}

        def away(path: Path, ours: Callable[[Path], str]) -> None:
            if not os.path.lexists(path):
                return
            problem = ours(path)
            if problem:
                left[str(path)] = problem
                return
            path.unlink()
            sync_folder(path.parent)
            gone.append(str(path))

        sha256 = str(taken["sha256"])
        copies = [Path(taken[key]) for key in ("file", "second_file") if taken.get(key)]
        for file, content in [*((file, sha256) for file in copies), *_decided(run)]:
            away(file, lambda path, content=content: _foreign(path, content))  # type: ignore[misc]
            away(backup_archive.archive_of(file), lambda path, content=content: _foreign_archive(path, content))  # type: ignore[misc]
            away(digests.beside(file), _foreign_json)
        for folder in extras.folders(self._frozen(run), run.run_id):
            self._unlink_extras(folder, run, away, left)
        for file in copies:
            away(backup.manifest_of(file), lambda path: _foreign_manifest(path, run))
        return gone, left

    def _unlink_extras(
        self, folder: Path, run: _Run, away: Callable[[Path, Callable[[Path], str]], None], left: dict[str, str]
    ) -> None:
        if not folder.is_dir() or folder.is_symlink():
            if os.path.lexists(folder):
                left[str(folder)] = "it is no folder of ours"
            return
        known = _extras_of(folder, run)
        if not any(folder.iterdir()):  # all that was left when an earlier call was killed
            folder.rmdir()
            sync_folder(folder.parent)
            return
        if known is None:
            left[str(folder)] = "its manifest is not this run's, or cannot be read"
            return
        for name, sha256 in known.items():
            away(folder / name, lambda path, content=sha256: _foreign(path, content))  # type: ignore[misc]
        if {item.name for item in folder.iterdir()} <= {extras.MANIFEST}:
            away(folder / extras.MANIFEST, _foreign_json)
            folder.rmdir()
            sync_folder(folder.parent)
        else:
            left[str(folder)] = f"it holds what no run recorded: {', '.join(sorted(item.name for item in folder.iterdir()))}"

    def _frozen(self, run: _Run) -> Plan:
        """The plan as the run froze it; today's where that cannot be read."""
        try:
            return Plan.model_validate_json((run.evidence.folder / "plan.json").read_bytes())
        except (OSError, ValueError):
            return self.plan

    # --- kept schemas ---------------------------------------------------------------------------------------------------

    def _drop(self, run: _Run, conninfo: Callable[[], str] | None) -> Iterator[Deed]:
        kept = run.last("target.kept")
        if kept is None or not self._older(kept["time"], self.plan.retention.kept_target_days):
            return
        if self.evidence.exists and self.evidence.last(DROPPED, run=run.name) is not None:
            return
        schema = str(kept["schema"])
        because = self._kept_because(run)
        if not because and (sealing(run.events) or {}).get("outcome") == "live":
            because = "its run is live"
        if because:
            yield Deed("drop", run.name, schema, False, because)
            return
        if schema != target_schema.kept_name(self._frozen(run).target_schema, run.run_id):
            yield Deed("drop", run.name, schema, False, "it has another name than kept schemas have", failed=True)
            return
        if conninfo is None:
            yield Deed("drop", run.name, schema, False, "nothing says how to log in to the target", failed=True)
            return
        with target_session.session(conninfo(), "pg_catalog") as connection:
            there = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone() is not None
            if there and not self.dry_run:
                self.evidence.append(DROPPING, run=run.name, schema=schema, rows=kept.get("rows"))
                with connection.transaction():
                    drop.drop_objects(connection, schema, sql_files.objects(connection, schema))
                    connection.execute(sql.SQL("DROP SCHEMA {} RESTRICT").format(sql.Identifier(schema)))
        if not self.dry_run:
            self.evidence.append(DROPPED, run=run.name, schema=schema)
        if there:
            yield Deed("drop", run.name, schema, True)


def _is_going_back(held: lease.Lease, run: _Run) -> bool:
    """Whether somebody else than the cutover itself holds its lease."""
    opened = run.last("run.opened") or {}
    return held.subject == run.run_id and held.holder != f"{opened.get('dag_id')}/{run.run_id}"


# --- what is ours -------------------------------------------------------------------------------------------------------


def _lies_there(path: Path) -> bool:
    return os.path.lexists(path)


def _is_plain(path: Path) -> bool:
    """Whether it is a regular file, itself and in the place that was recorded, by no symbolic link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and files.real(path.parent) == path.parent
    except OSError:
        return False


def _foreign(path: Path, sha256: str) -> str:
    """Why a file is not what was recorded; empty where it is."""
    if not _is_plain(path):
        return "it is a link, or no regular file"
    try:
        found = files.digest(path)
    except CannotCheck as error:
        return str(error)
    return "" if found == sha256 else "its hash is not the one that was recorded"


def _digest_or_none(archive: Path) -> str | None:
    try:
        return backup_archive.digest(archive)
    except CannotCheck:
        return None


def _foreign_archive(path: Path, sha256: str) -> str:
    if not _is_plain(path):
        return "it is a link, or no regular file"
    return "" if _digest_or_none(path) == sha256 else "it is not the archive of this backup"


def _foreign_json(path: Path) -> str:
    return "" if _is_plain(path) else "it is a link, or no regular file"


def _foreign_manifest(path: Path, run: _Run) -> str:
    if not _is_plain(path):
        return "it is a link, or no regular file"
    try:
        return "" if backup.load(path).run_id == run.run_id else "it is the manifest of another run"
    except CannotCheck as error:
        return error.message


def _decided(run: _Run) -> list[tuple[Path, str]]:
    """The clone of the backup in which the plan's decisions were carried out, where there is one."""
    event, taken = run.last("snapshot"), run.last("backup")
    decided: Mapping[str, Any] = (event or {}).get("decided") or {}
    file, sha256 = decided.get("file"), decided.get("sha256")
    if not file or not sha256 or taken is None or str(file) in (taken["file"], taken.get("second_file")):
        return []
    return [(Path(str(file)), str(sha256))]


def _extras_of(folder: Path, run: _Run) -> dict[str, str] | None:
    """File name → SHA-256 of what the run kept there; None where the manifest is not this run's."""
    try:
        data = json.loads((folder / extras.MANIFEST).read_bytes())
        if data["run_id"] != run.run_id:
            return None
        return {Path(item["file"]).name: str(item["sha256"]) for item in data["extras"] if item["file"] is not None}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _manifest(run: _Run) -> Manifest | None:
    taken = run.last("backup")
    if taken is None:
        return None
    try:
        return backup.load(*(Path(taken[key]) for key in ("manifest", "second_manifest") if taken.get(key)))
    except CannotCheck:
        return None


def _has_backup(run: _Run) -> bool:
    """Whether one copy of the run's backup, or one archive of it, is whole now."""
    manifest = _manifest(run)
    if manifest is None:
        return False
    copies = (path for path in manifest.copies if _is_plain(path))
    if any(not _foreign(path, manifest.sha256) for path in copies):
        return True
    return any(not _foreign_archive(path, manifest.sha256) for path in manifest.archives)


def _has_dump(plan: str, run: _Run) -> bool:
    """Whether the run is live, and its first backup of PostgreSQL, which was proven, is there as it was."""
    watched = aftercare_record.evidence_of(plan, run.run_id)
    if not aftercare_record.is_live(run.evidence) or not watched.exists:
        return False
    event = watched.last(aftercare_record.BACKUP)
    dump = (event or {}).get("dump") or {}
    return bool(dump.get("proven")) and not _foreign(Path(dump["file"]), dump["sha256"])


def _say_where(file: Path, archive: Path) -> None:
    """Put the archive into the manifest beside the file, where that is this backup's, and into the other copy's."""
    beside = backup.manifest_of(file)
    if not _is_plain(beside):
        return
    manifest = backup.load(beside)
    if file == manifest.file:
        said = replace(manifest, archive=archive)
    elif file == manifest.second_file:
        said = replace(manifest, second_archive=archive)
    else:
        return
    for path in {backup.manifest_of(copy) for copy in manifest.copies}:
        if _is_plain(path) and backup.load(path).sha256 == manifest.sha256:
            write_atomically(path, said.to_json().encode(), 0o600)
