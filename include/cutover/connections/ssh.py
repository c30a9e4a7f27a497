"""Commands on another host, over SSH, by an Airflow connection.

The host's key must be known: from the connection's ``host_key``, or from the known_hosts file of the tasks' user or of this
host. No key is accepted silently, and no known_hosts file is written.

A command is an argument list. The host's login shell, which must be POSIX-like, gets it quoted, behind ``timeout`` of
coreutils or busybox: a command that hangs is ended with its process group even when this process is gone.
"""

from __future__ import annotations

import base64
import binascii
import getpass
import io
import logging
import math
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.cutover.connections.commands import OUTPUT_BYTES, Ran
from include.cutover.errors import CannotCheck, CutoverError, Unreachable
from include.cutover.masking import mask

if TYPE_CHECKING:
    import paramiko

PORT = 22
CONNECT_SECONDS = 10.0
KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")

# How long the end of a command, by the host's ``timeout``, may take to arrive here.
_SLACK_SECONDS = 5.0
# The exit status may overtake the end of the output; output of a process left behind is not waited for.
_AFTERWARDS_SECONDS = 0.5
_PAUSE = 0.01
_CORRECT = "Correct the connection in Airflow (Admin, Connections)."
_NOT_RUN = (125, 126, 127)  # timeout itself failed, the file is not executable, there is no such program

# Errors that its threads log with tracebacks are raised as exceptions too.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Login:
    """The log-in to a host.

    Attributes:
        connection: Id of the Airflow connection.
        key: A private key, as text.
        key_file: The same in a file.
        passphrase: Of the private key.
        host_key: The host's public key, as in a known_hosts file without the host's name.
        unverified: The host's key is not checked.
        own_keys: Keys and agent of the tasks' user may be used, where neither key nor password is given.
    """

    connection: str
    host: str
    port: int = PORT
    user: str = ""
    password: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    key_file: str | None = None
    passphrase: str | None = field(default=None, repr=False)
    host_key: str | None = None
    unverified: bool = False
    own_keys: bool = True
    connect_seconds: float = CONNECT_SECONDS
    disabled_algorithms: Mapping[str, Any] | None = None


def login(
    connection: str,
    *,
    host: str | None,
    port: int | str | None = None,
    user: str | None = None,
    password: str | None = None,
    extra: Mapping[str, Any] | None = None,
    may_be_unverified: bool = False,
) -> Login:
    """Return the log-in from the fields of an Airflow connection of type ``ssh``.

    Args:
        connection: Its id.
        host: Name or address.
        port: ``PORT`` when left out.
        user: The tasks' user when left out.
        password: Of the user; None for a key.
        extra: ``key_file`` or ``private_key``, ``private_key_passphrase``, ``host_key``, ``conn_timeout``,
            ``look_for_keys``, ``disabled_algorithms``, ``no_host_key_check``, ``allow_host_key_change``. Others are
            ignored.
        may_be_unverified: The plan accepts ``no_host_key_check`` of this connection.

    Raises:
        CannotCheck: When it names no host, gives two keys, or asks for what the plan does not accept.
    """
    given = dict(extra or {})
    if not host:
        raise CannotCheck("the SSH connection names no host", where=f"connection {connection}", do=_CORRECT)
    unverified = _yes(given.get("no_host_key_check"))
    _refuse_unsafe(given, unverified and not may_be_unverified, f"connection {connection}")
    return Login(
        connection=connection,
        host=host,
        port=int(port or PORT),
        user=user or getpass.getuser(),
        password=password or None,
        key=given.get("private_key") or None,
        key_file=given.get("key_file") or None,
        passphrase=given.get("private_key_passphrase") or None,
        host_key=given.get("host_key") or None,
        unverified=unverified,
        own_keys=str(given.get("look_for_keys", "true")).lower() != "false",
        connect_seconds=float(given.get("conn_timeout") or CONNECT_SECONDS),
        disabled_algorithms=given.get("disabled_algorithms"),
    )


def _refuse_unsafe(given: Mapping[str, Any], unverified: bool, where: str) -> None:
    """Refuse two keys, a host key that may change, and one that is not checked although the plan demands it."""
    if given.get("key_file") and given.get("private_key"):
        raise CannotCheck("the SSH connection gives two keys", where=where, expected="key_file or private_key", do=_CORRECT)
    if _yes(given.get("allow_host_key_change")):
        raise CannotCheck(
            "the SSH connection accepts a changed host key",
            where=where,
            found="allow_host_key_change",
            do="Remove it; put the host's new key into host_key of the connection or into known_hosts.",
        )
    if unverified:
        raise CannotCheck(
            "the SSH connection does not check the host's key, and the plan does not accept that",
            where=where,
            found="no_host_key_check",
            do="Give the host's key as host_key or in known_hosts; or name the connection in connections.ssh_unverified.",
        )


def _yes(value: Any) -> bool:
    return str(value).lower() == "true"


class _NoTunnel(Exception):
    """The host answers but opens no tunnel."""


class Ssh:
    """A host over SSH; see ``commands.Runner``. It connects at the first use, and again after the connection was lost."""

    def __init__(self, login: Login) -> None:
        """Keep the log-in; connect later."""
        self._login = login
        self._client: paramiko.SSHClient | None = None
        self._where = f"{login.user}@{login.host}:{login.port}, connection {login.connection}"

    @property
    def where(self) -> str:
        """The host in words."""
        return f"on {self._login.host}"

    def close(self) -> None:
        """End the connection; the next use opens a new one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def run(
        self, command: Sequence[str], seconds: float, *, stdin: str = "", directory: str | None = None, secret: bool = False
    ) -> Ran:
        """Run a command there; see ``Runner``. Its output is kept in memory, ``secret`` or not."""
        limit = math.ceil(max(seconds, 1))  # busybox knows whole seconds only
        line = f"exec {shlex.join(['timeout', '-s', 'KILL', str(limit), *command])}"
        if directory is not None:
            line = f"cd -- {shlex.quote(directory)} || exit 126; {line}"
        channel = self._channel(lambda transport: transport.open_session(timeout=self._login.connect_seconds))
        begun = time.monotonic()
        # Not every wait inside paramiko has a limit; they all end with the connection.
        guard = threading.Timer(limit + 2 * _SLACK_SECONDS, self.close)
        guard.daemon = True
        guard.start()
        try:
            ran = self._talk(channel, line, stdin, begun + limit + _SLACK_SECONDS)
        except (EOFError, OSError, _ssh_error()) as error:
            self.close()
            raise self._unreachable(error) from None
        finally:
            guard.cancel()
            channel.close()
        if ran.code in _NOT_RUN:
            raise CannotCheck(
                "a command of the plan cannot be run",
                where=f"{command[0]} {self.where}",
                found=ran.excerpt(output=False),
                do="Name programs and folders that the user of the connection may use; 'timeout' must exist there too.",
            )
        if ran.code is not None and ran.code < 0 and time.monotonic() - begun >= limit:
            return Ran(None, ran.output, ran.errors)  # the signal came from timeout
        return ran

    def tunnel(self, host: str, port: int, seconds: float) -> Any:
        """Connect from there to a port; use the result like a socket.

        Raises:
            ConnectionRefusedError: When nothing listens there, or the host allows no forwarding.
            Unreachable: When the host does not answer.
        """
        import paramiko

        def opened(transport: paramiko.Transport) -> paramiko.Channel:
            try:
                return transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), timeout=seconds)
            except paramiko.ChannelException as error:
                raise _NoTunnel(f"{self.where}: no tunnel to port {port} of {host}: {error.text}") from None

        try:
            channel = self._channel(opened)
        except _NoTunnel as error:
            raise ConnectionRefusedError(str(error)) from None
        channel.settimeout(seconds)
        return channel

    def _talk(self, channel: paramiko.Channel, line: str, stdin: str, deadline: float) -> Ran:
        channel.settimeout(max(deadline - time.monotonic(), _PAUSE))
        channel.exec_command(line)
        if stdin:
            try:
                channel.sendall(stdin.encode())
            except OSError:  # the command ended, or closed its input, before it read everything: its exit status says more
                if time.monotonic() >= deadline:
                    raise
        channel.shutdown_write()
        output, errors = bytearray(), bytearray()
        quiet_since = time.monotonic()
        while True:
            # Checked before reading: when the end has arrived, so has everything sent before it.
            over = channel.closed or (channel.exit_status_ready() and channel.eof_received)
            ended = channel.exit_status_ready()
            read = False
            if channel.recv_ready():
                read = _keep(output, channel.recv(1 << 16))
            if channel.recv_stderr_ready():
                read = _keep(errors, channel.recv_stderr(1 << 16)) or read
            now = time.monotonic()
            if read:
                quiet_since = now
            elif over or (ended and now - quiet_since > _AFTERWARDS_SECONDS):
                break
            elif now >= deadline:  # the host's own time limit has passed without an answer
                raise TimeoutError("the host stopped answering")
            else:
                time.sleep(_PAUSE)
        transport = channel.get_transport()
        if channel.exit_status < 0 and (transport is None or not transport.is_active()):
            raise EOFError("the connection was lost")
        return Ran(channel.exit_status, output.decode(errors="replace"), errors.decode(errors="replace"))

    def _channel(self, opened: Callable[[paramiko.Transport], paramiko.Channel]) -> paramiko.Channel:
        """Open a channel. A connection that was lost since its last use is opened again, once."""
        import paramiko

        for again in (self._client is not None, False):
            transport = self._connected().get_transport()
            try:
                if transport is None:
                    raise EOFError("the connection was lost")
                return opened(transport)
            except paramiko.ChannelException as error:  # the host answers and refuses
                raise self._unreachable(error) from None
            except (EOFError, OSError, paramiko.SSHException) as error:
                self.close()
                if not again:
                    raise self._unreachable(error) from None
        raise AssertionError("unreachable")

    def _connected(self) -> paramiko.SSHClient:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> paramiko.SSHClient:
        import paramiko

        login = self._login
        client = paramiko.SSHClient()
        self._trust(client)
        key = self._key()
        own_keys = login.own_keys and key is None and login.password is None
        try:
            client.connect(
                login.host, login.port, login.user, password=login.password, pkey=key,
                look_for_keys=own_keys, allow_agent=own_keys, disabled_algorithms=login.disabled_algorithms,
                timeout=login.connect_seconds, banner_timeout=login.connect_seconds, auth_timeout=login.connect_seconds,
                channel_timeout=login.connect_seconds,
            )  # fmt: skip
        except CutoverError:
            client.close()
            raise
        except paramiko.BadHostKeyException as error:
            client.close()
            raise CannotCheck(
                "the host's key differs from the known one: it may be another host",
                where=self._where,
                expected=error.expected_key.fingerprint,
                found=error.key.fingerprint,
                do="Find out why before anything else. If the host was reinstalled, correct its host_key or known_hosts.",
            ) from None
        except (paramiko.AuthenticationException, paramiko.PasswordRequiredException):
            client.close()
            raise CannotCheck(
                "the host refuses the log-in",
                where=self._where,
                expected=f"a user {login.user} with this {'password' if login.password and key is None else 'key'}",
                do="Compare the connection with the host's authorized_keys, and with its log.",
            ) from None
        except (paramiko.SSHException, EOFError, OSError, ValueError) as error:
            client.close()
            raise self._unreachable(error) from None
        return client

    def _trust(self, client: paramiko.SSHClient) -> None:
        """Set the accepted host keys. A key in the connection is the only one; known_hosts is then ignored."""
        import paramiko

        login, where = self._login, self._where

        class Refuse(paramiko.MissingHostKeyPolicy):
            def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
                raise CannotCheck(
                    "the host's key is not known, so it may be another host",
                    where=where,
                    expected="host_key in the connection, or a line in known_hosts",
                    found=f"{key.get_name()} {key.fingerprint}",
                    do="Compare with 'ssh-keygen -lf /etc/ssh/ssh_host_…_key.pub' there, then add it to known_hosts.",
                )

        class Accept(paramiko.MissingHostKeyPolicy):
            def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
                logging.getLogger(__name__).warning(
                    "%s: not verified, as the plan accepts; found %s %s", where, key.get_name(), key.fingerprint
                )

        client.set_missing_host_key_policy(Accept() if login.unverified else Refuse())
        if login.host_key is not None:
            name = login.host if login.port == PORT else f"[{login.host}]:{login.port}"
            key = _public_key(login.host_key, where)
            client.get_host_keys().add(name, key.get_name(), key)
        elif not login.unverified:
            for file in KNOWN_HOSTS:
                if Path(file).expanduser().is_file():
                    client.load_system_host_keys(str(Path(file).expanduser()))

    def _key(self) -> paramiko.PKey | None:
        import paramiko
        from cryptography.exceptions import UnsupportedAlgorithm

        login, text = self._login, self._login.key
        if login.key_file is not None:
            try:
                text = Path(login.key_file).expanduser().read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise CannotCheck(
                    "the private key cannot be read",
                    where=self._where,
                    found=f"{login.key_file}: {type(error).__name__}",
                    do="Let the tasks' user read it.",
                ) from None
        if text is None:
            return None
        for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
            try:
                return kind.from_private_key(io.StringIO(text), password=login.passphrase)
            except paramiko.PasswordRequiredException:
                break
            except (paramiko.SSHException, ValueError, IndexError, TypeError, UnsupportedAlgorithm):
                continue
        raise CannotCheck(
            "the private key cannot be used",
            where=self._where,
            expected="an Ed25519, ECDSA or RSA key with its passphrase",
            found=login.key_file or "private_key of the connection",
            do="Replace the key, or give its passphrase in the connection.",
        )

    def _unreachable(self, error: BaseException) -> Unreachable:
        return Unreachable(
            "the host does not answer over SSH",
            where=self._where,
            found=mask(str(error) or type(error).__name__),
            do="Check that sshd runs there and that the connection's host and port are right.",
        )


def _ssh_error() -> type[Exception]:
    import paramiko

    found: type[Exception] = paramiko.SSHException
    return found


def _public_key(text: str, where: str) -> paramiko.PKey:
    """Return the key of ``ssh-ed25519 AAAA…`` or of ``AAAA…`` alone: the kind stands in the key too."""
    import paramiko

    try:
        blob = base64.b64decode(text.split()[:2][-1], validate=True)
        kind = paramiko.Message(blob).get_text()
        return paramiko.PKey.from_type_string(kind, blob)
    except (IndexError, binascii.Error, UnicodeDecodeError, paramiko.SSHException, paramiko.UnknownKeyType, ValueError):
        raise CannotCheck(
            "the host_key of the connection is not a public key",
            where=where,
            expected="the part after the host's name in a known_hosts file",
            do=_CORRECT,
        ) from None


def _keep(kept: bytearray, received: bytes) -> bool:
    """Append to the kept output, whose start is cut; return False at the end of the stream."""
    kept += received
    if len(kept) > 2 * OUTPUT_BYTES:
        del kept[:-OUTPUT_BYTES]
    return bool(received)
