"""Cutover's pages on Airflow's API server: the runs of a plan, a run's report, its aftercare, incident document, Data Docs.

Rendered from the evidence at each request, so they work during a run, and need neither source nor target. The reader must be
logged in to Airflow, and sees a plan's pages only with the right to see the DAG ``cutover_<plan>``. Only these pages are
served: no events, no frozen plan, no backup, no kept file. Nothing here changes anything.

No page loads anything from another host: the pages live on Airflow's own origin, where a foreign script could do everything
that the reader may do. The one script is ours: it opens links to elsewhere in the whole window, and reloads the report of an
open run.
"""

from __future__ import annotations

import logging
import re
from html import escape
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import quote

from airflow.api_fastapi.core_api.security import GetUserDep, get_user, requires_access_dag
from fastapi import Depends, FastAPI, HTTPException, Request, Response, status
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import ValidationError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from include.cutover.aftercare import record as aftercare_record
from include.cutover.aftercare import report as aftercare_report
from include.cutover.errors import CannotCheck, CutoverError
from include.cutover.evidence.record import Evidence, evidence_root
from include.cutover.files import slug
from include.cutover.places import plans_folder
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.plan.types import RESERVED_NAMES
from include.cutover.report import addresses, data_docs, pages, run_list
from include.cutover.report.page import run_report
from include.cutover.steps.step import frozen_plan, subject_of
from include.cutover.ui.links import plan_of

log = logging.getLogger(__name__)

INCIDENT = "incident.md"
REFRESH_SECONDS = 5

_LINK_TO_FILE = re.compile(r'<a href="(?![a-z]+:|/|#|data_docs/)([^"]*)">(.*?)</a>')
_PLAN = re.compile(r"[a-z][a-z0-9_]{0,40}")
_POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; {script}"
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY.format(script=""),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}
_OWN_SCRIPT = {"Content-Security-Policy": _POLICY.format(script="script-src 'self'; ")}

# Airflow shows these pages in a frame that may not move the window it is in. A link in the window's own document may.
# A reload keeps the place to which the reader has scrolled.
_SCRIPT = """\
"use strict";
const script = document.currentScript;
const own = script.src.replace(/-\\/page\\.js$/, "");
if (script.dataset.againAfter) setTimeout(() => window.location.reload(), 1000 * script.dataset.againAfter);
document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
  if (link === null || link.href.startsWith(own) || window.parent === window) return;
  if (event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const outer = window.parent.document.createElement("a");
  outer.href = link.href;
  outer.click();
});
"""
# For light and dark: the navigation shows it on a light ground, and on a dark one in dark mode.
_ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" stroke-linecap="round" stroke-linejoin="round">
<g fill="#fff" stroke="#fff" stroke-width="4"><path d="M3 7v10c0 1.3 2 2.3 4.5 2.3s4.5-1 4.5-2.3V7"/>
<ellipse cx="7.5" cy="7" rx="4.5" ry="2.3"/><path d="M15 12h6.5m-2.8-2.8 2.8 2.8-2.8 2.8" fill="none"/></g>
<g fill="#fff" stroke="#2f4b7c" stroke-width="2"><path d="M3 7v10c0 1.3 2 2.3 4.5 2.3s4.5-1 4.5-2.3V7"/>
<ellipse cx="7.5" cy="7" rx="4.5" ry="2.3"/><path d="M15 12h6.5m-2.8-2.8 2.8 2.8-2.8 2.8" fill="none" stroke="#d9480f"/></g>
</svg>
"""


class _Guarded:
    """Adds the headers to every response, also when our own code fails."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def send_with_headers(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception:
            log.exception("%s could not be served", scope["path"])
            if not began:
                text = pages.message("This cannot be shown", "The API server's log has the reason.")
                failed = HTMLResponse(text, status.HTTP_500_INTERNAL_SERVER_ERROR)
                await failed(scope, receive, send_with_headers)


app = FastAPI(
    title="Cutover",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    redirect_slashes=False,
    default_response_class=HTMLResponse,
    dependencies=[Depends(get_user)],
)
app.add_middleware(_Guarded)


@app.exception_handler(HTTPException)
async def refuse(request: Request, error: HTTPException) -> Response:
    """Refuse a request with a page; a browser without a log-in is sent to the log-in."""
    if error.status_code == status.HTTP_401_UNAUTHORIZED:
        if _is_opened_by_a_person(request):
            root = request.scope.get("app_root_path", "")
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"{root}/api/v2/auth/login?next={quote(target, safe='')}", status.HTTP_303_SEE_OTHER)
        return HTMLResponse(pages.message("Not logged in", "Log in to Airflow first."), error.status_code)
    if error.status_code == status.HTTP_403_FORBIDDEN:
        return HTMLResponse(pages.message("Not allowed", "You may not see this."), error.status_code)
    title = "Not found" if error.status_code == status.HTTP_404_NOT_FOUND else "Not possible"
    return HTMLResponse(pages.message(title, str(error.detail)), error.status_code)


@app.exception_handler(CutoverError)
async def explain(request: Request, error: CutoverError) -> Response:
    """Explain on a page why something cannot be shown, without the paths of files."""
    log.warning("%s: %s", request.url.path, error)
    return HTMLResponse(
        pages.message("This cannot be shown", f"{error.message}.", error.do), status.HTTP_500_INTERNAL_SERVER_ERROR
    )


def _is_opened_by_a_person(request: Request) -> bool:
    """Report whether a page is opened in a window of its own; not in a frame, as an image or by a program."""
    wanted = request.headers.get("sec-fetch-dest")
    if wanted is not None:
        return wanted == "document"
    return "authorization" not in request.headers and "text/html" in request.headers.get("accept", "")


def _not_found(detail: str = "There is no such page.") -> HTTPException:
    return HTTPException(status.HTTP_404_NOT_FOUND, detail)


def readable_plan(plan: str, request: Request, user: GetUserDep) -> str:
    """Return the plan's name if the user may see its DAG. Without that right even its existence stays hidden."""
    if not _PLAN.fullmatch(plan):
        raise _not_found()
    requires_access_dag(method="GET", param_dag_id=f"cutover_{plan}")(request, user)
    return plan


ReadablePlan = Annotated[str, Depends(readable_plan)]


def readable_evidence(plan: ReadablePlan, run: str) -> Evidence:
    """Return the evidence of a run of a plan that the user may see."""
    evidence = addresses.evidence_of(plan, run)
    if evidence.folder.is_symlink() or not evidence.exists:
        raise _not_found("No run of this name left evidence.")
    return evidence


ReadableEvidence = Annotated[Evidence, Depends(readable_evidence)]


def _base(request: Request) -> str:
    """Return the path under which this application is mounted, with Airflow's own before it."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def _plans() -> list[str]:
    """List the names of all plans, also of those whose file is gone while their evidence still exists."""
    names = {path.stem for path in plans_folder().glob("*.yaml")}
    if evidence_root().is_dir():
        names |= {folder.name for folder in evidence_root().iterdir() if folder.is_dir()}
    return sorted(name for name in names - RESERVED_NAMES if _PLAN.fullmatch(name))


@app.get("/")
def all_runs(request: Request, user: GetUserDep) -> Response:
    """Serve the runs of every plan whose DAG the user may see."""
    found = {}
    for name in _plans():
        try:
            readable_plan(name, request, user)
        except HTTPException:
            continue
        found[name] = run_list.runs_of(name)
    return HTMLResponse(run_list.runs_page(found, _base(request)))


@app.get("/-/page.js")
def script() -> Response:
    """Serve the one script, see the module's docstring."""
    return Response(_SCRIPT, media_type="text/javascript")


@app.get("/-/icon.svg")
def icon() -> Response:
    """Serve the icon of the tab and of the navigation."""
    return Response(_ICON, media_type="image/svg+xml")


@app.get("/-/dag_run/{dag_id}/{run_id}")
def of_dag_run(dag_id: str, run_id: str, request: Request, user: GetUserDep) -> Response:
    """Redirect a run of any DAG to its report; a rollback to the report of the cutover that it worked on.

    Args:
        dag_id: Id of the DAG.
        run_id: Id of its run.
        request: The request.
        user: The reader.
    """
    name = plan_of(dag_id)
    if not name:
        raise _not_found("This DAG is not part of a cutover, so its runs have no report.")
    plan = readable_plan(name, request, user)
    watched = aftercare_record.subject_of(plan, run_id) if dag_id == f"aftercare_{plan}" else None
    if watched is not None:
        return RedirectResponse(f"{_base(request)}/{plan}/{quote(slug(watched))}/aftercare", status.HTTP_303_SEE_OTHER)
    key = addresses.key_of_dag_run(dag_id, plan, _subject(plan, run_id) or run_id)
    if not addresses.evidence_of(plan, key).exists:
        raise _not_found("This run has no evidence yet. See the log of its first task.")
    return RedirectResponse(f"{_base(request)}/{plan}/{quote(key)}/", status.HTTP_303_SEE_OTHER)


@app.get("/{plan}")
@app.get("/{plan}/")
def runs_of_plan(plan: ReadablePlan, request: Request) -> Response:
    """Serve the runs of one plan."""
    if plan not in _plans():
        raise _not_found("There is no such plan.")
    return HTMLResponse(run_list.runs_page({plan: run_list.runs_of(plan)}, _base(request)))


@app.get("/{plan}/{run}")
def run_without_slash(plan: ReadablePlan, evidence: ReadableEvidence, request: Request) -> Response:
    """Redirect to the report's address: the links in it are relative."""
    return RedirectResponse(f"{_base(request)}/{plan}/{quote(addresses.key_of(evidence))}/", status.HTTP_303_SEE_OTHER)


@app.get("/{plan}/{run}/")
def run_page(plan: ReadablePlan, evidence: ReadableEvidence, request: Request) -> Response:
    """Serve the report as of now; for a rollback run, redirect to that of its cutover."""
    subject = _subject(plan, addresses.key_of(evidence))
    if subject is not None:
        return RedirectResponse(f"{_base(request)}/{plan}/{quote(slug(subject))}/", status.HTTP_303_SEE_OTHER)
    # Asked first: a run that is sealed in between is reloaded once more, instead of once too little.
    is_open = _is_open(evidence)
    html = run_report(evidence, _plan_of_run(plan, evidence))
    if aftercare_record.evidence_of(plan, evidence.folder.name).exists:
        html = html.replace("<h1", '<p><a href="aftercare">After go-live: findings since</a></p><h1', 1)
    return _document(
        _LINK_TO_FILE.sub(_only_what_is_served, html), request, again_after=REFRESH_SECONDS if is_open else None
    )


def _is_open(evidence: Evidence) -> bool:
    try:
        return evidence.sealed is None
    except CannotCheck:
        return False


def _subject(plan: str, run: str) -> str | None:
    """Return the cutover that a rollback run works on; None for any other run, and where the evidence is damaged."""
    try:
        return subject_of(plan, run)
    except CannotCheck:
        return None


def _only_what_is_served(link: re.Match[str]) -> str:
    """Keep a link to a file of the evidence only if it has a page, as report and incident document do."""
    address = {INCIDENT: "incident", "report.html": "./"}.get(link[1])
    return f'<a href="{address}">{link[2]}</a>' if address else link[2]


def _plan_of_run(plan: str, evidence: Evidence) -> Plan:
    """Return the plan that the run froze; today's where it froze none, or one of another version."""
    try:
        return frozen_plan(evidence) or load_plan(plan)
    except ValidationError:
        return load_plan(plan)


@app.get("/{plan}/{run}/aftercare")
def after_go_live(plan: ReadablePlan, evidence: ReadableEvidence, request: Request) -> Response:
    """Serve the post-cutover report as of now."""
    watched = aftercare_record.evidence_of(plan, evidence.folder.name)
    if watched.folder.is_symlink() or not watched.exists:
        raise _not_found("This run has no aftercare yet.")
    is_over = aftercare_record.is_over(watched)
    html = aftercare_report.render(watched, evidence, _plan_of_run(plan, evidence))
    return _document(
        html.replace("<main>", '<main><p><a href="./">Report of the cutover</a></p>', 1),
        request,
        again_after=None if is_over else REFRESH_SECONDS,
    )


@app.get("/{plan}/{run}/incident")
def incident(plan: ReadablePlan, evidence: ReadableEvidence, request: Request) -> Response:
    """Serve the incident document of a run that was rolled back."""
    path = evidence.folder / INCIDENT
    if path.is_symlink() or not path.is_file():
        raise _not_found("This run has no incident document.")
    html = pages.document(f"Incident: {plan}", path.read_text(encoding="utf-8"))
    return _document(_LINK_TO_FILE.sub(_only_what_is_served, html), request)


@app.get("/{plan}/{run}/data_docs/{name:path}")
def docs(plan: ReadablePlan, evidence: ReadableEvidence, name: str, request: Request) -> Response:
    """Serve a file of the run's Data Docs.

    Args:
        plan: Name of the plan.
        evidence: The run.
        name: Path below ``data_docs``, as it came from outside.
        request: The request.
    """
    content = data_docs.read(evidence.folder, name)
    if content is None:
        raise _not_found()
    media_type = data_docs.MEDIA_TYPES[PurePosixPath(name).suffix]
    if media_type.startswith("text/html"):
        address = escape(f"{_base(request)}/{plan}/{quote(addresses.key_of(evidence))}/")
        page = content.decode(errors="replace")
        return _document(page.replace("<nav>", f'<nav><a href="{address}">Report of the run</a>', 1), request)
    return Response(content, media_type=media_type)


def _document(html: str, request: Request, again_after: int | None = None) -> Response:
    """Return a page with our script added; it reloads after ``again_after`` seconds, if given."""
    head, end, rest = html.partition("</head>")
    again = f' data-again-after="{again_after}"' if again_after else ""
    script = f'<script src="{escape(_base(request))}/-/page.js"{again}></script>'
    return HTMLResponse(f"{head}{script}{end}{rest}", headers=_OWN_SCRIPT)


@app.get("/{rest:path}")
def nothing(rest: str) -> Response:
    """Answer every other path: not found, after the log-in."""
    raise _not_found()
