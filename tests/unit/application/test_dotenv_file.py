"""The application's dotenv file: what is set is read back by python-dotenv and by a shell, and nothing else moves."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dotenv import dotenv_values

from include.cutover.application import dotenv_file
from include.cutover.errors import CannotCheck, Refused, WrongData
from tests.support.killing import kill_at_every_step

OLD = "sqlite:////srv/ward_ops/data/ward_ops.db"
NEW = "postgresql+psycopg://ward:s3cret%23@db:5432/ward_flux?sslmode=require&application_name=ward"
FILE = f"""\
# Ward OPS
export SECRET_KEY='a # b'   # never changed

DATABASE_URL="{OLD}"  # see the runbook
ALLOW_SQLITE_FALLBACK=true
MULTILINE="one
DATABASE_URL=not a key
three"
# DATABASE_URL=postgresql://commented
REDIS_URL=redis://localhost:6379/0 # cache
EMPTY=
"""
VALUES = {"DATABASE_URL": NEW, "ALLOW_SQLITE_FALLBACK": "false"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "app" / ".env"
    path.parent.mkdir()
    path.write_text(FILE)
    path.chmod(0o640)
    return path


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "app" / ".env.before-run"


def by_shell(file: Path, key: str, shell: str) -> str:
    """Return the value of ``key`` in a shell that sources the file."""
    script = f'set -u; . "{file}"; printf %s "${key}"'
    return subprocess.run([shell, "-c", script], check=True, capture_output=True, env={}).stdout.decode()


def test_switch_changes_the_keys_and_nothing_else(file: Path, kept: Path) -> None:
    dotenv_file.switch(file, VALUES, keep_as=kept)
    before, after = FILE.splitlines(), file.read_text().splitlines()
    assert [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [3, 4]
    assert after[3] == f'DATABASE_URL="{NEW}"  # see the runbook'
    assert after[4] == "ALLOW_SQLITE_FALLBACK=false"
    assert dotenv_file.read(file) == {**dotenv_values(kept), **VALUES}
    assert kept.read_text() == FILE
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_the_old_file_is_kept_once(file: Path, kept: Path) -> None:
    dotenv_file.switch(file, VALUES, keep_as=kept)
    dotenv_file.switch(file, {**VALUES, "ALLOW_SQLITE_FALLBACK": "no"}, keep_as=kept)
    assert kept.read_text() == FILE
    assert dotenv_file.read(file)["ALLOW_SQLITE_FALLBACK"] == "no"


def test_a_second_switch_does_not_write_again(file: Path, kept: Path) -> None:
    dotenv_file.switch(file, VALUES, keep_as=kept)
    inode = file.stat().st_ino
    dotenv_file.switch(file, VALUES, keep_as=kept)
    assert file.stat().st_ino == inode


def test_owner_and_group_stay(file: Path, kept: Path) -> None:
    owner, group = (4242, 4343) if os.geteuid() == 0 else (os.geteuid(), os.getgroups()[-1])
    os.chown(file, owner, group)
    dotenv_file.switch(file, VALUES, keep_as=kept)
    assert (file.stat().st_uid, file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (owner, group, 0o640)
    dotenv_file.restore(file, kept, {"ALLOW_SQLITE_FALLBACK": "true"}, VALUES)
    assert (file.stat().st_uid, file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (owner, group, 0o640)


def test_restore_brings_the_old_file_back_with_the_values_of_the_runbook(file: Path, kept: Path) -> None:
    file.write_text(FILE.replace("ALLOW_SQLITE_FALLBACK=true", "ALLOW_SQLITE_FALLBACK=false"))
    dotenv_file.switch(file, VALUES, keep_as=kept)
    edited = file.read_text() + "ADDED=while live\n"
    file.write_text(edited)
    back = {"DATABASE_URL": OLD, "ALLOW_SQLITE_FALLBACK": "true"}
    for _ in range(2):
        assert dotenv_file.restore(file, kept, back, VALUES) == ["ADDED"]
        assert file.read_text() == FILE + "ADDED=while live\n"
    replaced = kept.with_name(f"{kept.name}.replaced")
    assert replaced.read_text() == edited
    assert stat.S_IMODE(replaced.stat().st_mode) == 0o600


def test_keys_added_or_changed_after_the_switch_stay(file: Path, kept: Path) -> None:
    file.write_text("# first\nSMTP_PASSWORD=old # rotated yearly\nDATABASE_URL=sqlite:///a.db\nGONE=1\nLAST=x")
    dotenv_file.switch(file, {"DATABASE_URL": NEW, "POOL": "5"}, keep_as=kept)
    text = file.read_text().replace("SMTP_PASSWORD=old", "SMTP_PASSWORD='new one'").replace("GONE=1\n", "")
    file.write_text(text.replace(NEW, "edited") + 'export FEATURE="on"  # since Tuesday\n')
    for _ in range(2):
        later = dotenv_file.restore(file, kept, {"FALLBACK": "true"}, ["DATABASE_URL", "POOL"])
        assert later == ["FEATURE", "SMTP_PASSWORD"]
        assert file.read_text() == (
            "# first\nSMTP_PASSWORD='new one' # rotated yearly\nDATABASE_URL=sqlite:///a.db\nGONE=1\nLAST=x\n"
            'export FEATURE="on"  # since Tuesday\nFALLBACK=true\n'
        )


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("now", ["DB=pg,SECRET=s,MODE=b", "DB=pg,SECRET=s,NEW=x,MODE=b", "MODE=b,DB=pg,SECRET=s,NEW=x"])
def test_a_changed_last_line_without_its_end_is_not_glued_to_the_next(file: Path, kept: Path, now: str, end: str) -> None:
    file.write_bytes(f"DB=sqlite{end}MODE=a{end}SECRET=s{end}".encode())
    dotenv_file.switch(file, {"DB": "pg"}, keep_as=kept)
    file.write_bytes(now.replace(",", end).encode())
    expected = dotenv_file.read(file) | {"DB": "sqlite"}
    for _ in range(2):
        assert dotenv_file.restore(file, kept, {"DB": "sqlite"}, ["DB"]) == sorted(expected.keys() - {"DB", "SECRET"})
        assert dotenv_file.read(file) == expected
        assert file.read_bytes().count(b"\n") == file.read_bytes().count(end.encode())


def test_keys_that_would_not_read_back_do_not_stay(file: Path, kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = "DB=sqlite\nA=1\nBROKEN='open\n"
    file.write_text(before)
    dotenv_file.switch(file, {"DB": "pg"}, keep_as=kept)
    file.write_text("ADDED='s3cret'\nA=2\nDB=pg\n")
    for _ in range(2):
        assert dotenv_file.restore(file, kept, {"DB": "sqlite"}, ["DB"]) == []
        assert file.read_text() == before
    assert "ADDED" in caplog.text and "s3cret" not in caplog.text
    assert "s3cret" in kept.with_name(f"{kept.name}.replaced").read_text()


def test_restore_without_a_switch_sets_the_values(file: Path, kept: Path) -> None:
    dotenv_file.restore(file, kept, {"DATABASE_URL": OLD, "ALLOW_SQLITE_FALLBACK": "yes"}, VALUES)
    assert file.read_text() == FILE.replace("FALLBACK=true", "FALLBACK=yes")
    assert kept.read_text() == FILE


@pytest.mark.parametrize(
    "value",
    [
        "",
        "plain",
        "two words",
        " blanks around ",
        "# not a comment",
        "a #b",
        "a#b",
        "it's",
        'say "so"',
        """both ' and \"""",
        "$HOME and $1 and $$",
        "100%",
        "back\\slash",
        "ends with \\",
        "two \\\\ of them",
        "\\n is not a newline",
        "\\' quoted",
        "`date`",
        "a;b&c|d<e>f(g)h*i?j[k]l{m}n!o~p",
        "~/home",
        "a:~/b",
        "a=b=c",
        "ქართული",
        "\ttab",
        "postgresql+psycopg://u:p%40ss@host/db?a=1&b=2",
    ],
)
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_values_are_read_back_by_dotenv_and_by_shells(file: Path, kept: Path, value: str, quote: str) -> None:
    file.write_text(f"FIRST=1\nKEY={quote}old{quote} # why\nLAST=2\n")
    dotenv_file.switch(file, {"KEY": value, "NEW_KEY": value}, keep_as=kept)
    expected = {"FIRST": "1", "KEY": value, "LAST": "2", "NEW_KEY": value}
    assert dotenv_file.read(file) == dict(dotenv_values(file)) == expected
    for shell in ("sh", "bash"):
        assert [by_shell(file, key, shell) for key in expected] == list(expected.values())
    assert file.read_text().splitlines()[1].endswith(" # why")


@pytest.mark.parametrize(
    "value", ["a 'quote' and $HOME", "c:\\\\x and $y", "two\nlines", "x${HOME}y", "nul\0", "ends in $\\"]
)
def test_a_value_that_readers_would_read_differently_is_refused(file: Path, kept: Path, value: str) -> None:
    with pytest.raises(WrongData, match="KEY") as error:
        dotenv_file.switch(file, {"KEY": value}, keep_as=kept)
    assert value not in str(error.value)
    assert file.read_text() == FILE
    assert not kept.exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("KEY=old", "KEY=new"),
        ("KEY=old\n", "KEY=new\n"),
        ("export KEY=old\n", "export KEY=new\n"),
        ("  export   KEY = old\n", "  export   KEY=new\n"),
        ("KEY='old'\n", "KEY='new'\n"),
        ('\n\n# c\nKEY="old"#c\n', '\n\n# c\nKEY="new" #c\n'),
        ("KEY=a#b # c\n", "KEY=new # c\n"),
        ("KEY=#old\n", "KEY=new\n"),
        ("KEY= # nothing yet\n", "KEY=new # nothing yet\n"),
        ("KEY=\n", "KEY=new\n"),
        ("KEY\n", "KEY=new\n"),
        ("KEY # c\nB=1\n", "KEY=new # c\nB=1\n"),
        ('KEY="one\ntwo" # c\nB=1\n', 'KEY="new" # c\nB=1\n'),
        ("A=1\r\nKEY=old\r\nB=2\r\n", "A=1\r\nKEY=new\r\nB=2\r\n"),
        ("A=1\r\n", "A=1\r\nKEY=new\r\n"),
        ("A=1", "A=1\nKEY=new\n"),
        ("", "KEY=new\n"),
        ("\ufeffKEY=old\n", "\ufeffKEY=new\n"),
        ("KEY=1\nA=1\nexport KEY='2'\n", "KEY=new\nA=1\nexport KEY='new'\n"),
        ("MY_KEY=1\nKEYS=2\n# KEY=3\n", "MY_KEY=1\nKEYS=2\n# KEY=3\nKEY=new\n"),
        ("not a binding at all = = 'x\nKEY=old\n", "not a binding at all = = 'x\nKEY=new\n"),
    ],
)
def test_lines_keep_their_form(file: Path, kept: Path, before: str, after: str) -> None:
    file.write_bytes(before.encode())
    dotenv_file.switch(file, {"KEY": "new"}, keep_as=kept)
    assert file.read_bytes().decode() == after
    assert dotenv_values(file)["KEY"] == "new"
    assert kept.read_bytes().decode() == before


def test_a_secret_is_never_in_an_error(file: Path, kept: Path) -> None:
    file.write_text("DATABASE_URL='postgresql://u:hunter2@h/d\nKEY=hunter2\n")
    with pytest.raises(WrongData) as error:
        dotenv_file.switch(file, {"BAD KEY": "hunter2"}, keep_as=kept)
    assert "hunter2" not in str(error.value)
    file.write_bytes(b"KEY=hunter2\xff\n")
    with pytest.raises(CannotCheck, match="not UTF-8") as unreadable:
        dotenv_file.read(file)
    assert "hunter2" not in str(unreadable.value)


def test_a_missing_file_is_named(tmp_path: Path, kept: Path) -> None:
    actions: list[Callable[[], object]] = [
        lambda: dotenv_file.read(tmp_path / "none"),
        lambda: dotenv_file.switch(tmp_path / "none", VALUES, keep_as=kept),
        lambda: dotenv_file.restore(tmp_path / "none", kept, VALUES, VALUES),
    ]
    for action in actions:
        with pytest.raises(CannotCheck, match=r"none: .* is missing"):
            action()
    assert not (tmp_path / "none").exists()


def test_a_link_is_followed(file: Path, kept: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.env"
    link.symlink_to("app/.env")
    dotenv_file.switch(link, VALUES, keep_as=kept)
    assert link.is_symlink()
    assert dotenv_file.read(file)["DATABASE_URL"] == NEW


def test_killed_at_any_step_it_is_the_old_file_or_the_new_one(file: Path, kept: Path) -> None:
    dotenv_file.switch(file, VALUES, keep_as=kept)
    new = file.read_text()

    def begin() -> None:
        for path in file.parent.iterdir():
            path.unlink()
        file.write_text(FILE)
        file.chmod(0o640)

    for step in kill_at_every_step(begin, lambda: dotenv_file.switch(file, VALUES, keep_as=kept), after=False):
        assert file.read_text() in (FILE, new), step
        assert stat.S_IMODE(file.stat().st_mode) == 0o640, step
        dotenv_file.switch(file, VALUES, keep_as=kept)
        assert (file.read_text(), kept.read_text()) == (new, FILE), step
        assert sorted(path.name for path in file.parent.iterdir() if ".cutover" in path.name) == [], step
        dotenv_file.restore(file, kept, {"ALLOW_SQLITE_FALLBACK": "true"}, VALUES)
        assert file.read_text() == FILE, step


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process takes root")
def test_a_process_that_cannot_keep_the_owner_changes_nothing(file: Path, kept: Path) -> None:
    file.parent.chmod(0o777)
    file.chmod(0o666)
    for folder in list(file.parents)[1:-1]:
        folder.chmod(folder.stat().st_mode | 0o011)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(4343)
        os.setuid(4242)
        try:
            dotenv_file.switch(file, VALUES, keep_as=kept)
        except Refused as error:
            os._exit(0 if "owner of the old one" in str(error) else 1)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert file.read_text() == FILE
