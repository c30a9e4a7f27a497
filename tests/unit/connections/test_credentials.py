"""Secrets: where they come from, and that a plan holds none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.cutover.connections import credentials
from include.cutover.errors import CannotCheck, PlanInvalid
from include.cutover.places import ROOT
from include.cutover.plan.access import Secret
from include.cutover.plan.file import parse_plan

WARD_OPS = (ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8")
SECRET = "hunter2!"


def faults(data: dict[str, Any], environment: dict[str, str] | None = None) -> str:
    with pytest.raises(PlanInvalid) as caught:
        parse_plan(yaml.safe_dump({**yaml.safe_load(WARD_OPS), **data}, allow_unicode=True), "a.yaml", environment or {})
    return str(caught.value)


def read(**where: Any) -> str:
    return credentials.read(Secret(**where), lambda _: None, "secrets.application")


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n"])
def test_password_file_may_end_with_a_line_break(tmp_path: Path, content: str) -> None:
    file = tmp_path / "secret"
    file.touch(mode=0o600)
    file.write_bytes(content.encode())
    assert read(file=file) == SECRET
    link = tmp_path / "..data"  # as Kubernetes mounts it
    link.symlink_to(file)
    assert read(file=link) == SECRET


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o666])
def test_world_accessible_secret_file_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    file.chmod(mode)
    with pytest.raises(CannotCheck, match=f"mode {mode:04o}") as caught:
        read(file=file)
    assert SECRET not in str(caught.value) and "chmod o=" in caught.value.do
    file.chmod(0o640)
    assert read(file=file) == SECRET


def test_unusable_secret_is_refused(tmp_path: Path) -> None:
    def file(content: bytes) -> Path:
        path = tmp_path / os.urandom(4).hex()
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path

    for path, words in (
        (tmp_path / "nothing", "No such file"),
        (tmp_path, "Is a directory"),
        (file(b""), "is not there"),
        (file(b"one\ntwo\n"), "more than a password"),
        (file(b"\xff\xfe"), "more than a password"),
        (file(b"x" * 5000), "more than a password"),
    ):
        with pytest.raises(CannotCheck, match=words):
            read(file=path)
    with pytest.raises(CannotCheck, match="environment variable WARD_OPS_NOT_SET"):
        read(env="WARD_OPS_NOT_SET")
    with pytest.raises(CannotCheck, match="connection vault"):
        read(connection="vault")


@pytest.mark.parametrize(
    "secrets",
    [{}, {"env": "A", "file": "/b"}, {"file": "relative"}, {"env": "not a name"}, {"password": SECRET}, {"env": ""}],
)
def test_ambiguous_secret_reference_is_a_fault(secrets: dict[str, str]) -> None:
    told = faults({"secrets": {"application": secrets}})
    assert "secrets.application" in told and SECRET not in told


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"configuration": {
            "file": "/e", "live": {"DATABASE_URL": f"postgresql://u:{SECRET}@h/d"}, "rolled_back": {"A": "b"}}},
         "configuration.live.DATABASE_URL"),
        ({"configuration": {"file": "/e", "live": {"REDIS_PASSWORD": SECRET}, "rolled_back": {"A": "b"}}},
         "configuration.live.REDIS_PASSWORD"),
        ({"smoke_tests": {"base_url": f"http://u:{SECRET}@h", "health": {"path": "/"}}}, "smoke_tests.base_url"),
        ({"password": SECRET}, "password"),
        ({"channels": {"mail_from": "a@b", "mail_to": ["c@d"], "smtp_passwd": SECRET}}, "channels.smtp_passwd"),
        ({"target_schema": f"host=db password={SECRET}"}, "target_schema"),
        ({"services": [{"name": "api", "control": {
            "kind": "command", "start": ["run", f"--password={SECRET}"], "stop": ["a"], "status": ["b"]}}]},
         "services.0.control.start.1"),
        ({"connections": {"source": "a", "target": "b", "application": "c", "password": SECRET}}, "connections.password"),
    ],
)  # fmt: skip
def test_password_in_a_plan_is_a_fault_that_does_not_repeat_it(data: dict[str, Any], place: str) -> None:
    told = faults(data)
    assert any(line.strip().startswith(f"{place}: a ") and "Name the place" in line for line in told.splitlines()), told
    assert SECRET not in told


def test_password_from_the_environment_in_a_plan_is_a_fault() -> None:
    told = faults({"smoke_tests": {"base_url": "${URL}", "health": {"path": "/"}}}, {"URL": f"http://u:{SECRET}@h"})
    assert "smoke_tests.base_url: a URL with a password" in told and SECRET not in told


def test_application_key_names_are_not_taken_for_passwords() -> None:
    data = yaml.safe_load(WARD_OPS)
    data["tables"]["users"] = {"secret": ["hashed_password"], "columns": {"password": {"empty_as_null": True}}}
    data["ignored_tables"] = {"api_token": "it is empty", "old_password": "nobody reads it"}
    data["configuration"]["live"]["DB_PASSWORD"] = "{application_url}"
    assert parse_plan(yaml.safe_dump(data, allow_unicode=True), "a.yaml", {}).ignored_tables["api_token"]
