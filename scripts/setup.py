"""Makes .venv from the locked requirements: ``python3 scripts/setup.py``, on a plain Python without any package.

Nothing happens while Python and both locks are those of the last finished setup. One that was interrupted is not taken for
finished, and of several at once one does the work. uv is used where it works, pip where it does not. Bytecode is compiled
here, once: each of Airflow's task processes would otherwise spend seconds on it.

It runs on older Pythons too, far enough to say that they are too old.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

MINIMUM = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "setup-finished"
LOCKS = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]


def say(text: str) -> None:
    """Print one line of progress."""
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


def fingerprint() -> str:
    """Return the environment's ingredients: this Python, the locks, and how this file installs them."""
    digest = hashlib.sha256(repr((sys.version_info[:3], sys.base_prefix, sysconfig.get_platform())).encode())
    for path in [*LOCKS, Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def finished(wanted: str) -> bool:
    """Return True when the last finished setup made exactly this."""
    try:
        return STAMP.read_text().strip() == wanted and PYTHON.exists()
    except OSError:
        return False


def went_well(*command: object) -> bool:
    """Run a command; it tells by itself why it did not go well."""
    try:
        return subprocess.call([str(part) for part in command], cwd=str(ROOT)) == 0
    except OSError:
        return False


def with_uv() -> bool:
    """Make the environment with uv; False where uv is missing or does not work."""
    uv = shutil.which("uv")
    if uv is None:
        return False
    try:
        subprocess.check_output([uv, "--version"], stderr=subprocess.STDOUT)
    except (OSError, subprocess.CalledProcessError):
        say(f"{uv} does not work; pip is used")
        return False
    locks = [part for lock in LOCKS for part in ("-r", lock)]
    if went_well(uv, "venv", "--quiet", "--clear", "--python", sys.executable, VENV) and went_well(
        uv, "pip", "install", "--quiet", "--python", PYTHON, "--compile-bytecode", "--require-hashes", *locks
    ):
        return True
    say("uv did not install everything; pip tries it")
    return False


def with_pip() -> bool:
    """Make the environment with the standard library's venv and pip."""
    shutil.rmtree(str(VENV), ignore_errors=True)
    if not went_well(sys.executable, "-m", "venv", VENV):
        say("this Python cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv")
        return False
    locks = [part for lock in LOCKS for part in ("-r", lock)]
    quiet = ("--quiet", "--disable-pip-version-check", "--no-compile")
    # The pip that comes with Python 3.11 does not take the locks: an extra of a locked package counts there as not pinned.
    if not went_well(PYTHON, "-m", "pip", "install", *quiet, "pip>=26.0"):
        return False
    if not went_well(PYTHON, "-m", "pip", "install", *quiet, "--require-hashes", *locks):
        return False
    packages = subprocess.check_output([str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    # The status says only that some package ships a file for another Python.
    went_well(PYTHON, "-W", "ignore", "-m", "compileall", "-qq", "-j", "0", packages.decode().strip())
    return True


def main() -> int:
    """Exit status 0 when .venv is as the locks say."""
    if sys.version_info[:2] < MINIMUM:
        needed, found = (".".join(map(str, version)) for version in (MINIMUM, sys.version_info[:3]))
        say(f"Python {needed} or newer is needed; {sys.executable} is {found}. Name another: make PYTHON=python3.12")
        return 2
    wanted = fingerprint()
    if finished(wanted):
        return 0
    (ROOT / "var").mkdir(exist_ok=True)
    with (ROOT / "var" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if finished(wanted):
            return 0
        if STAMP.exists():
            STAMP.unlink()
        say("making .venv from the locked requirements; this happens once and takes a few minutes")
        if not (with_uv() or with_pip()):
            say("the environment could not be made; see above")
            return 1
        unfinished = STAMP.with_suffix(".new")
        with unfinished.open("w") as file:
            file.write(wanted + "\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(STAMP)
    say("done")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("interrupted; the next one begins anew")
        sys.exit(130)
