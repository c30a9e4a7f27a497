"""Snapshots of a real Redis: every key is in them, as of now, and what is damaged, old or not to be had is said so."""

from __future__ import annotations

import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from include.cutover.errors import CannotCheck, StepFailed, Unreachable
from include.cutover.extras import rdb, redis_snapshot
from include.cutover.plan.backups import RedisSnapshot
from include.cutover.stack.postgres import free_port
from tests.support.redis_server import PASSWORD, Server, running

pytestmark = pytest.mark.usefixtures("_password")
BINARY = bytes(range(256)) * 40


@pytest.fixture
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        client = server.client
        for number in range(2_000):
            client.set(f"key:{number}", f"value {number}")
        client.set(b"binary \x00\xff", BINARY)
        client.hset("hash", mapping={"a": "1", "b": "ბ"})
        client.rpush("celery", *[f"task {number}" for number in range(500)])
        client.zadd("scores", {"x": 1.5, "y": -2})
        client.set("short", "lived", ex=3_600)
        client.execute_command("SELECT", 0)
        other = server.client
        other.connection_pool.connection_kwargs["db"] = 5
        other.set("in another database", "yes")
        yield server


def settings(server: Server, **more: Any) -> RedisSnapshot:
    return RedisSnapshot.model_validate({"url": server.url, "password_env": "REDIS_PASSWORD", "seconds": 60, **more})


def content(client: Any) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


KINDS = {
    "stream of a file": ({"kind": "rdb"}, {"repl-diskless-sync": "no"}),
    "stream of memory": ({"kind": "rdb"}, {"repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0"}),
    "saved file": ({"kind": "bgsave"}, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_loads_the_snapshot_has_every_key(server: Server, tmp_path: Path, kind: str) -> None:
    wanted, configuration = KINDS[kind]
    for name, value in configuration.items():
        server.client.config_set(name, value)
    to = tmp_path / "snapshots" / "redis.rdb"
    to.parent.mkdir()
    to.write_bytes(b"left by a killed attempt")
    found = redis_snapshot.take(settings(server, **wanted), to)
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    assert (found.bytes, found.keys) == (to.stat().st_size, 2_006)
    assert found.dump.checksum and found.dump.server and found.dump.format.startswith(("REDIS", "VALKEY"))
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "dump.rdb").write_bytes(to.read_bytes())
    with running(tmp_path / "second") as second:
        assert content(second.client) == content(server.client)
        assert second.client.get(b"binary \x00\xff") == BINARY
        assert 0 < second.client.ttl("short") <= 3_600
    assert server.client.info("replication")["connected_slaves"] == 0


@pytest.mark.parametrize("kind", ["rdb", "bgsave"])
def test_save_that_was_under_way_before_does_not_count_as_the_snapshot(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, kind: str
) -> None:
    """Such a dump is of a moment before the services stopped."""
    with running(tmp_path_factory.mktemp("busy"), **{"repl-diskless-sync": "no"}) as server:
        for number in range(400):
            server.client.set(f"key:{number}", "x")
        server.client.config_set("rdb-key-save-delay", 10_000)  # 4 s
        server.client.bgsave()
        deadline = time.monotonic() + 10
        while server.client.time()[0] <= server.client.info("persistence").get("rdb_last_save_time", 0) + 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        server.client.set("late", "x")
        server.client.config_set("rdb-key-save-delay", 0)
        assert server.client.info("persistence")["rdb_bgsave_in_progress"]
        redis_snapshot.take(settings(server, kind=kind), tmp_path / "redis.rdb")
    (tmp_path / "second").mkdir()
    (tmp_path / "redis.rdb").rename(tmp_path / "second" / "dump.rdb")
    with running(tmp_path / "second") as second:
        assert second.client.get("late") == b"x"


def test_dump_file_of_another_server_is_refused(server: Server, tmp_path: Path) -> None:
    redis_snapshot.take(settings(server), tmp_path / "old.rdb")
    time.sleep(1.1)
    with pytest.raises(StepFailed, match="not the one that the server has just written"):
        redis_snapshot.take(settings(server, kind="bgsave", file=str(tmp_path / "old.rdb")), tmp_path / "redis.rdb")
    with pytest.raises(CannotCheck, match="not here"):
        redis_snapshot.take(settings(server, kind="bgsave", file="/nowhere/dump.rdb"), tmp_path / "redis.rdb")
    assert not (tmp_path / "redis.rdb").exists()


def test_dump_without_checksum_is_complete_but_not_verified(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with running(tmp_path_factory.mktemp("unchecked"), rdbchecksum="no") as server:
        server.client.set("a", "b")
        assert not redis_snapshot.take(settings(server), tmp_path / "redis.rdb").dump.checksum


# --- it cannot be had ----------------------------------------------------------------------------------------------------


def test_wrong_password_is_refused_without_showing_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "hunter3")
    with pytest.raises(CannotCheck, match="Redis refuses") as caught:
        redis_snapshot.take(settings(server), tmp_path / "redis.rdb")
    assert "hunter3" not in str(caught.value) and not caught.value.retry_helps
    monkeypatch.delenv("REDIS_PASSWORD")
    with pytest.raises(CannotCheck, match="REDIS_PASSWORD"):
        redis_snapshot.take(settings(server), tmp_path / "redis.rdb")


@pytest.mark.parametrize("kind", ["rdb", "bgsave"])
def test_missing_right_of_the_redis_user_is_named(server: Server, tmp_path: Path, kind: str) -> None:
    user: dict[str, Any] = {"enabled": True, "reset": True, "passwords": [f"+{PASSWORD}"], "keys": "*"}
    server.client.acl_setuser("reader", **user, commands=["+ping", "+info", "+time"])
    with pytest.raises(CannotCheck, match="needs the rights") as caught:
        redis_snapshot.take(settings(server, kind=kind, username="reader"), tmp_path / "redis.rdb")
    assert "sync" in caught.value.do and "no permissions" in caught.value.found.lower()
    assert not (tmp_path / "redis.rdb").exists()
    rights = ["+ping", "+info", "+time", "+sync", "+replconf", "+bgsave", "+lastsave", "+config|get"]
    server.client.acl_setuser("reader", **user, commands=rights)
    redis_snapshot.take(settings(server, kind=kind, username="reader"), tmp_path / "redis.rdb")


def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    absent = RedisSnapshot.model_validate({"url": f"redis://127.0.0.1:{free_port()}"})
    with pytest.raises(Unreachable, match="does not answer") as caught:
        redis_snapshot.take(absent, tmp_path / "redis.rdb")
    assert caught.value.retry_helps


@pytest.mark.parametrize("kind", ["rdb", "bgsave"])
def test_a_server_that_hangs_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(redis_snapshot, "_ANSWER_SECONDS", 0.5)
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unreachable):
            redis_snapshot.take(settings(server, kind=kind, seconds=1), tmp_path / "redis.rdb")
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_a_stream_that_never_begins_is_given_up(server: Server, tmp_path: Path) -> None:
    server.client.config_set("repl-diskless-sync", "no")
    server.client.config_set("rdb-key-save-delay", 100_000)  # minutes; the server sends empty lines meanwhile
    try:
        with pytest.raises(Unreachable, match="did not finish in time"):
            redis_snapshot.take(settings(server, seconds=2), tmp_path / "redis.rdb")
    finally:
        server.client.config_set("rdb-key-save-delay", 0)
    assert not (tmp_path / "redis.rdb").exists()


def test_another_server_on_that_port_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            near, _ = listening.accept()
            near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            near.close()

        threading.Thread(target=answer, daemon=True).start()
        wrong = RedisSnapshot.model_validate({"url": f"redis://127.0.0.1:{listening.getsockname()[1]}"})
        with pytest.raises((Unreachable, CannotCheck)):
            redis_snapshot.take(wrong, tmp_path / "redis.rdb")


# --- the stream ----------------------------------------------------------------------------------------------------------


class Pieces(redis_snapshot._Reader):
    """A stream that comes in pieces of a given size."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def some(self, most: int) -> bytes:
        block, self._data = self._data[: min(most, self._size)], self._data[min(most, self._size) :]
        if not block:
            raise ConnectionError("it ended the stream before its end")
        return block


@pytest.mark.parametrize("size", [1, 7, 39, 40, 41, 1_000])
def test_the_end_of_a_stream_is_found_wherever_it_is_cut(tmp_path: Path, size: int) -> None:
    mark = b"0123456789abcdef0123456789abcdef01234567"
    # Most of the mark, once in the middle and once right before it.
    payload = b"REDIS0009" + mark[:39] + b"x" + os.urandom(500) + mark[:20]
    server = redis_snapshot._Server(RedisSnapshot.model_validate({"url": "redis://127.0.0.1"}))
    for number, (length, data) in enumerate({f"EOF:{mark.decode()}": payload + mark, str(len(payload)): payload}.items()):
        path = tmp_path / str(number)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        server._receive(Pieces(data, size), length, descriptor, path)
        os.close(descriptor)
        assert path.read_bytes() == payload
    with pytest.raises(ConnectionError):
        server._receive(Pieces(payload, size), f"EOF:{mark.decode()}", os.open(os.devnull, os.O_WRONLY), tmp_path / "x")


# --- the dump ------------------------------------------------------------------------------------------------------------


def test_every_damage_of_a_dump_is_found(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "redis.rdb"
    redis_snapshot.take(settings(server), path)
    whole = path.read_bytes()
    assert rdb.read(path).checksum
    places = (20, len(whole) // 3, len(whole) - 9, len(whole) - 2)
    for damaged in (
        b"",
        whole[:5],
        whole[:9],
        whole[:-1],
        whole[: len(whole) // 2],
        whole + b"\0",
        b"SQLite" + whole[6:],
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places),
    ):
        path.write_bytes(damaged)
        with pytest.raises(StepFailed):
            rdb.read(path)
    path.unlink()
    with pytest.raises(CannotCheck):
        rdb.read(path)
