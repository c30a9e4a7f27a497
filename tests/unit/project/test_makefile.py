"""The Makefile, the setup and the CI script: what they call, and that an unfinished setup is not taken for finished."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from include.cutover.places import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = MAKEFILE.partition(".PHONY: ")[2].split("\n", 1)[0].split()


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Of a 'make test' that runs this, nothing is to reach the make under test.
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_help_lists_every_target() -> None:
    told = make().stdout
    assert [line.split()[1] for line in told.splitlines() if re.match(r"  make [a-z-]+ {2,}", line)] == TARGETS
    assert {"setup", "demo", "up", "down", "test", "check", "bench", "lock", "clean"} <= set(TARGETS)


@pytest.mark.parametrize("target", [name for name in TARGETS if name not in ("help", "setup", "env", "lock", "clean")])
def test_every_target_sets_up_first(target: str) -> None:
    assert re.search(rf"^{target}: setup ", MAKEFILE, re.MULTILINE)
    assert "scripts/setup.py" in make("--dry-run", target).stdout


def test_the_demo_gets_its_variables() -> None:
    told = make("--dry-run", "demo", "FAIL=orphans", "ORPHANS=3", "THEN=rollback", "PINGS=500", "PORT=8099").stdout
    line = " ".join(told.replace("\\\n", " ").split())
    wanted = '--pings "500" --orphans "3" --fail "orphans" --then "rollback" --port "8099"'
    assert f"examples.ward_ops.demo run {wanted}" in line
    plain = " ".join(make("--dry-run", "demo").stdout.replace("\\\n", " ").split())
    assert plain.endswith('demo run --pings "13179" --orphans "0"')


def test_a_missing_python_is_said() -> None:
    done = make("setup", "PYTHON=python_that_is_not_there")
    assert done.returncode != 0
    assert "there is no python_that_is_not_there" in done.stderr


def test_the_ci_script_runs_check_and_test_from_any_folder() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    lines = script.read_text().splitlines()
    assert lines[-2:] == ["make check", "make test"]


# ---- the setup, on locks without packages -------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.py", folder / "scripts" / "setup.py")
    for lock in ("requirements.txt", "requirements-dev.txt"):
        (folder / lock).write_text("# no package\n")
    uv(folder, 'mkdir -p "$VENV/bin" && ln -sf "$REAL" "$VENV/bin/python" && echo made >> "$COUNT"')
    return folder


def uv(checkout: Path, script: str) -> None:
    """A program of the name uv, first on PATH; ``script`` is what it does when asked for an environment."""
    program = checkout / "path" / "uv"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\n[ "$1" = venv ] || exit 0\n{script}\n')
    program.chmod(0o755)


def setup(checkout: Path, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{checkout / 'path'}:{os.environ['PATH']}",
        "VENV": str(checkout / ".venv"),
        "REAL": sys.executable,
        "COUNT": str(checkout / "count"),
    }
    command = [*before, sys.executable, str(checkout / "scripts" / "setup.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")


def times_made(checkout: Path) -> int:
    return len((checkout / "count").read_text().splitlines())


def test_a_setup_happens_once_until_a_lock_changes(checkout: Path) -> None:
    assert setup(checkout).returncode == 0
    assert setup(checkout).stderr == ""
    assert times_made(checkout) == 1
    (checkout / "requirements-dev.txt").write_text("# another\n")
    assert setup(checkout).returncode == 0
    assert times_made(checkout) == 2


def test_an_interrupted_setup_is_made_again(checkout: Path) -> None:
    uv(checkout, 'mkdir -p "$VENV/bin" && ln -sf "$REAL" "$VENV/bin/python" && echo made >> "$COUNT" && kill -9 $PPID')
    assert setup(checkout).returncode == -9
    assert (checkout / ".venv" / "bin" / "python").exists()
    uv(checkout, 'echo made >> "$COUNT"')
    assert setup(checkout).returncode == 0
    assert times_made(checkout) == 2


def test_of_two_setups_at_once_one_does_the_work(checkout: Path) -> None:
    uv(checkout, 'sleep 0.3; mkdir -p "$VENV/bin" && ln -sf "$REAL" "$VENV/bin/python" && echo made >> "$COUNT"')
    with ThreadPoolExecutor() as pool:
        assert [done.returncode for done in pool.map(lambda _: setup(checkout), range(3))] == [0, 0, 0]
    assert times_made(checkout) == 1


def test_a_uv_that_does_not_work_is_left_aside_for_pip(checkout: Path) -> None:
    uv(checkout, "exit 1")
    (checkout / "path" / "uv").write_text("#!/bin/sh\necho 'uv: command not found' >&2\nexit 127\n")
    done = setup(checkout)
    assert done.returncode == 0, done.stderr
    assert "does not work; pip is used" in done.stderr
    pip = subprocess.run([str(checkout / ".venv" / "bin" / "python"), "-m", "pip", "--version"], check=False)
    assert pip.returncode == 0
    assert setup(checkout).stderr == ""


def test_an_old_python_is_refused_with_a_sentence(checkout: Path) -> None:
    pretend = "import runpy, sys; sys.version_info = (3, 9, 2, 'final', 0); runpy.run_path(sys.argv[1], run_name='__main__')"
    script = str(checkout / "scripts" / "setup.py")
    done = subprocess.run([sys.executable, "-c", pretend, script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "is 3.9.2" in done.stderr
    assert not (checkout / ".venv").exists()


def test_no_lock_names_a_package_index() -> None:
    for lock in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / lock).read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"^--", text, re.MULTILINE)
        assert "://" not in text
