"""``assess`` against real files: exit status, what it says, and that nothing anywhere is changed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import psycopg
import pytest

from examples.ward_ops.generate import generate
from include.cutover.assessment.findings import Assessment
from include.cutover.cli import assess as assess_command
from include.cutover.cli.assess import AssessOptions
from include.cutover.places import ROOT
from include.cutover.stack.postgres import Cluster
from tests.support.assessing import as_somebody_else

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def ward_ops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated database of Ward OPS, small."""
    path = tmp_path_factory.mktemp("ward_ops") / "ward_ops.db"
    generate(path, pings=2_000)
    return path


@pytest.fixture
def conninfo(cluster: Cluster) -> str:
    """The server's own database: an assessment leaves nothing behind, so no test needs one to itself."""
    return cluster.conninfo()


@pytest.fixture
def run(conninfo: str) -> Run:
    """The command against the tests' server: exit status, what it told, what kept it from assessing."""

    def told(file: Path, **options: object) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        status = assess_command.run(AssessOptions("ward_ops", file, conninfo, **options), out=out, err=err)  # type: ignore[arg-type]
        return status, out.getvalue(), err.getvalue()

    return told


def digests(path: Path) -> dict[str, str]:
    """Content of the database and of what lies beside it, but for -shm, which every reader of a WAL database writes."""
    return {
        item.name: hashlib.sha256(item.read_bytes()).hexdigest()
        for item in path.parent.iterdir()
        if not item.name.endswith("-shm")
    }


def tables_of(conninfo: str) -> list[tuple[str, str]]:
    with psycopg.connect(conninfo) as connection:
        query = "SELECT schemaname, tablename FROM pg_tables UNION SELECT nspname, '' FROM pg_namespace ORDER BY 1, 2"
        return connection.execute(query).fetchall()


def test_ward_ops_is_clean(run: Run, ward_ops: Path, conninfo: str) -> None:
    before, target_before = digests(ward_ops), tables_of(conninfo)
    status, told, err = run(ward_ops)
    assert (status, err) == (0, "")
    assert "nothing blocks; 0 decided by the plan" in told and "rows in 25 tables" in told
    assert digests(ward_ops) == before and tables_of(conninfo) == target_before


def test_orphans_block_with_their_keys(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "ward_ops.db"
    generate(path, pings=0, orphans=3)
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        keys = [
            str(key)
            for (key,) in connection.execute(
                "SELECT id FROM snmp_credentials WHERE device_id NOT IN (SELECT id FROM standalone_devices) ORDER BY rowid"
            )
        ]
    status, told, _ = run(path)
    assert status == 1 and "1 finding blocks" in told
    assert "snmp_credentials.device_id" in told and all(f"id={key}" in told for key in keys) and len(keys) == 3
    status, told, _ = run(path, as_json=True)
    (finding,) = Assessment.from_json(told).blocks
    assert status == 1 and (finding.code, finding.rows) == ("orphans", 3)
    assert json.loads(told)["blocks"] == 1


def test_without_a_target_a_local_one_is_started_and_removed(ward_ops: Path, tmp_path: Path) -> None:
    before = digests(ward_ops)
    script = (
        "import sys; from pathlib import Path; from include.cutover.cli.assess import AssessOptions, run;"
        "sys.exit(run(AssessOptions('ward_ops', Path(sys.argv[1]))))"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o755)
    done = subprocess.run(
        [sys.executable, "-c", script, str(ward_ops)], cwd=ROOT, env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert list(scratch.iterdir()) == [] and digests(ward_ops) == before


def test_a_signal_ends_it_and_nothing_remains(ward_ops: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from include.cutover.cli import assess as assess_command;"
        "assess_command.assess_decided = lambda *a, **k: (print('assessing', flush=True), __import__('time').sleep(60));"
        "sys.exit(assess_command.run(assess_command.AssessOptions('ward_ops', Path(sys.argv[1]))))"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir(mode=0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(ward_ops)], cwd=ROOT, env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "assessing\n"
    assert list(scratch.iterdir())
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert list(scratch.iterdir()) == []


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[tuple[Path, apsw.Connection]]:
    """An application that has its WAL database open, with commits that are in the log alone."""
    path = tmp_path / "live.db"
    generate(path, pings=10)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    connection.execute("INSERT INTO users (username, email, hashed_password, role) VALUES ('x', 'x@x', 'x', 'GUEST')")
    yield path, connection
    connection.close(True)


def test_a_live_wal_database_is_assessed_and_not_changed(run: Run, writer: tuple[Path, apsw.Connection]) -> None:
    path, connection = writer
    before = digests(path)
    status, told, _ = run(path)
    assert status == 1 and "users.role" in told and "users_role_check" in told
    assert digests(path) == before
    connection.execute("UPDATE users SET role = 'ADMIN' WHERE role = 'GUEST'")
    assert run(path)[0] == 0


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_source_on_read_only_media_is_assessed(run: Run, mode: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "ward_ops.db"
        generate(path, pings=10)
        with contextlib.closing(apsw.Connection(str(path))) as connection:
            connection.execute(f"PRAGMA journal_mode = {mode}").fetchall()
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.execute(
                "INSERT INTO users (username, email, hashed_password, role) VALUES ('x', 'x@x', 'x', 'GUEST')"
            )
        for item in folder.iterdir():
            item.chmod(0o444)
        folder.chmod(0o555)
        before = digests(path)
        with as_somebody_else():
            status, told, err = run(path)
        assert (status, err) == (1, "") and "users_role_check" in told
        assert digests(path) == before


# --- the report -----------------------------------------------------------------------------------------------------------


def test_the_report_is_one_page_and_escaped(run: Run, tmp_path: Path) -> None:
    path, page = tmp_path / "ward_ops.db", tmp_path / "reports" / "assessment.html"
    generate(path, pings=0)
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute('CREATE TABLE "<script>alert(1)</script>" (id INTEGER)')
        connection.execute("UPDATE standalone_devices SET description = '<img src=x>' || char(0) WHERE rowid = 1")
        connection.execute("UPDATE users SET hashed_password = 'hunter2' || char(0)")
    status, told, _ = run(path, html=page)
    text = page.read_text()
    assert status == 1 and "hunter2" not in told + text
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text and "<img" not in text and "&lt;img src=x&gt;" in text
    assert "3 findings block the cutover" in text and "strip_nul: true" in text
    assert 'src="' not in text and "http" not in text


def test_a_report_that_cannot_be_written_is_an_error(run: Run, ward_ops: Path) -> None:
    status, told, err = run(ward_ops, html=ward_ops / "below" / "a.html")
    assert (status, told) == (2, "") and "the report cannot be written" in err


def test_a_full_disk_is_reported_before_cloning(run: Run, ward_ops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file with a hole is as large as it says without taking the room.
    with tempfile.NamedTemporaryFile() as large:
        os.truncate(large.name, 1 << 42)
        with Path(large.name).open("r+b") as file:
            file.write(ward_ops.read_bytes()[:100])
        status, told, err = run(Path(large.name))
    assert (status, told) == (2, "") and "not enough free disk" in err
