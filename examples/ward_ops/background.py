"""The loop of the services that write by themselves."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from examples.ward_ops.database import open_engine, reason
from examples.ward_ops.settings import SettingsInvalid, leave, read_settings

STOP_SECONDS = 2
RETRY_SECONDS = 0.5
REPORT_EVERY = 100

log = logging.getLogger("ward_ops")


def run(service: str, pause: float, work: Callable[[sa.Connection], str]) -> int:
    """Do ``work`` in a transaction of its own, every ``pause`` seconds, until SIGTERM or SIGINT; return the exit status.

    An error of the database is logged and the work is retried until it succeeds. A stop takes at most
    ``STOP_SECONDS``, also inside a call to the database that does not return: the kernel then ends the process, and the
    database rolls the open transaction back.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {service} %(levelname)s %(message)s")
    stop = threading.Event()

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        signal.alarm(STOP_SECONDS)  # no handler: SIGALRM ends the process
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)

    try:
        settings = read_settings()
        engine = open_engine(settings, service)
    except SettingsInvalid as error:
        leave(service, error)
    log.info("started on %s", settings.database)
    done = 0
    while not stop.is_set():
        try:
            with engine.begin() as connection:
                summary = work(connection)
        except SQLAlchemyError as error:
            log.error("SQL error: %s", reason(error))
            stop.wait(RETRY_SECONDS)
            continue
        done += 1
        if done % REPORT_EVERY == 1:
            log.info("%s (round %d)", summary, done)
        stop.wait(pause)
    engine.dispose()
    log.info("stopped after %d rounds", done)
    return 0
