"""The end of a schedule: nothing is disturbed any more, one retry or one rollback follows, and the judge has a look.

Where only a person can end it by design, because no file lies in its place, or one that is not the application's, the words
of the step that failed must say so; then that person acts, and one more rollback must do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.cutover.evidence.record import Evidence
from include.cutover.runs.verdict import has_touched
from tests.exploring import judging_kept
from tests.exploring.judging import Before, Judge
from tests.exploring.site import PLAN, plan_file
from tests.exploring.walking import Run, downstream
from tests.support.incidents import close_incidents

if TYPE_CHECKING:
    from tests.exploring.schedules import Schedule


class Ending:
    """Brings a schedule to its end; the findings go into its result."""

    def __init__(self, schedule: Schedule, before: Before) -> None:
        self.schedule = schedule
        self.before = before
        self.site = schedule.site
        self.world = schedule.world
        self.random = schedule.random
        self.result = schedule.result
        self.calm_since = len(schedule.world.failures)

    def play(self) -> None:
        """End it, judge it, and now and then go on from there."""
        outcome = self._brought_to_an_end()
        self.result.ended = outcome
        self.result.faults += Judge(self.site, self.before).verdict(outcome)
        acted = bool(self.schedule.others.acted)
        if not self.result.faults and acted and outcome == "rolled_back" and self.random.random() < 0.5:
            self._once_more(outcome)
        if not self.result.faults and self.random.random() < 0.25:
            self._again(outcome)

    def _brought_to_an_end(self) -> str:
        """Let everything run to its end, then try once more what did not end; return how the last run is sealed."""
        self.site.trace.append("nothing is disturbed any more")
        self.schedule.others.let_go()
        (self.site.plans / f"{PLAN}.yaml").write_text(plan_file(), encoding="utf-8")
        self.world.walk()
        evidence = self._last()
        if evidence is None:
            return "abandoned"
        if not self._ended(evidence):
            self._try_once(evidence)
        if not self._ended(evidence) and self._person_acts(evidence):
            self._go_back(evidence)
        self._never_green_without_live()
        sealed = evidence.sealed
        return "open" if sealed is None else str(sealed["outcome"])

    def _try_once(self, evidence: Evidence) -> None:
        """Clear the task that failed, or close a run that stopped nothing; where that cannot be, go back."""
        first = next(run for run in self.world.runs if evidence.folder.name == run.run_id)
        closing = first.of("close_run")[0]
        chance = self.random.random()
        holder = self._holder(evidence)
        if closing.state != "success" and not has_touched(evidence.events()) and chance < 0.5:
            # There is nothing to roll back: the last task is tried once more, and ends the run.
            self.world.clear(first, [closing])
            self.world.walk()
        elif holder is not None and chance < 0.3:
            self._clear_failed(holder)
            self.world.walk()
            return
        if not self._ended(evidence):
            self._go_back(evidence)

    def _go_back(self, evidence: Evidence) -> None:
        # The DAG refuses a run that stopped nothing: that one ends by its own last task, or by the command.
        if self.random.random() < 0.5 or not has_touched(evidence.events()):
            self.world.command("break glass", lambda: self.site.break_glass(evidence))
        else:
            self.schedule.roll_back()
        self.world.walk()

    def _holder(self, evidence: Evidence) -> Run | None:
        """Return the run that holds the lease, when a task of its way back failed; clearing that one must do."""
        asked = [event for event in evidence.events() if event["event"] in ("rollback.asked", "reopened", "run.opened")]
        name = asked[-1].get("holder") or f"{asked[-1].get('dag_id')}/{asked[-1].get('run_id')}"
        run = next((run for run in self.world.runs if f"{run.dag.dag_id}/{run.run_id}" == name), None)
        return run if run is not None and any(self._failed_on_the_way_back(run)) else None

    def _failed_on_the_way_back(self, run: Run) -> list[object]:
        ways = ("rollback.", "release.")
        return [item for item in run.instances if item.state == "failed" and item.task.task_id.startswith(ways)]

    def _clear_failed(self, run: Run) -> None:
        """Clear the task that failed, or one before it that was marked as success, as the failure says; and all after it."""
        way = [item for item in run.instances if item.task.task_id.startswith(("rollback.", "release."))]
        marked = [item for item in way if f"{run.run_id}: marked {item.name} as success" in self.site.trace]
        first = next(item for item in way if item.state == "failed" or item in marked)
        self.world.clear(run, [first, *downstream(run, first)])

    def _person_acts(self, evidence: Evidence) -> bool:
        """Do as the failure's text says, where the application's file is missing or is another one by others' deeds."""
        file = self.site.shop.database
        missing = not file.exists()
        fresh = any(line.get("fresh") for line in self.site.shop.journal.read() if line["what"] == "written")
        if not (missing and self.schedule.others.away) and not (fresh and not missing):
            return False
        read = [judging_kept.last_words(evidence.folder), *self.world.failures[self.calm_since :]]
        words = [text for text in read if f"{file.name}:" in text and len(text.rstrip().rsplit(". ", 1)) > 1]
        if not words:
            self.result.faults.append(f"a person must act on the file, and no failure says how: {read}")
        self.site.trace.append(f"a person reads: {words[-1][:400] if words else 'nothing that helps'}")
        if not missing:
            self.site.shop.stop(self.site.shop.up())
            self.schedule.others.clear_place()
        self.schedule.others.put_back()
        return True

    def _never_green_without_live(self) -> None:
        for run in self.world.runs:
            if run.dag is self.site.cutover and run.of("close_run")[0].state == "success":
                own = self.site.of(run.run_id)
                marked = any(f"{run.run_id}: marked close_run" in line for line in self.site.trace)
                was_live = any(event["event"] == "sealed" and event["outcome"] == "live" for event in own.events())
                if not was_live and not marked:
                    self.result.faults.append(f"{run.run_id} is green and never was live")

    def _last(self) -> Evidence | None:
        opened = self.site.opened
        return opened[-1] if opened else None

    def _last_run_id(self) -> str:
        last = self._last()
        return "" if last is None else last.folder.name

    @staticmethod
    def _ended(evidence: Evidence) -> bool:
        sealed = evidence.sealed
        return sealed is not None and sealed["outcome"] != "failed"

    def _once_more(self, outcome: str) -> None:
        """The application has written since; somebody clears steps of the way back and rolls back again, both ways."""
        self.site.trace.append("the run is rolled back, and somebody rolls back again")
        evidence = self._last()
        assert evidence is not None
        for run in self.world.runs:
            back = [item for item in run.instances if item.state is not None and item.task.task_id.startswith("rollback.")]
            if back and self.random.random() < 0.7:
                chosen = self.random.choice(back)
                self.world.clear(run, [chosen, *downstream(run, chosen)])
        if self.random.random() < 0.7:
            self.site.trigger_rollback("once-more", evidence.folder.name)
        self.world.walk()
        if self.random.random() < 0.7:
            self.world.command("break glass", lambda: self.site.break_glass(evidence))
            self.world.walk()
        self.result.ended += ", and once more"
        self.result.faults += Judge(self.site, self.before).verdict(outcome)

    def _again(self, outcome: str) -> None:
        """An ended run is not an obstacle: a live application goes back, one that is back goes live."""
        self.schedule.others.close()
        if outcome == "live":
            self.schedule.roll_back()
            self.world.walk()
            expected = "rolled_back"
        else:
            closed = close_incidents(PLAN)
            if closed != ([self._last_run_id()] if outcome in ("rolled_back", "released") else []):
                self.result.faults.append(f"the incidents that could be closed were {closed}")
            again = self.site.trigger("again")
            self.world.walk()
            if again.state != "success":
                self.result.faults.append("a fresh run does not go live")
            expected = "live"
        last = self._last()
        sealed = last.sealed if last else None
        ended = str(sealed["outcome"]) if sealed else "open"
        self.result.ended += f", then {ended}"
        if ended != expected:
            self.result.faults.append(f"afterwards it ended as {ended}, not {expected}")
        else:
            self.result.faults += Judge(self.site, self.before).verdict(ended)
