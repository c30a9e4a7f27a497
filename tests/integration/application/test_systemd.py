"""Units of systemd: the exact command lines, and what systemctl says, played back by a program in its place.

The outputs are systemd's (``systemctl show`` of versions 247 to 257); systemd itself does not run where tests do.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from include.cutover.application import services
from include.cutover.errors import CannotCheck, StepFailed, Unreachable
from include.cutover.plan.application import Service, SmokeTests, SystemdControl
from include.cutover.preflight import services as preflight_services

FAKE = dedent(f"""\
    #!{sys.executable} -S
    import json, sys
    from pathlib import Path

    folder = Path(__file__).parent
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    with (folder / "calls").open("a") as calls:
        calls.write(json.dumps([name, *arguments]) + "\\n")
    if name == "sudo":
        allowed = json.loads((folder / "allowed").read_text())
        if arguments[:2] == ["-n", "-l"]:
            sys.exit(0 if arguments[3:] in allowed else 1)
        if arguments[1:] not in allowed:
            sys.exit("sudo: a password is required")
        name, arguments = arguments[1], arguments[2:]
    if name == "journalctl":
        print((folder / "journal").read_text(), end="")
        sys.exit(0)
    verb = next(word for word in arguments if word in ("show", "start", "stop"))
    answers = json.loads((folder / "answers").read_text())
    if verb == "show":
        # Each answer is given once, the last one for ever; an order leads to the answers behind it.
        current = answers["show"]
        print(current[0])
        if len(current) > 1:
            current.pop(0)
    else:
        said = answers.get(verb, {{}})
        answers["show"] = said.get("then", answers["show"])
        print(said.get("says", ""), end="", file=sys.stderr)
    (folder / "answers").write_text(json.dumps(answers))
    sys.exit(0 if verb == "show" else said.get("code", 0))
""")


def shown(
    active: str, sub: str, *, load: str = "loaded", result: str = "success", job: str = "", invocation: str = "a1"
) -> str:
    """Return the output of ``systemctl show`` for our properties, in systemd's own order."""
    lines = [
        f"Result={result}",
        f"LoadState={load}",
        f"ActiveState={active}",
        f"SubState={sub}",
        f"InvocationID={invocation}",
    ]
    return "\n".join([*lines, f"Job={job}"] if job else lines)


RUNNING = shown("active", "running")
STOPPED = shown("inactive", "dead")


@dataclass(frozen=True)
class Systemd:
    folder: Path

    def plays(self, *show: str, journal: str = "", **orders: dict[str, Any]) -> None:
        (self.folder / "answers").write_text(json.dumps({"show": show, **orders}))
        (self.folder / "journal").write_text(journal)
        (self.folder / "calls").write_text("")

    def calls(self) -> list[str]:
        """The commands, each once in a row."""
        lines = [" ".join(json.loads(line)) for line in (self.folder / "calls").read_text().splitlines()]
        return [line for number, line in enumerate(lines) if number == 0 or lines[number - 1] != line]

    def sudo_allows(self, *commands: str) -> None:
        (self.folder / "allowed").write_text(json.dumps([command.split() for command in commands]))


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    for name in ("systemctl", "journalctl", "sudo"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Systemd(tmp_path)


def unit(start_seconds: int = 5, stop_seconds: int = 5, **settings: Any) -> Service:
    given = {"kind": "systemd", "unit": "ward-api.service", "steady_seconds": 0.3, **settings}
    return Service(
        name="api", control=SystemdControl.model_validate(given), start_seconds=start_seconds, stop_seconds=stop_seconds
    )


SHOW = "systemctl show --property=LoadState,ActiveState,SubState,Result,Job,InvocationID -- ward-api.service"
STOP = "systemctl --no-ask-password stop --no-block -- ward-api.service"
START = "systemctl --no-ask-password start --no-block -- ward-api.service"


def test_a_unit_is_stopped_and_its_job_watched_to_its_end(systemd: Systemd) -> None:
    systemd.plays(
        RUNNING,
        stop={
            "then": [
                shown("active", "running", job="812"),
                shown("deactivating", "stop-sigterm", job="812"),
                shown("deactivating", "stop-sigterm", job="812"),
                shown("inactive", "dead", job="812"),
                STOPPED,
            ]
        },
    )
    (result,) = services.stop([unit()])
    assert (result.was, result.now, result.already) == ("running", "stopped", False)
    assert systemd.calls() == [SHOW, STOP, SHOW]
    assert services.stop([unit()])[0].already


def test_a_unit_is_started_and_must_stay_up(systemd: Systemd) -> None:
    states = [shown("inactive", "dead", job="813"), shown("activating", "start", job="813", invocation="b2")]
    systemd.plays(STOPPED, start={"then": [*states, shown("active", "running", invocation="b2")]})
    (result,) = services.start([unit()])
    assert (result.was, result.now, result.already) == ("inactive", "running", False)
    assert systemd.calls() == [SHOW, START, SHOW]
    assert services.start([unit()])[0].already


def test_units_of_the_user_and_units_through_sudo(systemd: Systemd) -> None:
    systemd.plays(RUNNING, stop={"then": [STOPPED]})
    services.stop([unit(scope="user")])
    assert systemd.calls()[:2] == [
        SHOW.replace("systemctl", "systemctl --user"),
        STOP.replace("systemctl", "systemctl --user"),
    ]

    systemd.sudo_allows(STOP)
    systemd.plays(RUNNING, stop={"then": [STOPPED]})
    services.stop([unit(sudo=True)])
    assert systemd.calls()[:2] == [SHOW, f"sudo -n {STOP}"]


def test_sudo_that_wants_a_password_is_found_before_anything_is_stopped(systemd: Systemd) -> None:
    smoke = SmokeTests.model_validate({"base_url": "http://127.0.0.1:1", "health": {"path": "/"}})
    systemd.plays(RUNNING)
    systemd.sudo_allows(STOP)
    check = preflight_services.check_services([unit(sudo=True)], smoke)[0]
    assert (check.outcome, check.found) == ("failed", "sudo asks for a password for start")
    assert systemd.calls() == [SHOW, f"sudo -n -l -- {STOP}", f"sudo -n -l -- {START}"]
    systemd.sudo_allows(STOP, START)
    assert preflight_services.check_services([unit(sudo=True)], smoke)[0].outcome == "passed"


def test_a_unit_that_does_not_stop_is_reported_with_the_journal(systemd: Systemd) -> None:
    systemd.plays(
        RUNNING,
        stop={"then": [shown("deactivating", "stop-sigterm", job="9")]},
        journal="waiting for jobs\npostgresql://ward:hunter2@db/x\n",
    )
    with pytest.raises(StepFailed) as caught:
        services.stop([unit(stop_seconds=1)])
    assert caught.value.where == "service api, unit ward-api.service of systemd"
    assert caught.value.expected == "stopped within 1 s"
    assert caught.value.found.startswith("deactivating (stop-sigterm); last lines of its output:\n  waiting for jobs\n")
    assert "hunter2" not in str(caught.value)
    assert systemd.calls()[-1] == "journalctl --unit ward-api.service -n 20 --no-pager -o cat"


def test_a_unit_that_fails_at_its_start_is_reported_at_once(systemd: Systemd) -> None:
    systemd.plays(
        shown("failed", "failed", result="exit-code"),
        start={"then": [shown("failed", "failed", job="5"), shown("failed", "failed", result="exit-code", invocation="b2")]},
        journal="Traceback\nRuntimeError: no such table\n",
    )
    with pytest.raises(StepFailed, match=r"failed \(failed, exit-code\).*\n.*\n  RuntimeError: no such table"):
        services.start([unit(start_seconds=300)])


def test_a_unit_that_systemd_starts_again_and_again_is_stopped(systemd: Systemd) -> None:
    again = shown("activating", "auto-restart", result="exit-code", invocation="b2")
    systemd.plays(STOPPED, start={"then": [again]}, stop={"then": [STOPPED]})
    with pytest.raises(StepFailed, match=r"activating \(auto-restart, exit-code\)"):
        services.start([unit(start_seconds=300)])
    assert STOP in systemd.calls()
    assert services.status([unit()]) == {"api": False}


def test_a_unit_that_was_restarted_while_it_was_watched_has_not_started(systemd: Systemd) -> None:
    first, second = (shown("active", "running", invocation=name) for name in ("b2", "c3"))
    systemd.plays(STOPPED, start={"then": [first, second]}, stop={"then": [STOPPED]})
    with pytest.raises(StepFailed, match=r"started again: it ended within 0\.3 s"):
        services.start([unit(start_seconds=300)])


def test_a_unit_that_ends_by_itself_has_not_started(systemd: Systemd) -> None:
    systemd.plays(STOPPED, start={"then": [RUNNING, STOPPED]})
    with pytest.raises(StepFailed, match=r"found inactive \(dead\)"):
        services.start([unit(start_seconds=300)])


def test_a_unit_that_is_restarted_automatically_is_not_at_rest(systemd: Systemd) -> None:
    systemd.plays(shown("activating", "auto-restart"))
    assert services.status([unit()]) == {"api": True}


def test_a_stop_that_is_undone_is_ordered_again(systemd: Systemd) -> None:
    systemd.plays(RUNNING, stop={"then": [shown("active", "running", invocation="c3")]})
    with pytest.raises(StepFailed, match="found running"):
        services.stop([unit(stop_seconds=3)])
    assert systemd.calls().count(STOP) > 1


def test_the_environment_is_that_of_the_main_process(systemd: Systemd) -> None:
    systemd.plays(str(os.getpid()))
    started = Path("/proc/self/environ").read_bytes().decode()
    assert services.environment(unit()) == dict(part.partition("=")[::2] for part in started.split("\0") if "=" in part)
    assert systemd.calls() == ["systemctl show --property=MainPID --value -- ward-api.service"]
    for pid in ("0", "not a number", "4194305"):
        systemd.plays(pid)
        assert services.environment(unit()) is None, "there is no such process"


def test_an_unknown_unit_is_an_error_and_not_a_stopped_one(systemd: Systemd) -> None:
    for load in ("not-found", "bad-setting", "error", "masked"):
        systemd.plays(shown("inactive", "dead", load=load))
        with pytest.raises(CannotCheck, match=f"expected a unit that is loaded; found {load}") as caught:
            services.stop([unit()])
        assert not isinstance(caught.value, Unreachable)
    # One whose file went away while it ran can still be stopped.
    systemd.plays(shown("active", "running", load="not-found"), stop={"then": [STOPPED]})
    assert services.stop([unit()])[0].now == "stopped"


def test_a_refused_order_is_reported_with_its_reason(systemd: Systemd) -> None:
    says = "Failed to stop ward-api.service: Interactive authentication required.\n"
    systemd.plays(RUNNING, stop={"code": 4, "says": says})
    with pytest.raises(StepFailed, match=r"exit status 4: Failed to stop ward-api\.service: Interactive"):
        services.stop([unit()])


def test_a_systemd_that_does_not_answer_is_unreachable(systemd: Systemd) -> None:
    systemd.plays("")
    with pytest.raises(Unreachable, match="systemd does not answer"):
        services.status([unit()])


def test_a_host_without_systemd_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotCheck, match=r"systemctl: a command of the plan cannot be run.*No such file"):
        services.status([unit()])
