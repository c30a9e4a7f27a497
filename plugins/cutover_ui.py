"""Cutover's pages in Airflow's interface: the declaration only.

Every Airflow process loads this file, task processes included, so it imports nothing that Airflow has not already loaded.
The API server imports the pages themselves, at the first request for one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from include.cutover.tasks.deadline_reference import TriggeredAt
from include.cutover.ui.links import DataDocsLink, ReportLink

Message = MutableMapping[str, Any]


class LazyPages:
    """The ASGI application of include.cutover.ui.web, imported when it is first called."""

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Forward the request."""
        from include.cutover.ui.web import app

        await app(scope, receive, send)


class CutoverPlugin(AirflowPlugin):
    """Reports and Data Docs of cutover runs, for users who may see the plan's DAG.

    The addresses of the views are relative: Airflow resolves them against its own base URL.
    """

    name = "cutover"
    deadline_references: ClassVar[list[Any]] = [TriggeredAt]
    fastapi_apps: ClassVar[list[Any]] = [{"name": "Cutover", "app": LazyPages(), "url_prefix": "/cutover"}]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Cutover",
            "href": "cutover/",
            "destination": "nav",
            "url_route": "cutover",
            "nav_top_level": True,
            "icon": "cutover/-/icon.svg",
        },
        {
            "name": "Cutover report",
            "href": "cutover/-/dag_run/{DAG_ID}/{RUN_ID}",
            "destination": "dag_run",
            "url_route": "cutover_report",
            "icon": "cutover/-/icon.svg",
        },
    ]
    global_operator_extra_links: ClassVar[list[Any]] = [ReportLink(), DataDocsLink()]
