"""docker-compose.yaml, Dockerfile and their settings, against the rules that matter; ``make stack-test`` runs them."""

from __future__ import annotations

import importlib.util
import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from include.cutover.places import ROOT
from include.cutover.plan.file import load_plan
from include.cutover.stack.settings import common_settings

TEXT = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
JOBS = {"init", "break-glass", "target-roles"}
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
VARIABLES = set(re.findall(r"(?<!\$)\$\{([A-Z][A-Z0-9_]*)", TEXT))
REQUIRED = set(re.findall(r"\$\{([A-Z][A-Z0-9_]*):\?", TEXT))


def example(name: str) -> dict[str, str | None]:
    return dotenv_values(ROOT / name, interpolate=False)


def mounts(service: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield source and place of each mount; a variable counts as its default."""
    for text in service.get("volumes", []):
        source, place = re.sub(r"\$\{[A-Z_]+:-([^}]+)\}", r"\1", text).split(":")[:2]
        yield source, place


# --- references ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_everything_that_a_service_names_exists(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("depends_on", {})) <= set(SERVICES)
    assert set(service["networks"]) <= set(FILE["networks"])
    for source, _ in mounts(service):
        assert source in FILE["volumes"] or (ROOT / source).is_file(), source
    files = [path for path in service.get("env_file", []) if not path.startswith("$")]
    assert all((ROOT / path).is_file() for path in files)


def test_every_file_and_module_of_the_project_that_is_named_exists() -> None:
    paths = set(re.findall(r"/opt/project/([\w/.]+)", TEXT))
    modules = {name for name in re.findall(r"-m, ([\w.]+)", TEXT) if name.startswith(("include.", "examples."))}
    assert paths and modules
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_a_service_waits_only_for_those_of_its_own_profiles() -> None:
    for name, service in SERVICES.items():
        own = set(service.get("profiles", []))
        for other in service.get("depends_on", {}):
            assert set(SERVICES[other].get("profiles", [])) <= own, (name, other)


def test_services_that_others_wait_for_report_when_they_are_ready() -> None:
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            ended = how["condition"] == "service_completed_successfully"
            assert ended == (SERVICES[other]["restart"] == "no"), other


def test_every_volume_and_network_is_used() -> None:
    used = {source for service in SERVICES.values() for source, _ in mounts(service)}
    assert set(FILE["volumes"]) <= used
    assert set(FILE["networks"]) == {network for service in SERVICES.values() for network in service["networks"]}


def test_services_that_share_a_volume_mount_it_at_the_same_path() -> None:
    """Evidence and plan hold paths: every task, and the application itself, must find the files under the same ones."""
    places: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for source, place in mounts(service):
            if name not in ("metadata", "target"):
                places.setdefault(source, set()).add(place)
    assert {source: len(found) for source, found in places.items() if len(found) > 1} == {}


def test_every_place_of_a_volume_is_the_users_in_the_image() -> None:
    """Docker gives a new volume the owner of the folder that it covers; without one it is root's."""
    made = set(
        re.findall(
            r"(?<=[ \n])/[a-z_/-]+(?=[ \n])", "\n".join(re.findall(r"install -d -o cutover.*?\n(?! )", DOCKERFILE, re.S))
        )
    )
    for service in SERVICES.values():
        if service["image"].startswith("cutover"):
            assert {place for _, place in mounts(service)} <= made


def test_commands_in_the_documents_name_the_profile_of_their_service() -> None:
    """podman-compose knows no service of a profile that is off; docker compose does."""
    documents = [ROOT / "docker-compose.yaml", ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    lines = [
        line for file in documents for line in file.read_text(encoding="utf-8").splitlines() if "docker compose" in line
    ]
    break_glass = [line for line in lines if "run --rm break-glass" in line]
    assert len(break_glass) > 5
    assert [line for line in break_glass if "--profile break-glass run --rm" not in line] == []
    stopped = re.findall(r"docker compose ((?:--profile \w+ )?)stop ([\w -]*)", "\n".join(lines))
    assert stopped
    for profile, services in stopped:
        profiles = {name for service in services.split() for name in SERVICES[service].get("profiles", [])}
        assert profiles <= set(profile.split()[1:]), services


# --- variables -----------------------------------------------------------------------------------------------------------


def test_every_variable_is_in_the_example_and_none_is_there_for_nothing() -> None:
    assert set(example(".env.example")) == VARIABLES


def test_required_variables_are_secrets_without_a_default() -> None:
    secret = {name for name in VARIABLES if re.search(r"PASSWORD|KEY|SECRET", name)}
    elsewhere = {"OIDC_CLIENT_SECRET", "LDAP_BIND_PASSWORD"}  # of one way to log in, which refuses by itself
    assert secret - elsewhere == REQUIRED
    for name in secret:
        assert not re.search(rf"\$\{{{name}:?-[^}}]", TEXT), f"{name} has a default"
    random = [name for name, value in example(".env.example").items() if value and "<" in value]
    assert set(random) == REQUIRED


def test_no_secret_stands_in_the_file_or_in_an_image() -> None:
    for match in re.finditer(r'(?i)(password|secret|_key)[A-Z_]*: +(?!"?\$\{|$)(\S+)', TEXT):
        raise AssertionError(match.group(0))
    assert not re.search(r"(?i)^(ENV|ARG) .*(password|secret|token)", DOCKERFILE, re.MULTILINE)


def test_defaults_in_the_example_are_those_of_the_file() -> None:
    defaults = dict(re.findall(r"\$\{([A-Z][A-Z0-9_]*):-([^}]*)\}", TEXT))
    assert {name: value for name, value in example(".env.example").items() if name not in REQUIRED} == defaults


def test_with_the_tasks_example_the_plan_names_nothing_that_only_a_checkout_has(monkeypatch: pytest.MonkeyPatch) -> None:
    given = example(".env.tasks.example")
    for name, value in given.items():
        monkeypatch.setenv(name, value or "")
    plan = load_plan("ward_ops")
    named = [name for _, name in plan.connections if isinstance(name, str)]
    assert {f"AIRFLOW_CONN_{name.upper()}" for name in named} <= set(given)
    text = plan.model_dump_json()
    assert "127.0.0.1" not in text and "localhost" not in text
    assert "var/ward_ops" not in text and "var/backups" not in text and "var/second_copy" not in text
    assert plan.source_queue == example(".env.example")["CUTOVER_SOURCE_QUEUE"]
    assert not plan.gates.allow_auto_approval


# --- what every service has ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_watched_and_pinned(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert {"cpus", "memory", "pids"} == set(limits)
    assert service["logging"]["options"]["max-size"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name in JOBS:
        assert (service["restart"], service["healthcheck"]) == ("no", {"disable": True})
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["healthcheck"]["retries"] >= 3
    tag = re.sub(r"\$\{[A-Z_]+:-([^}]+)\}", r"\1", service["image"]).partition(":")[2]
    assert re.match(r"\d+\.\d+", tag), f"{name}: {tag} is no pinned version"


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_a_right_that_a_site_would_refuse(name: str) -> None:
    service = SERVICES[name]
    assert not set(service) & {"privileged", "pid", "ipc", "network_mode", "cap_add", "devices", "userns_mode", "user"}
    assert not [source for source, _ in mounts(service) if "docker.sock" in source or "podman.sock" in source]
    if service["image"].startswith("cutover"):
        assert service["cap_drop"] == ["ALL"]


def test_ports_bind_to_loopback_unless_told_otherwise() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("${CUTOVER_BIND:-127.0.0.1}:") for port in published)


def test_production_has_neither_target_nor_application() -> None:
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {"metadata", "init", "api-server", "scheduler", "dag-processor", "triggerer"}
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["demo"]} == {
        "target",
        "target-roles",
        "ward-ops",
        "receivers",
    }


def test_only_what_runs_steps_sees_the_application() -> None:
    reach = {name for name, service in SERVICES.items() if "/srv/ward-ops" in dict(map(reversed, mounts(service)))}  # type: ignore[arg-type]
    assert reach == {"init", "scheduler", "break-glass", "worker-source", "ward-ops"}
    assert "application" not in SERVICES["api-server"]["networks"]
    assert "airflow" not in SERVICES["ward-ops"]["networks"]


# --- the same everywhere -------------------------------------------------------------------------------------------------


def test_every_part_of_airflow_has_the_settings_of_the_local_stack() -> None:
    own = {"AIRFLOW__FAB__UPDATE_FAB_PERMS": {"init"}}  # the first start writes them
    for name, service in SERVICES.items():
        if service["image"].startswith("cutover:"):
            assert service["env_file"][0] == "include/cutover/stack/airflow.env", name
            overridden = {key for key in service["environment"] if key in common_settings()}
            assert all(name in own[key] for key in overridden), (name, overridden)
    assert "idle_in_transaction_session_timeout=20s" in SERVICES["metadata"]["command"]


def test_the_images_python_is_the_locks() -> None:
    image = re.search(r"^ARG BASE=python:(\d+\.\d+)-slim-bookworm$", DOCKERFILE, re.MULTILINE)
    locked = re.search(r"--python-version (\d+\.\d+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert image and locked
    assert image[1] == locked[1]
    assert f"python:{image[1]}-slim-bookworm" in TEXT
    assert f'requires-python = ">={image[1]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_packages_of_the_demo_are_locked() -> None:
    names = re.search(r"awk '/\^\(([a-z|]+)\)==/", DOCKERFILE)
    assert names
    lock = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    for name in names[1].split("|"):
        assert re.search(rf"^{name}==\S+ \\\n +--hash=", lock, re.MULTILINE), name
    assert "--require-hashes" in DOCKERFILE


def test_the_image_runs_as_a_user_without_rights() -> None:
    for stage in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE):
        if " AS cutover\n" in stage or " AS demo\n" in stage:
            assert re.findall(r"^USER (\w+)$", stage, re.MULTILINE)[-1] == "cutover"


def test_nothing_but_what_an_image_is_made_of_is_sent_to_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    copied = set(re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE))
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied


# --- make env ------------------------------------------------------------------------------------------------------------


def make_env(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "make_env.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_make_env_writes_random_secrets_for_their_owner_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert make_env(tmp_path / "a").returncode == make_env(tmp_path / "b").returncode == 0
    first, second = (dotenv_values(tmp_path / name / ".env", interpolate=False) for name in "ab")
    for name in (".env", ".env.tasks"):
        assert stat.S_IMODE((tmp_path / "a" / name).stat().st_mode) == 0o600
        assert "<" not in re.sub(r"^#.*", "", (tmp_path / "a" / name).read_text(), flags=re.MULTILINE)
    assert all(first[name] and first[name] != second[name] for name in REQUIRED)
    assert len({first[name] for name in REQUIRED}) == len(REQUIRED)
    passwords = json.loads(first["CUTOVER_PASSWORDS"] or "")
    people = load_plan("ward_ops").people
    assert set(passwords) == {person.user for person in [*people.deciders, people.observer, people.communicator]}
    assert len(set(passwords.values())) == len(passwords)
    tasks = dotenv_values(tmp_path / "a" / ".env.tasks", interpolate=False)
    assert json.loads(tasks["AIRFLOW_CONN_WARD_OPS_TARGET"] or "")["password"] == first["DEMO_PIPELINE_PASSWORD"]
    assert tasks["WARD_OPS_SUPERVISOR_PASSWORD"] == first["DEMO_SUPERVISOR_PASSWORD"]
    from cryptography.fernet import Fernet

    Fernet((first["CUTOVER_FERNET_KEY"] or "").encode())


@pytest.mark.parametrize("there", [".env", ".env.tasks"])
def test_make_env_never_overwrites(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    done = make_env(tmp_path)
    assert done.returncode == 1
    assert there in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_git_and_the_image_leave_the_secrets_alone() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".env", ".env.tasks"} <= set(ignored)
