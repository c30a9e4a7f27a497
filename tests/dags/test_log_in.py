"""The configuration of log-ins, as FAB reads it, by environment alone."""

from __future__ import annotations

import os
import runpy
from typing import Any

import pytest
from flask_appbuilder.const import AUTH_DB, AUTH_LDAP, AUTH_OAUTH

from include.cutover.places import ROOT

OIDC = {"OIDC_ISSUER": "https://sso.example/realms/ops/", "OIDC_CLIENT_ID": "cutover", "OIDC_CLIENT_SECRET": "s3cret"}
LDAP = {"LDAP_SERVER": "ldaps://ldap.example", "LDAP_SEARCH": "ou=people,dc=example"}


def configured(monkeypatch: pytest.MonkeyPatch, way: str, **given: str) -> dict[str, Any]:
    for name in [name for name in os.environ if name.startswith(("OIDC_", "LDAP_"))]:
        monkeypatch.delenv(name)
    for name, value in {"CUTOVER_LOG_IN": way, **given}.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(ROOT / "include" / "cutover" / "accounts" / "log_in.py"))


@pytest.mark.parametrize("way", ["", "password"])
def test_without_a_word_people_have_accounts_of_airflows_own(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    assert configured(monkeypatch, way)["AUTH_TYPE"] == AUTH_DB


def test_nobody_gets_an_account_or_a_right_by_logging_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for way, given in (("password", {}), ("oidc", OIDC), ("ldap", LDAP)):
        found = configured(monkeypatch, way, **given)
        assert (found["AUTH_USER_REGISTRATION"], found["AUTH_ROLES_SYNC_AT_LOGIN"]) == (False, False), way


@pytest.mark.parametrize(("way", "given"), [("oidc", OIDC), ("ldap", LDAP)])
def test_what_is_missing_is_named_and_nothing_starts(
    monkeypatch: pytest.MonkeyPatch, way: str, given: dict[str, str]
) -> None:
    for name in given:
        with pytest.raises(SystemExit, match=f"CUTOVER_LOG_IN is {way}, and {name} is not set"):
            configured(monkeypatch, way, **{**given, name: ""})


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="it may be password, oidc or ldap"):
        configured(monkeypatch, "saml")


def test_openid_connect_finds_its_provider_and_takes_the_user_name_from_one_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    found = configured(monkeypatch, "oidc", **OIDC, OIDC_USER_CLAIM="upn")
    assert found["AUTH_TYPE"] == AUTH_OAUTH
    app = found["OAUTH_PROVIDERS"][0]["remote_app"]
    assert app["server_metadata_url"] == "https://sso.example/realms/ops/.well-known/openid-configuration"
    read = found["SECURITY_MANAGER_CLASS"].get_oauth_user_info
    assert read(None, "sso", {"userinfo": {"upn": "lead", "preferred_username": "x"}})["username"] == "lead"
    assert read(None, "sso", {"userinfo": {"preferred_username": "lead"}})["username"] == "", "nobody is logged in then"
    assert read(None, "sso", {})["username"] == ""


def test_ldap_checks_the_servers_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    found = configured(monkeypatch, "ldap", **LDAP)
    assert found["AUTH_TYPE"] == AUTH_LDAP
    assert found["AUTH_LDAP_SERVER"] == "ldaps://ldap.example"
    assert found["AUTH_LDAP_ALLOW_SELF_SIGNED"] is False
