"""A real Chromium through chromedriver, spoken to over the W3C WebDriver protocol: JSON over HTTP, so httpx is all it takes.

Debian's packages ``chromium`` and ``chromium-driver`` bring both programs. Where they are missing the tests here fail;
they are in a target of their own and never run by chance.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx

from include.cutover.errors import CannotCheck, StepFailed
from include.cutover.stack.postgres import free_port

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--force-color-profile=srgb",
    "--hide-scrollbars",
    "--lang=en-US",
)
# What the driver says while a page is still being drawn; asking again helps.
_PASSING = ("no such element", "stale element reference", "element not interactable", "element click intercepted")


class Browser:
    """One window. Every search waits until the element is there, because the interface draws itself bit by bit."""

    def __init__(self, session: httpx.Client, seconds: float) -> None:
        self._session = session
        self._seconds = seconds

    def open(self, url: str) -> None:
        """Load a page in this window."""
        self._ask("POST", "url", {"url": url})

    @property
    def url(self) -> str:
        """Address of the window's page."""
        return str(self._ask("GET", "url"))

    def click(self, xpath: str) -> None:
        """Click the first element that the XPath finds."""
        self._until(lambda: self._ask("POST", f"element/{self._find(xpath)}/click", {}), f"click on {xpath}")

    def type(self, xpath: str, text: str) -> None:
        """Type into an element, after what is there."""
        self._until(lambda: self._ask("POST", f"element/{self._find(xpath)}/value", {"text": text}), f"type into {xpath}")

    def replace(self, xpath: str, text: str) -> None:
        """Put ``text`` in the place of what an input holds, as a person does: mark all, type."""
        self.type(xpath, "\ue009a\ue000" + text)

    def text(self, xpath: str = "//body") -> str:
        """The visible text of an element."""
        return str(self._until(lambda: self._ask("GET", f"element/{self._find(xpath)}/text"), f"text of {xpath}"))

    def enabled(self, xpath: str) -> bool:
        """Return True when a button or input may be used."""
        return bool(self._until(lambda: self._ask("GET", f"element/{self._find(xpath)}/enabled"), f"state of {xpath}"))

    def count(self, xpath: str) -> int:
        """How many elements there are now."""
        return len(self._ask("POST", "elements", {"using": "xpath", "value": xpath}))

    def wait_for_text(self, text: str, xpath: str = "//body") -> str:
        """Wait until the text shows, and return all of the element's.

        Raises:
            StepFailed: When it does not show in time.
        """
        deadline = time.monotonic() + self._seconds
        while text not in (found := self.text(xpath)):
            if time.monotonic() > deadline:
                raise StepFailed("the text does not show", where=self.url, expected=text, found=found[-400:])
            time.sleep(0.2)
        return found

    def wait_for_url(self, start: str, part: str = "") -> str:
        """Wait until the window's address begins so and has ``part`` in it, and return it without a query.

        Raises:
            StepFailed: When it does not come to that in time.
        """
        deadline = time.monotonic() + self._seconds
        while not (self.url.startswith(start) and part in self.url):
            if time.monotonic() > deadline:
                raise StepFailed("the window did not get there", where=self.url, expected=f"{start}…{part}")
            time.sleep(0.2)
        return self.url.partition("?")[0]

    @contextmanager
    def inside(self, xpath: str) -> Iterator[None]:
        """Work inside a frame."""
        self._until(lambda: self._ask("POST", "frame", {"id": {_ELEMENT: self._find(xpath)}}), f"frame {xpath}")
        try:
            yield
        finally:
            self._ask("POST", "frame", {"id": None})

    def evaluate(self, script: str) -> Any:
        """Run a function body in the page and return what it returns."""
        return self._ask("POST", "execute/sync", {"script": script, "args": []})

    def console(self) -> list[str]:
        """Errors that pages wrote to the console since the last call, e.g. what a security policy refused."""
        entries = self._ask("POST", "se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def resize(self, width: int, height: int) -> None:
        """Size of the page in pixels."""
        self._ask("POST", "goog/cdp/execute", {
            "cmd": "Emulation.setDeviceMetricsOverride",
            "params": {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        })  # fmt: skip

    def screenshot(self, path: Path) -> None:
        """Return the window's content as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "screenshot")))

    def _find(self, xpath: str) -> str:
        return str(self._ask("POST", "element", {"using": "xpath", "value": xpath})[_ELEMENT])

    def _until(self, action: Any, what: str) -> Any:
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                return action()
            except _DriverError as error:
                if error.kind not in _PASSING:
                    raise
                if time.monotonic() > deadline:
                    raise StepFailed(f"not possible in the page: {what}", where=self.url, found=error.kind) from None
            time.sleep(0.1)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        return _value(self._session.request(method, path, json=body))


class _DriverError(Exception):
    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


def _value(response: httpx.Response) -> Any:
    value = response.json()["value"]
    if response.is_error:
        raise _DriverError(value["error"], value["message"].splitlines()[0] if value["message"] else "")
    return value


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise CannotCheck(
            f"{name} is not installed", expected="Debian's packages chromium and chromium-driver", do="Install them."
        )
    return found


@contextmanager
def browser(*, width: int = 1400, height: int = 900, seconds: float = 30) -> Iterator[Browser]:
    """A window of a browser of its own, without history or log-ins; all of it is gone afterwards.

    Args:
        seconds: How long an element may take to appear.

    Raises:
        CannotCheck: When Chromium or its driver is not installed.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        driver = subprocess.Popen(
            [_program("chromedriver"), f"--port={port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as http:
                session = _new_session(http, profile, time.monotonic() + seconds)
                http.base_url = f"http://127.0.0.1:{port}/session/{session}"
                window = Browser(http, seconds)
                window.resize(width, height)
                yield window
                http.delete("")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()


def _new_session(http: httpx.Client, profile: str, deadline: float) -> str:
    options = {"binary": _program("chromium"), "args": [*_FLAGS, f"--user-data-dir={profile}"]}
    wanted = {"alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}
    while True:
        try:
            return cast(str, _value(http.post("/session", json={"capabilities": wanted}))["sessionId"])
        except httpx.ConnectError:
            if time.monotonic() > deadline:
                raise CannotCheck("chromedriver does not answer", where=str(http.base_url)) from None
            time.sleep(0.1)
