"""TLS to the target, against a server with a certificate: what verify-full lets in, what it refuses, and in which words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from include.cutover.cli import main as cli_main
from include.cutover.cli.break_glass import EndsOfEvidence
from include.cutover.connections import tls
from include.cutover.errors import CannotCheck, Refused, Unreachable
from include.cutover.evidence.record import Evidence
from include.cutover.plan.access import Secret, Secrets
from include.cutover.plan.file import load_plan
from include.cutover.plan.model import Plan
from include.cutover.preflight import target as preflight_target
from include.cutover.stack.postgres import Cluster
from include.cutover.target import session as target_session
from include.cutover.tasks.ends import AirflowEnds
from tests.support.tls_server import Authority, TlsServer

TARGET, APPLICATION = "AIRFLOW_CONN_WARD_OPS_TARGET", "AIRFLOW_CONN_WARD_OPS_APPLICATION"


@dataclass(frozen=True)
class Site:
    """One authority, another, and servers with certificates of theirs."""

    cluster: Cluster
    ours: Authority
    theirs: Authority
    good: TlsServer
    foreign: TlsServer
    without: TlsServer

    def connection(self, server: TlsServer, host: str = "localhost", **extra: Any) -> str:
        given = conninfo_to_dict(self.cluster.conninfo())
        return json.dumps({
            "conn_type": "postgres", "host": host, "port": server.port, "login": given["user"],
            "password": given["password"], "schema": "postgres", "extra": extra,
        })  # fmt: skip


@pytest.fixture(scope="module")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("tls")
    ours, theirs = Authority.make(folder, "ours"), Authority.make(folder, "theirs")
    servers = [
        TlsServer(cluster.port, ours.issue(folder, "localhost")),
        TlsServer(cluster.port, theirs.issue(folder, "localhost")),
        TlsServer(cluster.port, None),
    ]
    yield Site(cluster, ours, theirs, *servers)
    for server in servers:
        server.close()


@pytest.fixture
def plan() -> Plan:
    return load_plan("ward_ops").model_copy(update={"tls": "verify-full"})


Ends = Callable[[Plan], str]


@pytest.fixture(params=["a task", "without Airflow"])
def conninfo(request: pytest.FixtureRequest, tmp_path: Path) -> Ends:
    """How a connection becomes libpq's string: in Airflow's task, or from the environment without it."""
    ends = AirflowEnds() if request.param == "a task" else EndsOfEvidence(Evidence(tmp_path / "evidence"))
    return lambda plan: ends.target_conninfo(plan, "a test")


def test_verify_full_lets_the_right_server_in(
    site: Site, plan: Plan, conninfo: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TARGET, site.connection(site.good, sslmode="verify-full", sslrootcert=str(site.ours.root)))
    before = site.good.encrypted
    with target_session.session(conninfo(plan), "public") as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT count(*) FROM generate_series(1, 100000) AS n, repeat('x', 10)").fetchone()
    assert site.good.encrypted == before + 1


@pytest.mark.parametrize(
    ("server", "host", "root", "message", "advice"),
    [
        ("foreign", "localhost", "ours", "not signed by an authority that the connection trusts", "sslrootcert"),
        ("good", "localhost", "theirs", "not signed by an authority that the connection trusts", "sslrootcert"),
        ("good", "127.0.0.1", "ours", "certificate is for another host", "name in its certificate"),
        ("good", "localhost", None, "no root certificate to check", "sslrootcert"),
        ("without", "localhost", "ours", "does not speak TLS", "ssl = on"),
    ],
)
def test_wrong_server_is_refused_with_cause_and_advice(
    site: Site, plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str, host: str, root: str | None,
    message: str, advice: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("HOME", str(tmp_path))  # where libpq looks for a root certificate of its own
    rooted = tmp_path / "missing.pem" if root is None else getattr(site, root).root
    monkeypatch.setenv(TARGET, site.connection(getattr(site, server), host, sslmode="verify-full", sslrootcert=str(rooted)))
    conninfo = AirflowEnds().target_conninfo(plan, "a test")
    with pytest.raises(Unreachable, match=message) as caught, target_session.session(conninfo, "public"):
        pytest.fail("it was let in")
    assert advice in caught.value.do and site.cluster.password not in str(caught.value)
    (check,) = preflight_target.check_target(conninfo, plan=plan, source_bytes=1, application_role=None)
    assert check.outcome == "failed" and advice in check.do and site.cluster.password not in check.found


def test_plan_demands_tls_where_the_connection_sets_none(
    site: Site, plan: Plan, conninfo: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypting = plan.model_copy(update={"tls": "require"})
    monkeypatch.setenv(TARGET, site.connection(site.good))
    with psycopg.connect(conninfo(encrypting)) as connection:
        assert connection.pgconn.ssl_in_use
    monkeypatch.setenv(TARGET, site.connection(site.without))
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        psycopg.connect(conninfo(encrypting))
    with psycopg.connect(conninfo(plan.model_copy(update={"tls": None}))) as connection:
        assert not connection.pgconn.ssl_in_use, "without a demand the connection decides"


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_a_connection_that_asks_for_less_is_refused(
    site: Site, plan: Plan, conninfo: Ends, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv(TARGET, site.connection(site.good, sslmode=mode))
    with pytest.raises(Refused, match=f"found sslmode={mode}"):
        conninfo(plan)
    monkeypatch.setenv(APPLICATION, site.connection(site.good, sslmode=mode))
    with pytest.raises(Refused, match="connection ward_ops_application"):
        AirflowEnds().application_url(plan)


@pytest.mark.parametrize("where", ["host=/var/run/postgresql user=x", "user=x dbname=y", "host=db,/tmp user=x"])
def test_a_local_socket_has_no_tls(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGHOST", raising=False)
    with pytest.raises(Refused, match="a local socket has none"):
        tls.demanded(where, "require", "--target")
    assert tls.demanded(where, None, "--target") == where


def test_the_command_line_obeys_the_plan(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from include.cutover.places import ROOT

    text = (ROOT / "include" / "plans" / "ward_ops.yaml").read_text(encoding="utf-8")
    (tmp_path / "ward_ops.yaml").write_text(f"{text}\ntls: require\n", encoding="utf-8")
    (tmp_path / "source.db").write_bytes(b"")
    monkeypatch.setenv("CUTOVER_PLANS", str(tmp_path))
    url = f"{site.cluster.url()}?sslmode=prefer"
    for command in (["access", "check"], ["verify", "--source", str(tmp_path / "source.db")]):
        assert cli_main.main([*command, "--plan", "ward_ops", "--target", url]) == 2
        told = capsys.readouterr().err
        assert "--target: the connection asks for less than the plan demands" in told and site.cluster.password not in told


# --- the URL of the application -----------------------------------------------------------------------------------------


def test_the_application_s_url_carries_tls_and_logs_in_with_it(
    site: Site, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(APPLICATION, site.connection(site.good, sslrootcert=str(site.ours.root)))
    url = AirflowEnds().application_url(plan)
    assert url.startswith("postgresql+psycopg://") and "sslmode=verify-full" in url
    with psycopg.connect(target_session.libpq_url(url)) as connection:
        assert connection.pgconn.ssl_in_use
    assert "ssl" not in AirflowEnds().application_url(plan.model_copy(update={"tls": None})).replace("sslrootcert", "")


@pytest.mark.parametrize("kind", ["env", "file", "connection"])
def test_application_password_comes_from_the_place_in_the_plan(
    site: Site, plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    own = json.loads(site.connection(site.without))
    monkeypatch.setenv(APPLICATION, json.dumps({**own, "password": "not this one"}))
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text(f"{site.cluster.password}\n")
    monkeypatch.setenv("WARD_OPS_PASSWORD", site.cluster.password)
    monkeypatch.setenv(
        "AIRFLOW_CONN_VAULT_WARD_OPS", json.dumps({"conn_type": "generic", "password": site.cluster.password})
    )
    secret = {
        "env": Secret(env="WARD_OPS_PASSWORD"),
        "file": Secret(file=file),
        "connection": Secret(connection="vault_ward_ops"),
    }[kind]
    told = plan.model_copy(update={"tls": None, "secrets": Secrets(application=secret)})
    with psycopg.connect(target_session.libpq_url(AirflowEnds().application_url(told))):
        pass
    # And when it is not there, that is said, without what was found.
    for name in ("WARD_OPS_PASSWORD", "AIRFLOW_CONN_VAULT_WARD_OPS"):
        monkeypatch.delenv(name)
    file.write_text("")
    with pytest.raises(CannotCheck, match=r"secrets\.application") as caught:
        AirflowEnds().application_url(told)
    assert site.cluster.password not in str(caught.value)
