"""Disks that are full, files that others write to, backups that are damaged, content that is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import sql

from examples.ward_ops.local_site import DATABASE
from include.cutover.evidence import second_place
from include.cutover.evidence.record import bring_back
from tests.faults import inject
from tests.faults.matrix import LIVE, RELEASED, RESTORED, UNTOUCHED, cell
from tests.faults.site import FaultSite, until
from tests.faults.trial import Trial
from tests.support.full_volume import LITTLE_LOG, FullVolume
from tests.support.guard import past_guard
from tests.support.patience import RUN_SECONDS

# ---- 5: disks --------------------------------------------------------------------------------------------------------


def disk(trial: Trial, place: Path, megabytes: int) -> None:
    """A small disk there until the cell is over."""
    small = inject.small_disk(place, megabytes)
    small.__enter__()
    trial.afterwards(lambda: small.__exit__(None, None, None))


def small_tablespace(trial: Trial, megabytes: int) -> Path:
    """Let the target's database lie on a small disk, where its tables but not its log are."""
    site, place = trial.site, trial.folder / "tablespace"
    disk(trial, place, megabytes)
    (place / "data").mkdir(mode=0o777)
    if os.geteuid() == 0:  # the server then runs as nobody
        shutil.chown(place / "data", "nobody")
    with psycopg.connect(site.administrator("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE TABLESPACE small LOCATION {}").format(str(place / "data")))
        connection.execute(f"ALTER DATABASE {DATABASE} SET TABLESPACE small".encode())
    trial.afterwards(lambda: leave_tablespace(site))
    return place


def leave_tablespace(site: FaultSite) -> None:
    """The database goes with its disk; the next reset makes it anew."""
    with psycopg.connect(site.administrator("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)".encode())
        connection.execute(b"DROP TABLESPACE small")


@cell(5, "target-disk-full-mended", "target's disk full, room is made before the retry", "copy", LIVE, RESTORED)
def _(trial: Trial) -> None:
    place = small_tablespace(trial, 64)
    with trial.held_at("copy.ping_results.0", "begin") as run_id:
        filler = inject.fill(place)
    trial.wait_for(run_id, "step.end", outcome="error")
    filler.unlink()
    trial.wait(run_id)


@cell(5, "target-disk-full", "target's disk full, and stays so", "copy", RESTORED)
def _(trial: Trial) -> None:
    place = small_tablespace(trial, 64)
    with trial.held_at("copy.ping_results.0", "begin") as run_id:
        filler = inject.fill(place)
    trial.wait(run_id)
    filler.unlink()


def small_volume(trial: Trial, megabytes: int) -> FullVolume:
    """Let everything of the target's server lie on a small disk, its write-ahead log too, until the cell is over."""
    site = trial.site
    data, aside = site.target.folder / "data", site.target.folder / "data-of-the-site"

    def back() -> None:
        site.target.stop()
        small.close()
        data.rmdir()
        aside.rename(data)
        site._start_target()

    site.target.stop()
    site.target.start(LITTLE_LOG)
    with psycopg.connect(site.administrator("postgres"), autocommit=True) as connection:
        connection.execute("CHECKPOINT")  # what earlier cells wrote does not fill the disk
    site.target.stop()
    data.rename(aside)
    small = contextlib.ExitStack()
    trial.afterwards(back)
    small.enter_context(inject.small_disk(data, megabytes))
    subprocess.run(["cp", "-a", f"{aside}/.", str(data)], check=True)
    volume = FullVolume(data, site.target, site._start_target)
    volume.start()
    return volume


@cell(5, "target-volume-full-copy", "the target's write-ahead log cannot grow, its server ends and stays down", "copy",
      RESTORED)  # fmt: skip
def _(trial: Trial) -> None:
    volume = small_volume(trial, 1024)
    with trial.held_at("copy.ping_results.0", "begin") as run_id:
        volume.fill(wal=3_000)
    trial.wait(run_id)
    trial.require(volume.is_down, "the server did not end")
    volume.mend()


@cell(5, "target-volume-full-mended", "the target's write-ahead log cannot grow, its server ends; room is made", "copy",
      LIVE, RESTORED)  # fmt: skip
def _(trial: Trial) -> None:
    volume = small_volume(trial, 1024)
    with trial.held_at("copy.ping_results.0", "begin") as run_id:
        volume.fill(wal=3_000)
    until(lambda: volume.is_down, RUN_SECONDS, "the server has ended")
    volume.mend()
    trial.wait(run_id)


@cell(5, "target-volume-full-rollback", "no byte is free for the target's server after go-live; the lead rolls back",
      "rollback", RESTORED)  # fmt: skip
def _(trial: Trial) -> None:
    volume = small_volume(trial, 1024)
    run_id = trial.cutover()
    trial.wait(run_id)
    volume.fill()
    trial.fault()
    trial.wait(trial.rollback(run_id))
    volume.mend()


@cell(5, "backup-disk-full", "backup's disk full", "take_backup", RELEASED)
def _(trial: Trial) -> None:
    disk(trial, trial.folder / "backups", 64)
    with trial.held_at("take_backup", "begin") as run_id:
        inject.fill(trial.folder / "backups")
    trial.wait(run_id)


@cell(5, "backup-disk-full-before", "backup's disk too small", "preflight", UNTOUCHED)
def _(trial: Trial) -> None:
    disk(trial, trial.folder / "backups", 1)
    trial.fault()
    trial.wait(trial.cutover())


@cell(5, "evidence-disk-full", "evidence's disk full; room is made and the lead rolls back", "copy", RESTORED)
def _(trial: Trial) -> None:
    disk(trial, trial.site.evidence, 64)
    with trial.held_at("copy.ping_results.0", "begin") as run_id:
        filler = inject.fill(trial.site.evidence)
    with contextlib.suppress(TimeoutError):
        trial.wait(run_id, 60)
    filler.unlink()
    trial.wait(trial.rollback())
    trial.wait(run_id)
    # The disk goes when the cell is over; the archive of the cell is made before.


@cell(5, "log-disk-full", "disk of the tasks' logs full: no task can start; room is made and the lead rolls back", "copy",
      LIVE, RESTORED)  # fmt: skip
def _(trial: Trial) -> None:
    logs = trial.site.stack.folder / "logs" / "tasks"
    disk(trial, logs, 16)
    with trial.held_at("copy.ping_results.0", "begin") as run_id:
        filler = inject.fill(logs)
    trial.wait(run_id)
    filler.unlink()
    if not trial.evidence(run_id).sealed:
        trial.wait(trial.rollback())


@cell(25, "evidence-read-only", "the evidence's volume becomes read-only", "copy", RESTORED)
def _(trial: Trial) -> None:
    volume = contextlib.ExitStack()
    trial.afterwards(volume.close)
    with trial.held_at("copy.ping_results.0", "begin") as run_id:
        volume.enter_context(inject.read_only(trial.site.evidence))
    trial.wait(run_id)
    trial.require(trial.evidence(run_id).last("evidence.moved") is not None, "the evidence was not moved")
    volume.close()
    trial.require(bool(bring_back()), "the evidence was not brought back")
    shutil.rmtree(second_place.of(trial.site.evidence))


# ---- 6: others at the SQLite file ------------------------------------------------------------------------------------


@cell(6, "rogue-writes-all-the-time", "a process writes whenever it can", "from before the run to its end", LIVE, RELEASED)
def _(trial: Trial) -> None:
    rogue = inject.RogueWriter(trial.site.ward_ops.database, trial.folder)
    trial.afterwards(rogue.stop)
    trial.fault()
    with trial.held_at("take_backup", "end") as run_id:
        through = rogue.count()
    trial.wait(run_id)
    trial.require(through > 0, "the rogue never wrote, so nothing was tried")
    trial.require(rogue.count() == through, "the rogue wrote after the fence")
    rogue.stop()
    pristine_language(trial, "rogue")


def pristine_language(trial: Trial, language: str) -> None:
    """The rogue's own column is not what the judge looks for: what it wrote is the source's content."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(trial.site.pristine / "ward_ops.db")) as source, source:
        before = source.execute("SELECT language FROM users WHERE id = (SELECT min(id) FROM users)").fetchone()[0]
        source.execute("UPDATE users SET language = ? WHERE id = (SELECT min(id) FROM users)", [language])

    def back() -> None:
        with contextlib.closing(sqlite3.connect(trial.site.pristine / "ward_ops.db")) as source, source:
            source.execute("UPDATE users SET language = ? WHERE id = (SELECT min(id) FROM users)", [before])

    trial.afterwards(back)


@cell(6, "lock-before-fence", "a process holds a write lock", "fence_source", RELEASED)
def _(trial: Trial) -> None:
    with trial.held_at("fence_source", "begin") as run_id:
        holder = inject.Holder(trial.site.ward_ops.database, "lock")
        trial.afterwards(holder.stop)
    trial.wait_for(run_id, "step.end", step="fence_source")
    holder.stop()
    trial.wait(run_id)


@cell(6, "open-before-fence", "a process keeps the file open", "fence_source", RELEASED)
def _(trial: Trial) -> None:
    with trial.held_at("fence_source", "begin") as run_id:
        holder = inject.Holder(trial.site.ward_ops.database, "open")
        trial.afterwards(holder.stop)
    trial.wait(run_id)


@cell(6, "write-after-fence", "a process tries to write", "copy", LIVE)
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        trial.require(
            not inject.late_write(trial.site.ward_ops.database, through_the_fence=False), "it got through the fence"
        )
    trial.wait(run_id)


@cell(6, "broken-fence", "somebody breaks the fence and writes; the file is sound and has more than the backup", "copy",
      RELEASED)  # fmt: skip
def _(trial: Trial) -> None:
    with trial.held_at("copy.ping_results.0", "middle") as run_id:
        rogue = inject.late_rows(trial.site.ward_ops.database)
    trial.wait(run_id)
    trial.require(inject.has_late_rows(trial.site.ward_ops.database, rogue), "the rogue's rows are not in the live file")
    document = trial.evidence(run_id).folder / "incident.md"
    lines = document.read_text().splitlines() if document.exists() else []
    about = [line for line in lines if "| copy." not in line and "| apply_" not in line]  # the timeline names each table
    for table in ("users", "ping_results"):
        trial.require(
            any(table in line for line in about), f"the incident document does not name the rogue's rows of {table}"
        )
    pristine_language(trial, "late")


@cell(6, "write-after-go-live", "a process tries to write to SQLite", "after go-live", LIVE)
def _(trial: Trial) -> None:
    trial.wait(trial.cutover())
    trial.fault()
    trial.require(not inject.late_write(trial.site.ward_ops.database, through_the_fence=False), "it got through the fence")


# ---- 7: the backup ---------------------------------------------------------------------------------------------------


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flip": inject.flip_bit,
    "truncate": inject.truncate,
    "remove": Path.unlink,
}


def damage_backup(how: str, copies: str) -> None:
    """The backup is damaged after it was taken and before it is restored."""

    words = {"flip": "one bit flipped", "truncate": "truncated", "remove": "removed"}[how]
    which = "first copy" if copies == "first" else "both copies"
    # Without an intact copy, the fence is lifted from the source: it is equal to the backup by its hash.
    wanted = RESTORED if copies == "first" else RELEASED
    row = 25 if how == "remove" else 7

    @cell(row, f"backup-{how}-{copies}", words, f"before restore_source, {which}", wanted)
    def _(trial: Trial) -> None:
        run_id = trial.cutover()
        trial.wait(run_id)
        backup = trial.evidence(run_id).last("backup")
        assert backup is not None
        first, second = Path(backup["file"]), next((trial.folder / "second_copy").rglob("*.bak"))
        for path in [first] if copies == "first" else [first, second]:
            DAMAGE[how](path)
        trial.fault()
        trial.require(trial.wait(trial.rollback()) == "success", "the rollback is not green")


for _how, _copies in (("flip", "first"), ("flip", "both"), ("truncate", "first"), ("truncate", "both"), ("remove", "both")):
    damage_backup(_how, _copies)


@cell(7, "backup-flip-before-copy", "one bit flipped in the first copy", "restore_test, copy, verify", RESTORED)
def _(trial: Trial) -> None:
    with trial.held_at("take_backup", "after") as run_id:
        backup = trial.evidence(run_id).last("backup")
        assert backup is not None
        inject.flip_bit(Path(backup["file"]), 0.7)
    trial.wait(run_id)


# ---- 18: wrong content -----------------------------------------------------------------------------------------------

DOUBLED = (
    "device_ip, device_name, packets_sent, packets_received, packet_loss_percent, min_rtt_ms, avg_rtt_ms, max_rtt_ms,"
    ' is_reachable, "timestamp"'
)
CORRUPTIONS = {
    "one-bit": (
        *("one bit", "users", "1"),
        "UPDATE users SET email = chr(ascii(email) # 1) || substr(email, 2) WHERE id = 1",
    ),
    "swapped": (
        *("the values of two rows swapped", "ping_results", "20"),
        "UPDATE ping_results AS one SET device_ip = two.device_ip, device_name = two.device_name"
        " FROM ping_results AS two WHERE (one.id, two.id) IN ((20, 21), (21, 20))",
    ),
    "last-digit": (
        *("a number's last digit", "georgian_cities", "7"),
        "UPDATE georgian_cities SET latitude = latitude + 0.000001 WHERE id = 7",
    ),
    "hour": (
        *("a time shifted by an hour", "ping_results", "777"),
        'UPDATE ping_results SET "timestamp" = "timestamp" + interval \'1 hour\' WHERE id = 777',
    ),
    "lost-and-doubled": (
        *("a row lost and another doubled", "ping_results", "900"),
        f"UPDATE ping_results SET ({DOUBLED}) = (SELECT {DOUBLED} FROM ping_results WHERE id = 950) WHERE id = 900",
    ),
    "sequence": (
        *("a sequence set back", "ping_results", ""),
        "SELECT setval(pg_get_serial_sequence('ping_results', 'id'), 5)",
    ),
}


def corrupt(name: str) -> None:
    """The content is spoilt after it was copied and before it is checked."""
    words, table, key, statement = CORRUPTIONS[name]

    @cell(18, f"corruption-{name}", words, "after finish_target", RESTORED)
    def _(trial: Trial) -> None:
        rules = [trial.hold(step, "end") for step in ("analyze_tables", "set_sequences")]
        run_id = trial.cutover()
        for rule in rules:
            trial.held(rule)
        time.sleep(0.2)
        with trial.target() as connection:
            past_guard(connection)
            done = connection.execute(statement.encode())
            trial.require(done.rowcount > 0, "nothing was spoilt, so nothing was tried")
        trial.fault()
        for rule in rules:
            trial.release(rule)
        trial.wait(run_id)
        failed = [
            check
            for event in trial.evidence(run_id).events()
            if event["event"] == "step.end"
            for check in event.get("checks") or []
            if check["outcome"] == "failed"
        ]
        text = json.dumps(failed)
        trial.require(table in text, f"no failed check names the table {table}")
        trial.require(not key or any(key in json.dumps(check) for check in failed), f"no failed check names the key {key}")


for _name in CORRUPTIONS:
    corrupt(_name)


# ---- 23: other names of the SQLite file --------------------------------------------------------------------------------

IN_THE_LOG = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = wal")
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("CREATE TABLE in_the_log (id INTEGER PRIMARY KEY)")
for number in range(50):
    connection.execute("INSERT INTO in_the_log DEFAULT VALUES")
os.kill(os.getpid(), signal.SIGKILL)
"""


@cell(23, "alias-wal", "50 committed rows of a killed process in the log of a hard link", "fence_source", RELEASED)
def _(trial: Trial) -> None:
    database = trial.site.ward_ops.database
    folder = trial.folder / "alias"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    alias, log = folder / "alias.db", folder / "alias.db-wal"
    trial.afterwards(lambda: shutil.rmtree(folder))
    with trial.held_at("fence_source", "begin") as run_id:
        alias.hardlink_to(database)
        subprocess.run([sys.executable, "-c", IN_THE_LOG, str(alias)], check=False)
        content = log.read_bytes()
        trial.require(len(content) > 0, "nothing lies in the log, so nothing was tried")
    trial.wait(run_id)
    refused = trial.evidence(run_id).step("fence_source")
    trial.require(refused is not None and log.name in json.dumps(refused), "the fence did not name the log")
    trial.require(log.read_bytes() == content, "the log was changed")
