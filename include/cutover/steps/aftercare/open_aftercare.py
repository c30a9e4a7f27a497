"""Opens the aftercare of a cutover that went live."""

from __future__ import annotations

from datetime import datetime, timedelta

from include.cutover.aftercare import checks as aftercare_checks
from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare.checks import Rate
from include.cutover.errors import Refused
from include.cutover.steps.aftercare.watch import Watch
from include.cutover.steps.step import Report


def open_aftercare(watch: Watch) -> Report:
    """Open the aftercare of a run that is live; a second try finds it open.

    Raises:
        Refused: When there is no such run, it is not live, or another run of this DAG watches it.
    """
    run, settings = watch.run_id, watch.settings
    if not aftercare_record.is_live(watch.cutover):
        raise Refused(
            "there is nothing to watch",
            where=run,
            expected="a cutover that is live",
            found="no such run" if not watch.cutover.exists else "it is not live, or is rolled back",
            do="Enter the run id of the cutover.",
        )
    opened = watch.evidence.last(aftercare_record.OPENED) if watch.evidence.exists else None
    if opened is not None:
        if opened["own_run_id"] != watch.own_run_id:
            raise Refused(
                "another run watches this cutover already",
                where=run,
                found=f"by {opened['own_run_id']}",
                do="Follow that run.",
            )
        return Report("the aftercare is open")
    live = watch.cutover.last("run.opened") or {}
    kept = watch.cutover.last(aftercare_record.BASELINE) or {}
    stopped = datetime.fromisoformat((watch.cutover.last("services.stopped") or watch.cutover.events()[0])["time"])
    rates = {
        item.table: aftercare_checks.rate_before(watch.of_cutover.decided.file, watch.plan, item, stopped).as_dict()
        for item in settings.growing
    }
    started = aftercare_record.started_at(watch.cutover)
    statistics = kept.get("statistics") or {}
    watch.evidence.append(
        aftercare_record.OPENED,
        run_id=run,
        plan=watch.plan.name,
        application=watch.plan.application,
        own_run_id=watch.own_run_id,
        actor=live.get("actor"),  # the person who took it live; any user may have triggered this DAG
        notices=bool(live.get("notices", True)),
        started=started.isoformat(),
        until=(aftercare_record.now() + timedelta(minutes=settings.minutes)).isoformat(),
        statistics=statistics,
        logs=kept.get("logs") or {},
        rates=rates,
    )
    summary = "; ".join(f"{table} {Rate(**rate).per_second * 60:,.1f} a minute before" for table, rate in rates.items())
    return Report(f"watching {run} for {settings.minutes:g} minutes" + (f"; {summary}" if summary else ""))
