"""A store of secrets behind real programs: set, read back, kept and brought back, and no value where others can see it."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from include.cutover.application import configuration
from include.cutover.application.secret_store import SecretStore
from include.cutover.connections.commands import Local, Ran
from include.cutover.errors import CannotCheck, CutoverError, StepFailed, Unreachable
from include.cutover.plan.application import CommandConfiguration
from tests.support.killing import kill_at_every_step

OLD = "sqlite:////srv/ward_ops/data/ward_ops.db"
NEW = "postgresql+psycopg://ward:s3cret%23 'quoted' \"twice\" $x\u10d0@db:5432/ward_flux"
LIVE = {"DATABASE_URL": NEW, "ALLOW_SQLITE_FALLBACK": "false"}
ROLLED_BACK = {"DATABASE_URL": OLD, "ALLOW_SQLITE_FALLBACK": "true"}
BEFORE = {"DATABASE_URL": OLD, "ALLOW_SQLITE_FALLBACK": "true", "SECRET_KEY": "hunter2"}

# Keeps its values in one file, and what it sees of its surroundings in another.
STORE = dedent("""\
    import base64, json, sys
    from pathlib import Path

    sys.path.insert(0, "")
    folder, form, verb = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    with (folder / "seen").open("a") as seen:
        seen.write(json.dumps([Path("/proc/self/cmdline").read_text(), Path("/proc/self/environ").read_text()]) + "\\n")
    file = folder / "values"
    values = json.loads(file.read_text())
    if verb == "get":
        if form == "dotenv":
            print("".join(f"{key}='{value}'\\n" for key, value in values.items()), end="")
        elif form == "kubernetes":
            data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
            print(json.dumps({"apiVersion": "v1", "kind": "Secret", "data": {**data, "tls.crt": "gIGC"}}))
        else:
            print(json.dumps(values))
    else:
        given = open("/dev/stdin").read()
        (folder / "given").write_text(given)
        if form == "dotenv":
            new = dict(line.split("=", 1) for line in given.splitlines() if "=" in line)
            new = {key: value.strip("'") for key, value in new.items()}
        elif form == "kubernetes":
            new = json.loads(given)["stringData"]
        else:
            new = json.loads(given)
        file.write_text(json.dumps(new if verb == "replace" else {**values, **new}))
        print(given)
""")


class Store:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "store.py").write_text(STORE)
        self.hold(BEFORE)

    def hold(self, values: dict[str, str]) -> None:
        (self.folder / "values").write_text(json.dumps(values))

    def holds(self) -> dict[str, str]:
        held: dict[str, str] = json.loads((self.folder / "values").read_text())
        return held

    def command(self, form: str, verb: str) -> list[str]:
        return [sys.executable, str(self.folder / "store.py"), str(self.folder), form, verb]

    def settings(self, form: str = "json", **changes: Any) -> CommandConfiguration:
        verb = "replace" if changes.get("whole") else "merge"
        given = {
            "kind": "command", "format": form, "set": self.command(form, verb), "get": self.command(form, "get"),
            "live": {"DATABASE_URL": "{application_url}"}, "rolled_back": {"DATABASE_URL": "x"}, "seconds": 10, **changes,
        }  # fmt: skip
        return CommandConfiguration.model_validate(given)

    def store(self, form: str = "json", **changes: Any) -> SecretStore:
        return SecretStore(self.settings(form, **changes), Local())

    def seen(self) -> str:
        return (self.folder / "seen").read_text()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "configuration.before-run.json"


FORMS = pytest.mark.parametrize(
    ("form", "whole"), [("json", False), ("json", True), ("dotenv", False), ("dotenv", True), ("kubernetes", False)]
)


@FORMS
def test_values_are_set_read_back_kept_and_restored(store: Store, kept: Path, form: str, whole: bool) -> None:
    live = {**LIVE, "DATABASE_URL": "postgresql://ward:s3cret@db/x?sslmode=require"} if form == "dotenv" else LIVE
    there = store.store(form, whole=whole)
    assert there.problem(live, ROLLED_BACK) == "" and store.holds() == BEFORE
    there.switch(live, keep_as=kept)
    assert store.holds() == {**BEFORE, **live}
    assert {key: there.read()[key] for key in live} == live
    assert json.loads(kept.read_text()) == ROLLED_BACK  # and not the keys that are nobody's business
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700

    (store.folder / "given").unlink()
    there.switch(live, keep_as=kept)  # again: nothing is set, and what is kept stays
    assert not (store.folder / "given").exists() and json.loads(kept.read_text()) == ROLLED_BACK

    there.restore(kept, {"ALLOW_SQLITE_FALLBACK": "true"})
    assert store.holds() == BEFORE
    there.restore(kept, {"ALLOW_SQLITE_FALLBACK": "true"})
    assert store.holds() == BEFORE


def test_a_patch_holds_nothing_but_the_new_values(store: Store, kept: Path) -> None:
    store.store("kubernetes").switch(LIVE, keep_as=kept)
    assert json.loads((store.folder / "given").read_text()) == {"stringData": LIVE}


def test_no_value_is_an_argument_or_in_the_environment(store: Store, kept: Path) -> None:
    there = store.store()
    there.switch(LIVE, keep_as=kept)
    there.restore(kept, {})
    assert len(store.seen().splitlines()) == 6
    for value in (NEW, OLD, "s3cret", "hunter2"):
        assert value not in store.seen() and json.dumps(value)[1:-1] not in store.seen()


def test_values_set_since_the_switch_are_kept(store: Store, kept: Path) -> None:
    there = store.store()
    there.switch(LIVE, keep_as=kept)
    store.hold({**store.holds(), "ALLOW_SQLITE_FALLBACK": "perhaps"})
    there.restore(kept, ROLLED_BACK)
    assert store.holds() == BEFORE
    replaced = json.loads(kept.with_name(f"{kept.name}.replaced").read_text())
    assert replaced == {"DATABASE_URL": NEW, "ALLOW_SQLITE_FALLBACK": "perhaps"}


def test_without_kept_values_those_of_rolled_back_are_set(store: Store, kept: Path) -> None:
    store.hold({**BEFORE, **LIVE})
    store.store().restore(kept, ROLLED_BACK)
    assert store.holds() == BEFORE and json.loads(kept.read_text()) == LIVE


def test_a_key_that_a_rollback_could_not_remove_is_found_before(store: Store) -> None:
    found = store.store().problem({**LIVE, "NEW_KEY": "x"}, ROLLED_BACK)
    assert found.startswith("NEW_KEY missing now and not under rolled_back")
    assert store.store().problem({**LIVE, "NEW_KEY": "x"}, {**ROLLED_BACK, "NEW_KEY": ""}) == ""


def test_the_plans_may_set_is_asked(store: Store) -> None:
    no = [sys.executable, "-c", "import sys; sys.exit('secrets \"ward-ops\" is forbidden')"]
    found = store.store(may_set=no).problem(LIVE, ROLLED_BACK)
    assert found == 'may_set refuses: exit status 1, secrets "ward-ops" is forbidden'
    assert store.store(may_set=["true"]).problem(LIVE, ROLLED_BACK) == ""
    assert store.holds() == BEFORE


def failing(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def secrets_of(error: CutoverError) -> list[str]:
    forms = (NEW, json.dumps(NEW)[1:-1], base64.b64encode(NEW.encode()).decode(), "s3cret", "hunter2")
    return [value for value in forms if value in str(error)]


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit('no right to set ' + sys.stdin.read())",
        "import sys; print(sys.stdin.read()); sys.exit(7)",
        "import sys, json; sys.exit('cannot set ' + json.load(sys.stdin)['DATABASE_URL'])",
        "import sys, json, base64; sys.exit(base64.b64encode(json.load(sys.stdin)['DATABASE_URL'].encode()).decode())",
    ],
)
def test_a_set_that_fails_names_keys_and_no_value(store: Store, kept: Path, code: str) -> None:
    with pytest.raises(StepFailed, match="was not set") as caught:
        store.store(set=failing(code)).switch(LIVE, keep_as=kept)
    assert "ALLOW_SQLITE_FALLBACK, DATABASE_URL" in caught.value.where
    assert secrets_of(caught.value) == []
    assert json.loads(kept.read_text()) == ROLLED_BACK


def test_a_set_that_succeeds_without_effect_is_found(store: Store, kept: Path) -> None:
    with pytest.raises(StepFailed, match="does not read back") as caught:
        store.store(set=["true"], seconds=1).switch(LIVE, keep_as=kept)
    assert "ALLOW_SQLITE_FALLBACK, DATABASE_URL" in caught.value.where and secrets_of(caught.value) == []


def test_a_store_that_takes_a_moment_is_waited_for(store: Store, kept: Path) -> None:
    late = "import subprocess, sys; given = sys.stdin.read();"
    late += "subprocess.Popen([sys.executable, '-c', 'import sys, time; time.sleep(1);"
    late += "open(sys.argv[1], chr(119)).write(sys.argv[2])', sys.argv[1], given], stdout=subprocess.DEVNULL)"
    there = store.store(set=[*failing(late), str(store.folder / "values")])
    there.switch(LIVE, keep_as=kept)
    assert store.holds() == LIVE


def test_a_set_that_hangs_is_ended(store: Store, kept: Path) -> None:
    with pytest.raises(StepFailed, match="no end in time"):
        store.store(set=["sleep", "600"], seconds=1).switch(LIVE, keep_as=kept)


@pytest.mark.parametrize(
    ("get", "error", "message"),
    [
        (["/nonexistent/program"], CannotCheck, "cannot be run"),
        (failing("import sys; print('DATABASE_URL=hunter2'); sys.exit('down')"), Unreachable, "exit status 1, down"),
        (failing("print('hunter2')"), CannotCheck, "cannot be read"),
        (failing("print('[\"hunter2\"]')"), CannotCheck, "cannot be read"),
    ],
)
def test_a_store_that_cannot_be_read_changes_nothing(
    store: Store, kept: Path, get: list[str], error: type[CutoverError], message: str
) -> None:
    there = store.store(get=get)
    with pytest.raises(error, match=message) as caught:
        there.switch(LIVE, keep_as=kept)
    assert type(caught.value) is error and "hunter2" not in str(caught.value)
    assert store.holds() == BEFORE and not kept.exists()


def test_output_that_is_not_a_kubernetes_secret_is_reported(store: Store) -> None:
    with pytest.raises(CannotCheck, match="expected a Secret as JSON"):
        store.store("kubernetes", get=failing('print(\'{"kind": "ConfigMap", "data": {}}\')')).read()


def test_problems_are_found_before_the_window(store: Store) -> None:
    def check(**changes: Any) -> tuple[str, str]:
        found = configuration.check(store.settings(**changes), LIVE, ROLLED_BACK, remote=lambda _: Local())
        return found.outcome, found.found

    assert check() == ("passed", "yes")
    assert check(get=["/nonexistent/program"])[0] == "failed"
    assert check(get=["false"]) == ("failed", "the secret store does not answer: exit status 1, no output")
    assert check(ssh="ward_ops_host") == ("passed", "yes")
    # A value that the format cannot hold.
    assert check(form="dotenv")[0] == "failed"


def test_killed_at_any_moment_a_second_try_completes_it(store: Store, tmp_path: Path) -> None:
    """Between any two calls of the system: the old values are kept, or nothing was changed."""
    folder = tmp_path / "work"

    class Here:
        """The store in this process: what is killed is ours, not the program."""

        where = ""

        def run(self, command: Any, seconds: float, *, stdin: str = "", **_: Any) -> Ran:
            if stdin:
                held = {**json.loads((folder / "values").read_text()), **json.loads(stdin)}
                (folder / "values.new").write_text(json.dumps(held))
                (folder / "values.new").replace(folder / "values")
                return Ran(0)
            return Ran(0, (folder / "values").read_text())

        def tunnel(self, *_: Any) -> Any:
            raise NotImplementedError

    there = SecretStore(store.settings(), Here())
    keep = folder / "backups" / "kept.json"

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "values").write_text(json.dumps(BEFORE))

    def work() -> None:
        there.switch(LIVE, keep_as=keep)

    for step in kill_at_every_step(prepare, work, after=False):
        held = json.loads((folder / "values").read_text())
        assert held == BEFORE or keep.exists(), step
        there.switch(LIVE, keep_as=keep)
        assert there.read() == {**BEFORE, **LIVE} and json.loads(keep.read_text()) == ROLLED_BACK, step
        there.restore(keep, {})
        assert there.read() == BEFORE, step
