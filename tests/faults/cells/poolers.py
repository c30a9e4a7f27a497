"""A pooler between the pipeline and PostgreSQL, and a synchronous standby that never confirms."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from examples.ward_ops.local_site import DATABASE, PIPELINE_ROLE
from tests.faults.matrix import LIVE, RESTORED, UNTOUCHED, cell
from tests.faults.site import FaultSite
from tests.faults.trial import NotTried, Trial
from tests.support.pooler import Mode, pgbouncer

SESSIONS = 30
STANDBY = "faults_absent"
_PATH = "/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin"


@contextlib.contextmanager
def pooled_target(site: FaultSite, mode: Mode) -> Iterator[None]:
    """Let the pipeline reach PostgreSQL through PgBouncer; the application keeps its direct way.

    Raises:
        NotTried: When PgBouncer is not installed.
    """
    if shutil.which("pgbouncer", path=_PATH) is None:
        raise NotTried("PgBouncer is not installed: apt-get install pgbouncer")
    direct = psycopg.conninfo.make_conninfo(
        host="127.0.0.1", port=site.target.port, dbname=DATABASE, user=PIPELINE_ROLE,
        password=site._settings["pipeline_password"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, pgbouncer(direct, mode, Path(folder), SESSIONS) as behind:
        port = psycopg.conninfo.conninfo_to_dict(behind)["port"]
        before, site.to_target._target = site.to_target._target, int(str(port))
        try:
            yield
        finally:
            site.to_target._target = before


@cell(24, "pooler-transaction-mode", "PgBouncer in transaction mode before the target", "preflight", UNTOUCHED)
def _(trial: Trial) -> None:
    with pooled_target(trial.site, "transaction"):
        trial.fault()
        run_id = trial.cutover()
        trial.wait(run_id)
    said = str((trial.evidence(run_id).step("check_target") or {}).get("checks"))
    trial.require("a pooler in transaction mode" in said, f"preflight does not name the pooler: {said[:300]}")


@cell(24, "pooler-session-mode", "PgBouncer in session mode before the target", "from the start", LIVE)
def _(trial: Trial) -> None:
    with pooled_target(trial.site, "session"):
        trial.fault()
        trial.wait(trial.cutover())


@contextlib.contextmanager
def standby_missing(site: FaultSite) -> Iterator[None]:
    """Let every commit on the target wait for a standby that does not exist; a commit that waits ends after the block."""

    def set_names(names: str) -> None:
        with psycopg.connect(site.administrator(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'".encode())
            connection.execute("SELECT pg_reload_conf()")

    set_names(STANDBY)
    try:
        yield
    finally:
        set_names("")


@cell(24, "standby-missing-before", "a synchronous standby is missing", "preflight", UNTOUCHED)
def _(trial: Trial) -> None:
    with standby_missing(trial.site):
        trial.fault()
        run_id = trial.cutover()
        trial.wait(run_id)
    said = str((trial.evidence(run_id).step("check_target") or {}).get("checks"))
    trial.require("a commit waits for a standby" in said, f"preflight does not name the standby: {said[:300]}")


@cell(24, "standby-missing-copy", "a synchronous standby is missing from then on", "copy", RESTORED)
def _(trial: Trial) -> None:
    trial.rule("copy.*", "begin", "patience", times=1000, seconds=10)
    with contextlib.ExitStack() as stack:
        with trial.held_at("copy.ping_results.0", "middle") as run_id:
            stack.enter_context(standby_missing(trial.site))
        trial.wait(run_id)
    ends = [event for event in trial.evidence(run_id).events() if event["event"] == "step.end"]
    said = " ".join(str(event.get("summary")) for event in ends)
    trial.require(STANDBY in said, f"no step says that a commit waits for {STANDBY}")
