"""A unit of systemd, through systemctl and journalctl."""

from __future__ import annotations

from collections.abc import Mapping

from include.cutover.application.control.controller import LOG_LINES, ByCommands, ServiceState, environment_of
from include.cutover.connections.commands import Runner
from include.cutover.errors import CannotCheck, Unreachable
from include.cutover.plan.application import SystemdControl

_PROPERTIES = ("LoadState", "ActiveState", "SubState", "Result", "Job", "InvocationID")


class Systemd(ByCommands):
    """See ``plan.SystemdControl``. Orders are queued, so that no unit waits for another; then its job is watched."""

    def __init__(self, control: SystemdControl, runner: Runner) -> None:
        """Run nothing yet."""
        super().__init__(runner, f"unit {control.unit} of systemd")
        self.steady_seconds = control.steady_seconds
        self._unit = control.unit
        self._sudo = ["sudo", "-n"] if control.sudo else []
        self._user = ["--user"] if control.scope == "user" else []

    def state(self) -> ServiceState:
        """Read the unit's properties. A unit that systemd does not know counts as an error, not as stopped."""
        wanted = ",".join(_PROPERTIES)
        ran = self._look(["systemctl", *self._user, "show", f"--property={wanted}", "--", self._unit])
        found = dict(line.split("=", 1) for line in ran.output.splitlines() if "=" in line)
        active, sub, loaded = (found.get(name, "") for name in ("ActiveState", "SubState", "LoadState"))
        if ran.code != 0 or not active or not loaded:
            raise Unreachable(
                "systemd does not answer",
                where=self.where,
                expected="its properties from 'systemctl show'",
                found=f"{ran.ended}, {ran.excerpt()}",
                do="Run 'systemctl show' by hand as the user of the tasks.",
            )
        if loaded != "loaded" and active in ("inactive", "failed"):
            raise CannotCheck(
                "systemd cannot start the unit",
                where=self.where,
                expected="a unit that is loaded",
                found=loaded,
                do="Compare the plan's services with 'systemctl list-unit-files'.",
            )
        job = found.get("Job", "") not in ("", "0")
        running = active in ("active", "reloading", "refreshing") and not job
        result = found.get("Result", "")
        detail = ", ".join(part for part in (sub, "" if result in ("", "success") else result) if part and not running)
        return ServiceState(
            "running" if running else active,
            running=running,
            at_rest=active in ("inactive", "failed") and not job,
            failing=(active == "failed" and not job) or sub == "auto-restart" or active == "maintenance",
            detail=detail if loaded == "loaded" else f"{loaded} {detail}".strip(),
            start=found.get("InvocationID", ""),
        )

    def stop(self, seconds: float) -> None:
        """Queue a job to stop."""
        self._tell("stop", seconds)

    def start(self, seconds: float) -> None:
        """Queue a job to start."""
        self._tell("start", seconds)

    def _tell(self, verb: str, seconds: float) -> None:
        self._order([*self._command(verb)], seconds)

    def _command(self, verb: str) -> list[str]:
        return [*self._sudo, "systemctl", *self._user, "--no-ask-password", verb, "--no-block", "--", self._unit]

    def must_stop_again(self, state: ServiceState) -> bool:
        """Return True when its job was replaced by another."""
        return state.running or (state.failing and not state.at_rest)

    def may_control(self) -> str:
        """Ask sudo, where it is used, about exactly these commands. Without sudo, polkit decides at the order."""
        if not self._sudo:
            return ""
        for verb in ("stop", "start"):
            ran = self._look([*self._sudo, "-l", "--", *self._command(verb)[len(self._sudo) :]])
            if ran.code != 0:
                return f"sudo asks for a password for {verb}"
        return ""

    def environment(self) -> Mapping[str, str] | None:
        """Return the environment of the unit's main process."""
        ran = self._look(["systemctl", *self._user, "show", "--property=MainPID", "--value", "--", self._unit])
        pid = ran.output.strip()
        return environment_of(self._runner, int(pid)) if ran.code == 0 and pid.isdecimal() else None

    def output(self) -> str:
        """Return the unit's last lines in the journal."""
        unit = ["--user-unit" if self._user else "--unit", self._unit]
        ran = self._look([*self._sudo, "journalctl", *unit, "-n", str(LOG_LINES), "--no-pager", "-o", "cat"])
        if ran.code != 0:
            raise CannotCheck("the journal cannot be read", where=self.where, found=ran.excerpt())
        return ran.output
