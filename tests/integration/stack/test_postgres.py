"""A PostgreSQL of our own that was killed, as by a power cut: it starts again, whatever the crash left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from include.cutover.errors import Refused
from include.cutover.places import ROOT
from include.cutover.stack.ports import free_port
from include.cutover.stack.postgres import Cluster, without_root


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", free_port())
    try:
        yield cluster
    finally:
        cluster.stop(signal.SIGQUIT)


def write_a_row(cluster: Cluster) -> None:
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")


def rows(cluster: Cluster) -> int:
    with psycopg.connect(cluster.conninfo()) as connection:
        ((found,),) = connection.execute("SELECT count(*) FROM kept").fetchall()
    return int(found)


def kill(pid: int) -> None:
    """Kill the postmaster only: its other processes end a little later, as they notice."""
    os.kill(pid, signal.SIGKILL)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.01)


def test_killed_server_starts_again_immediately(cluster: Cluster) -> None:
    for expected in (1, 2, 3):
        pid = cluster.start()
        assert (cluster.postmaster(), cluster.running_port()) == (pid, cluster.port)
        write_a_row(cluster)
        assert rows(cluster) == expected
        kill(pid)
        assert cluster.postmaster() is None and cluster.running_port() is None


def test_pid_file_that_names_another_living_process_is_removed(cluster: Cluster) -> None:
    """After a restart of the host the number may belong to any process, also to one of PostgreSQL's own user."""
    pid = cluster.start()
    write_a_row(cluster)
    kill(pid)
    file = cluster.folder / "data" / "postmaster.pid"
    with subprocess.Popen(without_root(["sleep", "600"]), start_new_session=True) as stranger:
        try:
            first, *rest = file.read_text().split("\n")
            assert first == str(pid)
            file.write_text("\n".join([str(stranger.pid), *rest]))
            cluster.stop()
            assert stranger.poll() is None, "a process that is not this server is never stopped"
            cluster.start()
            assert stranger.poll() is None and rows(cluster) == 1
        finally:
            stranger.kill()


def test_running_server_is_never_started_twice(cluster: Cluster) -> None:
    pid = cluster.start()
    (cluster.folder / "data" / "postmaster.pid").rename(cluster.folder / "moved")
    assert cluster.postmaster() == pid, "it is found without its pid file"
    (cluster.folder / "moved").rename(cluster.folder / "data" / "postmaster.pid")
    with pytest.raises(Refused, match="cannot be used"):
        cluster.start()
    assert cluster.postmaster() == pid


def test_taken_port_is_refused_with_its_holder(cluster: Cluster) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", cluster.port))
        taken.listen()
        with pytest.raises(Refused, match=rf"the port {cluster.port} cannot be used.*process {os.getpid()} "):
            cluster.start()
    assert cluster.postmaster() is None


def test_cluster_whose_creation_was_killed_is_created_anew(cluster: Cluster) -> None:
    script = f"from include.cutover.stack.postgres import Cluster; from pathlib import Path; Cluster(Path({str(cluster.folder)!r}), 1).create()"  # fmt: skip  # noqa: E501
    creation = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, start_new_session=True)
    while creation.poll() is None and not list(cluster.folder.glob("data*/PG_VERSION")):
        time.sleep(0.001)
    os.killpg(creation.pid, signal.SIGKILL)
    creation.wait()
    cluster.start()
    write_a_row(cluster)
    assert rows(cluster) == 1 and not list(cluster.folder.glob("data.*"))
