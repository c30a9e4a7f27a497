"""A night in a real browser: the lead triggers the cutover, answers its gates, reads what became of it, and goes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from urllib.parse import unquote

import pytest

from examples.ward_ops.local_site import LocalSite
from tests.browser.webdriver import Browser, browser

pytestmark = pytest.mark.browser

REPORT = "//iframe[@title='Cutover report']"
SUBMIT = "//button[@data-testid='trigger-dag-submit']"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSite]:
    """Ward OPS on SQLite, an empty PostgreSQL and an Airflow."""
    site = LocalSite(tmp_path_factory.mktemp("site"))
    try:
        site.start(pings=2_000)
        yield site
    finally:
        site.stop()


@pytest.fixture
def window() -> Iterator[Browser]:
    """A browser that never saw this site; high enough that what Airflow tells in a corner covers no button."""
    with browser(height=1300, seconds=60) as window:
        yield window


def log_in(window: Browser, site: LocalSite, user: str, path: str = "/") -> None:
    """Open a page as somebody who is not logged in, and do what the page asks for."""
    window.open(site.stack.url + path)
    window.type("//input[@name='username']", user)
    window.type("//input[@name='password']", site.stack.logins[user])
    window.click("//input[@type='submit']")


def trigger(window: Browser, site: LocalSite, dag: str, reason: str) -> str:
    """Fill in the form of a DAG; returns the address of the run."""
    window.open(f"{site.stack.url}/dags/{dag}")
    window.click("//button[@data-testid='trigger-dag-button']")
    window.wait_for_text("This field is required", "//*[@role='dialog'][.//*[@name='element_reason']]")
    assert not window.enabled(SUBMIT)
    window.type("//input[@name='element_reason']", "ab")
    window.click("//label[contains(., 'Reason')]")
    window.click(SUBMIT)
    window.wait_for_text("'ab' is too short")
    window.replace("//input[@name='element_reason']", reason)
    window.click(SUBMIT)
    return window.wait_for_url(f"{site.stack.url}/dags/{dag}/runs/")


def answer(window: Browser, site: LocalSite, run: str, task: str, option: str) -> None:
    """Answer a gate on the page of its task, as soon as it asks."""
    deadline = time.monotonic() + 300
    with site.stack.client("lead") as client:
        run_id = unquote(run.rpartition("/")[2])
        while task not in [gate.task_id for gate in client.gates("cutover_ward_ops", run_id)]:
            assert time.monotonic() < deadline, f"{task} never asked"
            time.sleep(0.5)
    window.open(f"{run}/tasks/{task}/required_actions")
    window.click(f"//button[@data-testid='hitl-option-{option}']")
    window.wait_for_text("response successful")


def test_a_cutover_and_its_rollback_by_hand(site: LocalSite, window: Browser) -> None:
    log_in(window, site, "lead")
    window.wait_for_text("Cutover")
    run = trigger(window, site, "cutover_ward_ops", "the planned night <b>")

    # The tab shows the report while the run waits, and draws it anew by itself.
    window.click("//a[contains(@href, 'plugin/cutover_report')]")
    with window.inside(REPORT):
        window.wait_for_text(" checks passed")
        window.wait_for_text("the planned night <b>")
    answer(window, site, run, "go_no_go", "Go")
    answer(window, site, run, "go_live.approve", "Go")
    window.open(f"{run}/plugin/cutover_report")
    with window.inside(REPORT):
        window.wait_for_text("Live on PostgreSQL")
        window.wait_for_text("Closed")

    # From the check's page to its Data Docs, from there to the report, and from a frame back into Airflow.
    window.open(f"{run}/tasks/verify.check_tables/details")
    window.click("//a[.='Data Docs']")
    window.wait_for_text("Tables of the target")
    window.click("//a[.='ping_results']")
    window.wait_for_text("Rows of ping_results are as many as expected")
    window.click("//a[.='Report of the run']")
    window.wait_for_text("Live on PostgreSQL")
    window.open(f"{run}/plugin/cutover_report")
    with window.inside(REPORT):
        window.click("//a[.='log']")
    window.wait_for_url(f"{site.stack.url}/dags/cutover_ward_ops/runs/", "/tasks/")

    back = trigger(window, site, "rollback_ward_ops", "alerts are late")
    window.open(f"{back}/plugin/cutover_report")
    with window.inside(REPORT):
        window.wait_for_text("Rolled back")
        window.click("//a[.='incident.md']")
        window.wait_for_text("alerts are late (requested by lead)")

    window.open(f"{site.stack.url}/")
    window.click("//a[contains(@href, 'plugin/cutover')]")
    with window.inside("//iframe[@title='Cutover']"):
        window.wait_for_text("alerts are late")
        window.click(f"//a[.='{unquote(run.rpartition('/')[2])}']")
        window.wait_for_text("Rolled back")
    assert [line for line in window.console() if "Content Security Policy" in line] == []


def test_without_a_login_there_is_only_the_login(site: LocalSite, window: Browser) -> None:
    window.open(f"{site.stack.url}/cutover/ward_ops/")
    window.wait_for_text("Enter your login and password below")
    assert "Ward" not in window.text()


def test_the_observer_sees_the_report_and_is_led_to_it_by_the_login(site: LocalSite, window: Browser) -> None:
    log_in(window, site, "observer", "/cutover/ward_ops/")
    window.wait_for_text("Cutovers")
    assert window.url == f"{site.stack.url}/cutover/ward_ops/"
