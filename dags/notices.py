"""# Notices: read, edit, release or withhold them

For the communicator, the lead and the deputies. **preview** shows every notice of a run, in the log and in the task's
result in Airflow: its text, when it is sent, who got it. **release** sends one, with another text where one is given; one
with a time of its own (`freeze`, `delay.half`, `delay.three_quarters`, `deadline`) is sent when it is due. **withhold**
keeps it from every channel that has not got it, until it is released.

With `channels.release: communicator` in the plan, each notice is held for `release_minutes` and then sent: a cutover does
not wait for a text. A delivered notice cannot be changed any more. The evidence records each action and its author.

Before a run: `python -m include.cutover notices --plan <plan>` shows all of its notices.
"""

from __future__ import annotations

from include.cutover.plan.model import Plan
from include.cutover.steps.edit_notice import edit_notice
from include.cutover.tasks import forms, per_plan
from include.cutover.tasks.call import CallOperator
from include.cutover.tasks.limits import CALLS

FORM = {
    "action": forms.choice(
        "Action",
        "preview only shows; release and withhold concern the notice named below.",
        "preview",
        "release",
        "withhold",
    ),
    "notice": forms.optional(
        "Notice",
        "start, freeze, delay.half, delay.three_quarters, deadline, completion, rollback or cancelled; "
        "the preview lists the notices of the run.",
        longest=40,
    ),
    "text": forms.optional(
        "Text",
        "The new text; empty: as it is written. <reason> becomes the work still to do, where the clock sends it.",
        longest=4000,
    ),
    "run": forms.optional(
        "Run", "Run id of the cutover or of the schedule; empty means what is scheduled, else the newest run."
    ),
}


def notices(plan: Plan) -> None:
    """Create the task of the communicator's form."""
    CallOperator(task_id="edit_notice", plan=plan.name, body=edit_notice)


globals().update(
    per_plan.dags(
        "notices",
        notices,
        doc=__doc__,
        description="Edits and releases the notices of {application}",
        form=FORM,
        settings=lambda _: {"default_args": CALLS},
    )
)
