"""A thin client of Airflow's REST API: the actions of a person in the UI during a cutover, and nothing more.

Every call has a time limit. A refused log-in, a missing right and a server that does not answer are errors of their own; no
token or password is in any of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from include.cutover.errors import CannotCheck, Refused, StepFailed, Unreachable

ENDED = frozenset({"success", "failed"})


@dataclass(frozen=True)
class TaskState:
    """One task of a run as Airflow sees it.

    Attributes:
        task_id: With the prefix of its group, e.g. ``preflight.check_target``.
        map_index: -1 for a task that is not mapped.
        state: None before it is scheduled.
        seconds: Duration of the newest try; None until it has ended.
    """

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    seconds: float | None


@dataclass(frozen=True)
class GateState:
    """A gate of a run: a question to a person, and its answer.

    Attributes:
        answer: The chosen option; None while it is open.
        by: User name of the person who answered.
    """

    task_id: str
    map_index: int
    subject: str
    options: tuple[str, ...]
    answer: str | None
    by: str | None


class Client:
    """One user's session with one Airflow.

    Args:
        url: Base URL of the API server.
        user: Log-in name.
        password: Never shown.
        seconds: Time limit of each call.
    """

    def __init__(self, url: str, user: str, password: str, *, seconds: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.user = user
        self._password = password
        self._http = httpx.Client(base_url=self.url, timeout=seconds, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def log_in(self) -> None:
        """Get a token; calls do this by themselves when they need one.

        Raises:
            Refused: When user name or password are wrong.
            Unreachable: When the server does not answer.
        """
        self._http.headers.pop("Authorization", None)
        response = self._send("POST", "/auth/token", {"username": self.user, "password": self._password}, {})
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise Refused(
                "Airflow does not accept the log-in",
                where=self.url,
                found=f"user {self.user}",
                do="Check user name and password.",
            )
        self._http.headers["Authorization"] = f"Bearer {self._read(response, 'log in')['access_token']}"

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> str:
        """Start a run now and return its id.

        Args:
            dag_id: The DAG.
            conf: Values of the DAG's form; the others have the form's defaults.
            run_id: The new run's id; Airflow gives one by default.

        Raises:
            Refused: When the user may not, a value is not accepted, or the run id is taken.
        """
        body: dict[str, Any] = {"logical_date": None, "conf": conf or {}}
        if run_id is not None:
            body["dag_run_id"] = run_id
        return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run: queued, running, success or failed."""
        return str(self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Return all tasks of a run, ordered by id."""
        found: list[TaskState] = []
        while True:
            page = self._call(
                "GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances",
                query={"limit": 100, "offset": len(found), "order_by": ["id"]},
            )  # fmt: skip
            items = page["task_instances"]
            found += [
                TaskState(item["task_id"], item["map_index"], item["state"], item["try_number"], item["duration"])
                for item in items
            ]
            if not items or len(found) >= page["total_entries"]:
                return sorted(found, key=lambda task: (task.task_id, task.map_index))

    def gates(self, dag_id: str, run_id: str) -> list[GateState]:
        """Return all gates that a run has opened so far."""
        page = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/hitlDetails", query={"limit": 100})
        return [
            GateState(
                task_id=item["task_instance"]["task_id"],
                map_index=item["task_instance"]["map_index"],
                subject=item["subject"],
                options=tuple(item["options"]),
                answer=(item["chosen_options"] or [None])[0] if item["response_received"] else None,
                by=(item["responded_by_user"] or {}).get("name"),
            )
            for item in page["hitl_details"]
        ]

    def answer(self, dag_id: str, run_id: str, gate: GateState, option: str) -> None:
        """Answer a gate as this user.

        Args:
            dag_id: The DAG.
            run_id: The run.
            gate: One of its ``gates``.
            option: One of the gate's options.

        Raises:
            Refused: When the user may not answer it, or it has been answered.
        """
        self._call(
            "PATCH",
            f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{gate.task_id}/{gate.map_index}/hitlDetails",
            {"chosen_options": [option], "params_input": {}},
        )

    def log(self, dag_id: str, run_id: str, task: TaskState) -> str:
        """Return the log of a task's newest try, one line per record."""
        lines, token = [], None
        while True:
            query: dict[str, Any] = {"map_index": task.map_index, "full_content": True}
            if token:
                query["token"] = token
            page = self._call(
                "GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task.task_id}/logs/{task.try_number}",
                query=query,
            )  # fmt: skip
            for item in page["content"]:
                lines.append(item if isinstance(item, str) else _log_line(item))
            if not page["content"] or page["continuation_token"] in (None, token):
                return "\n".join(lines)
            token = page["continuation_token"]

    def wait(
        self,
        dag_id: str,
        run_id: str,
        *,
        seconds: float,
        on_task: Callable[[TaskState], None] | None = None,
        poll_seconds: float = 1.0,
    ) -> str:
        """Wait for the end of a run and return its state.

        Args:
            dag_id: The DAG.
            run_id: The run.
            seconds: How long to wait.
            on_task: Called once for every change of state of every task. Without it only the run is requested, which costs
                the server far less.
            poll_seconds: Pause between two requests.

        Raises:
            StepFailed: When the run has not ended after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        known: dict[tuple[str, int], tuple[str | None, int]] = {}
        while True:
            state = self.run_state(dag_id, run_id)
            for task in self.tasks(dag_id, run_id) if on_task else ():
                now = (task.state, task.try_number)
                if task.state is not None and known.get((task.task_id, task.map_index)) != now:
                    known[task.task_id, task.map_index] = now
                    if on_task:
                        on_task(task)
            if state in ENDED:
                return state
            if time.monotonic() >= deadline:
                raise StepFailed(
                    "the run has not ended in time",
                    where=f"{dag_id} {run_id}",
                    found=f"state {state}",
                    do="Read the run's log in Airflow.",
                )
            time.sleep(poll_seconds)

    def dag_ready(self, dag_id: str) -> bool:
        """Return True when the DAG was parsed and can be triggered."""
        response = self._authorised("GET", f"/api/v2/dags/{dag_id}", None, {})
        if response.status_code == httpx.codes.NOT_FOUND:
            return False
        return not self._read(response, f"read {dag_id}")["is_stale"]

    def import_errors(self) -> dict[str, str]:
        """Return the DAG files that do not parse, each with the last line of its error."""
        found = self._call("GET", "/api/v2/importErrors", query={"limit": 100})["import_errors"]
        return {item["filename"]: item["stack_trace"].strip().splitlines()[-1] for item in found}

    def pause(self, dag_id: str, paused: bool = True) -> None:
        """Pause or unpause a DAG."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": paused})

    def _call(self, method: str, path: str, body: Any = None, query: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._read(self._authorised(method, path, body, query or {}), f"{method} {path}")

    def _authorised(self, method: str, path: str, body: Any, query: dict[str, Any]) -> httpx.Response:
        if "Authorization" not in self._http.headers:
            self.log_in()
        response = self._send(method, path, body, query)
        if _token_is_void(response):
            self.log_in()
            response = self._send(method, path, body, query)
        return response

    def _send(self, method: str, path: str, body: Any, query: dict[str, Any]) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body, params=query)
        except httpx.TransportError as error:
            raise Unreachable(
                "Airflow does not answer", where=self.url, found=str(error) or type(error).__name__,
                do="Check with 'python -m include.cutover stack status' that the stack is up.",
            ) from None  # fmt: skip

    def _read(self, response: httpx.Response, what: str) -> dict[str, Any]:
        status = response.status_code
        if response.is_success:
            return _content(response, what)
        if status == httpx.codes.UNAUTHORIZED:
            raise Refused(
                "Airflow does not accept the log-in",
                where=self.url,
                found=f"user {self.user}",
                do="Check user name and password.",
            )
        if status == httpx.codes.FORBIDDEN:
            raise Refused(
                f"the user {self.user} may not do this", where=what, found=_detail(response),
                do="Ask the lead, or log in as a user who may.",
            )  # fmt: skip
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise Unreachable(
                "Airflow answered with a server error", where=what, found=f"HTTP {status}", do="Read the API server's log."
            )
        if status == httpx.codes.NOT_FOUND:
            raise CannotCheck(
                "Airflow does not know this", where=what, found=_detail(response), do="Check the name in Airflow."
            )
        raise Refused("Airflow did not accept the request", where=what, found=f"HTTP {status}, {_detail(response)}")


def _token_is_void(response: httpx.Response) -> bool:
    """Report whether a new token may help: it has expired, or was issued in the future of a clock that was set back since.

    Source: airflow/api_fastapi/core_api/security.py, ``resolve_user_from_token``: 401 for the first, 403 for the second.
    """
    if response.status_code == httpx.codes.FORBIDDEN:
        return _detail(response) == "Invalid JWT token"
    return response.status_code == httpx.codes.UNAUTHORIZED


def _content(response: httpx.Response, what: str) -> dict[str, Any]:
    """Return the JSON object of a successful answer; a proxy or a log-in page may answer with something else."""
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise CannotCheck(
            "the answer is not Airflow's", where=what, expected="a JSON object",
            found=f"HTTP {response.status_code}, {response.headers.get('content-type', 'no content type')}",
            do="Check that the URL is that of Airflow's API server, not of a proxy before it.",
        )  # fmt: skip
    return content


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
    if isinstance(detail, list):  # the validation's faults; their "input" may hold what was sent
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in detail)
    return str(detail).replace("\n", " ")


def _log_line(item: dict[str, Any]) -> str:
    line = " ".join(str(item[key]) for key in ("timestamp", "level", "event") if item.get(key))
    errors = [f"{error.get('exc_type')}: {error.get('exc_value')}" for error in item.get("error_detail") or []]
    return "\n".join([line, *errors])
