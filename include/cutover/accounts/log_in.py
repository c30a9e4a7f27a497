"""Log-in to Airflow under the FAB auth manager: its configuration file ([fab] config_file), set by the environment alone.

CUTOVER_LOG_IN is ``password`` (accounts of Airflow's own, the default), ``oidc`` or ``ldap``. Accounts and their roles come
from the plans' people either way (``roles apply``): a log-in with another user name is refused and makes no account, and
groups of the identity provider give no rights.

``oidc``: OIDC_ISSUER, OIDC_CLIENT_ID, OIDC_CLIENT_SECRET; OIDC_NAME (the label of the button), OIDC_SCOPES, OIDC_USER_CLAIM
(``preferred_username``: the claim that is the plan's user name). Redirect URI: ``<address>/auth/oauth-authorized/<name>``.

``ldap``: LDAP_SERVER (``ldaps://…``), LDAP_SEARCH, LDAP_BIND_USER, LDAP_BIND_PASSWORD, LDAP_UID_FIELD (``uid``) and
LDAP_CA_FILE. It needs python-ldap in the image: docs/deployment.md.
"""

import os
from typing import Any

from flask_appbuilder.const import AUTH_DB, AUTH_LDAP, AUTH_OAUTH

WTF_CSRF_ENABLED = True
AUTH_USER_REGISTRATION = False
AUTH_ROLES_SYNC_AT_LOGIN = False
RATELIMIT_ENABLED = True
AUTH_RATE_LIMITED = True
AUTH_RATE_LIMIT = "10 per 20 second"


def _required(names: list[str]) -> dict[str, str]:
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise SystemExit(f"CUTOVER_LOG_IN is {CUTOVER_LOG_IN}, and {', '.join(missing)} is not set")
    return {name: os.environ[name] for name in names}


CUTOVER_LOG_IN = os.environ.get("CUTOVER_LOG_IN") or "password"

if CUTOVER_LOG_IN == "password":
    AUTH_TYPE = AUTH_DB

elif CUTOVER_LOG_IN == "oidc":
    from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride

    AUTH_TYPE = AUTH_OAUTH
    _given = _required(["OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET"])
    OIDC_USER_CLAIM = os.environ.get("OIDC_USER_CLAIM") or "preferred_username"
    OAUTH_PROVIDERS = [
        {
            "name": os.environ.get("OIDC_NAME") or "sso",
            "token_key": "access_token",
            "icon": "fa-key",
            "remote_app": {
                "client_id": _given["OIDC_CLIENT_ID"],
                "client_secret": _given["OIDC_CLIENT_SECRET"],
                "server_metadata_url": f"{_given['OIDC_ISSUER'].rstrip('/')}/.well-known/openid-configuration",
                "client_kwargs": {"scope": os.environ.get("OIDC_SCOPES") or "openid profile email"},
            },
        }
    ]

    class SECURITY_MANAGER_CLASS(FabAirflowSecurityManagerOverride):
        """Takes the user name from one claim of the token."""

        def get_oauth_user_info(self, provider: str, resp: dict[str, Any]) -> dict[str, Any]:
            """Read the user from the token that the provider signed; a token without the claim is not a log-in."""
            claims = resp.get("userinfo") or {}
            return {"username": claims.get(OIDC_USER_CLAIM) or "", "email": claims.get("email") or ""}

elif CUTOVER_LOG_IN == "ldap":
    AUTH_TYPE = AUTH_LDAP
    _given = _required(["LDAP_SERVER", "LDAP_SEARCH"])
    AUTH_LDAP_SERVER = _given["LDAP_SERVER"]
    AUTH_LDAP_SEARCH = _given["LDAP_SEARCH"]
    AUTH_LDAP_BIND_USER = os.environ.get("LDAP_BIND_USER") or ""
    AUTH_LDAP_BIND_PASSWORD = os.environ.get("LDAP_BIND_PASSWORD") or ""
    AUTH_LDAP_UID_FIELD = os.environ.get("LDAP_UID_FIELD") or "uid"
    AUTH_LDAP_TLS_CACERTFILE = os.environ.get("LDAP_CA_FILE") or ""
    AUTH_LDAP_ALLOW_SELF_SIGNED = False

else:
    raise SystemExit(f"CUTOVER_LOG_IN is {CUTOVER_LOG_IN}; it may be password, oidc or ldap")
