"""Renders the assessment as a page: blocking findings first, each with its keys and the lines that decide it.

Everything from the source or the plan is escaped here; content was shortened and masked when it was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from include.cutover.assessment.findings import Assessment, Finding, Severity
from include.cutover.plan.model import Plan
from include.cutover.report import pages
from include.cutover.report.words import duration

_STYLE = """
.verdict { border-left: 8px solid var(--line); background: var(--band); border-radius: 8px; padding: 12px 18px;
  margin: 0 0 20px; }
.verdict.bad { border-color: var(--bad); background: var(--bad-band); }
.verdict.good { border-color: var(--good); background: var(--good-band); }
.verdict h1 { margin: 0 0 4px; } .verdict p { margin: 0; }
.finding { border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; margin: 0 0 12px; break-inside: avoid; }
.finding.bad { border-left: 5px solid var(--bad); } .finding.warn { border-left: 5px solid var(--warn); }
.finding h3 { font-size: 15px; margin: 0 0 6px; display: flex; gap: 10px; align-items: baseline; flex-wrap: wrap; }
.finding h3 .rows { margin-left: auto; font-weight: 400; color: var(--soft); white-space: nowrap; }
.finding .body { display: grid; grid-template-columns: 1fr; gap: 4px 24px; align-items: start; }
.finding .body.decidable { grid-template-columns: 1fr minmax(320px, 36%); }
.finding dl { display: grid; grid-template-columns: 8.5em 1fr; gap: 2px 12px; margin: 0; }
.finding dt { color: var(--soft); } .finding dd { margin: 0; overflow-wrap: anywhere; }
code { font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.finding dd code { margin-right: 12px; white-space: nowrap; }
pre.plan { margin: 2px 0 0; padding: 8px 12px; background: var(--band); border-radius: 6px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
.wide { overflow-x: auto; } .notes td:first-child { white-space: nowrap; }
@media (max-width: 720px) {
  .finding .body.decidable { grid-template-columns: 1fr; } .finding dl { display: block; }
  .finding dd { margin-bottom: 6px; } .notes td:first-child { white-space: normal; }
}
"""

_HEADINGS: dict[Severity, tuple[str, str]] = {
    "blocks": ("Blocking", "Correct the source, or add a decision to the plan where one is offered."),
    "decision applied": ("Decided by the plan", "Every row that a decision touches is listed in the run's evidence."),
    "note": ("Notes", ""),
}


def render_html(assessment: Assessment, plan: Plan) -> str:
    """Render the assessment as one HTML page without external files."""
    body = [f"<style>{_STYLE}</style>", _verdict(assessment, plan)]
    for severity, (heading, advice) in _HEADINGS.items():
        findings = assessment.of(severity)
        if not findings:
            continue
        body.append(f"<h2>{heading} ({len(findings)})</h2>")
        body.append(f"<p><small>{advice}</small></p>" if advice else "")
        body += [_notes(findings)] if severity == "note" else [_finding(item) for item in findings]
    body.append(_tables(assessment))
    return pages.page(f"Assessment of {assessment.source}", "".join(body))


def _verdict(assessment: Assessment, plan: Plan) -> str:
    count = len(assessment.blocks)
    tone, headline = "good", "The cutover may start"
    if count:
        tone, headline = "bad", f"{count} finding{'s' if count > 1 else ''} block{'' if count > 1 else 's'} the cutover"
    decided, notes = len(assessment.of("decision applied")), len(assessment.of("note"))
    return (
        f'<div class="verdict {tone}"><h1>{headline}</h1>'
        f"<p>{escape(plan.application)}: <code>{escape(assessment.source)}</code> against the plan"
        f" <code>{escape(assessment.plan)}</code>. {assessment.rows:,} rows in {len(assessment.tables)} tables,"
        f" read in {duration(assessment.seconds)}. {decided} decided by the plan, {notes} notes.</p></div>"
    )


def _finding(finding: Finding) -> str:
    tone = "bad" if finding.severity == "blocks" else "warn"
    rows = f'<span class="rows">{finding.rows:,} row{"s" if finding.rows != 1 else ""}</span>' if finding.rows else ""
    facts = [
        ("Found", escape(finding.value)),
        ("For example", f"<code>{escape(finding.example)}</code>" if finding.example else ""),
        ("First keys", " ".join(f"<code>{escape(key)}</code>" for key in finding.keys)),
        ("Becomes", escape(finding.becomes)),
        ("To do", escape(finding.do)),
    ]
    shown = "".join(f"<dt>{name}</dt><dd>{fact}</dd>" for name, fact in facts if fact)
    plan, decidable = "", ""
    if finding.decide:
        decidable = " decidable"
        plan = f'<div><small>Or in the plan:</small><pre class="plan">{escape(finding.decide)}</pre></div>'
    return (
        f'<div class="finding {tone}"><h3><code>{escape(finding.where) or "the plan"}</code>'
        f'<span>{escape(finding.title)}</span><span class="badge {tone}">{escape(finding.code)}</span>{rows}</h3>'
        f'<div class="body{decidable}"><dl>{shown}</dl>{plan}</div></div>'
    )


def _notes(findings: Sequence[Finding]) -> str:
    rows = []
    for finding in findings:
        keys = f"<br><small>{'; '.join(escape(key) for key in finding.keys)}</small>" if finding.keys else ""
        decide = f'<pre class="plan">{escape(finding.decide)}</pre>' if finding.decide else ""
        where = f"<code>{escape(finding.where)}</code>" if finding.where else ""
        rows.append(
            f"<tr><td>{where}</td><td>{escape(finding.title)}"
            f'<br><small class="code">{escape(finding.code)}</small></td>'
            f'<td class="number">{f"{finding.rows:,}" if finding.rows else ""}</td>'
            f"<td>{escape(finding.value)}{keys}</td><td>{escape(finding.becomes)}{decide}</td></tr>"
        )
    return (
        '<div class="wide"><table class="notes"><thead><tr><th>Where</th><th>Finding</th><th class="number">Rows</th>'
        f"<th>Found</th><th>In the target</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _tables(assessment: Assessment) -> str:
    rows = "".join(
        f'<tr><td><code>{escape(name)}</code></td><td class="number">{count:,}</td></tr>'
        for name, count in assessment.tables.items()
    )
    return (
        f"<details><summary>Tables that were read ({len(assessment.tables)})</summary><table><thead><tr><th>Table</th>"
        f'<th class="number">Rows</th></tr></thead><tbody>{rows}</tbody></table></details>'
        "<p><small>docs/assessment.md lists what an assessment cannot find.</small></p>"
    )
