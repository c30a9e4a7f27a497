r"""Write a SQLite database as Ward OPS leaves it: the same arguments give the same bytes.

    python -m examples.ward_ops.generate --to FILE [--pings N] [--orphans N] [--credentials N]
                                         [--seed S] [--now TIME] [--force]

Without options the rows are those of the inventory (875 devices, 128 branches, 13,179 pings, …). Values look as the
application's own models write them, awkward where SQLite and PostgreSQL both allow it: Georgian script, quotes, tabs,
newlines, backslashes, ``\N`` as text, empty strings beside NULLs, duplicate addresses, sequences ahead of their keys.
The target accepts all of it, except the rows of ``--orphans``.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import secrets
import sys
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from examples.ward_ops.georgia import REGIONS
from include.cutover.errors import CutoverError, Refused, StepFailed

HERE = Path(__file__).resolve().parent
SEED = 20251011
NOW = datetime(2025, 10, 11, 8, 0, 0, tzinfo=UTC)
PINGS = 13_179
DEVICES = 875
BRANCHES = 128
SWEEP_SECONDS = 30
SIDE_FILES = ("-wal", "-shm", "-journal")

# All of it is legal in SQLite and in PostgreSQL, and breaks a loader that is not exact.
AWKWARD_TEXTS: tuple[str | None, ...] = (
    None,
    "",
    "მთავარი შესასვლელი, კორპუსი „ბ“",
    "O'Brien's rack, \"left\" door",
    "port\tspeed\tduplex",
    "პირველი სტრიქონი\nმეორე სტრიქონი\r\nმესამე",
    "C:\\temp\\new\\",
    "\\N",
    "\\.",
    "NULL",
    "ends with a backslash \\",
    "  blanks on both sides  ",
    "ends with a newline\n",
    'semicolon; comma, ""two quotes""',
    "🛰 и кириллица, é as two characters: e\u0301",
    "100 % of %s and %(name)s, {0}, $1, <b>&amp;</b>",
    "pasted from a console: \x1b[0m \x1c\x1d\x1e\x1f \x7f",
)


class Kind(NamedTuple):
    """A kind of device, with its vendors and models."""

    device_type: str
    subtype: str | None
    georgian: str
    models: tuple[tuple[str | None, str | None], ...]


KINDS = (
    Kind("router", "edge", "როუტერი", (("Cisco", "ISR 4331"), ("MikroTik", "CCR2004-1G-12S+2XS"))),
    Kind("switch", "access", "სვიჩი", (("Cisco", "Catalyst 2960-X"), ("HP", 'Aruba 2930F 24G "PoE+"'))),
    Kind("access_point", None, "წვდომის წერტილი", (("Ubiquiti", "U6-Pro"), ("Cisco", "AIR-AP1832I"))),
    Kind("camera", "dome", "კამერა", (("Hikvision", "DS-2CD2143G2-I"), ("Dahua", "IPC-HDW2431T"), ("", ""))),
    Kind("nvr", None, "ვიდეოჩამწერი", (("Hikvision", "DS-7732NI-K4"), (None, None))),
    Kind("printer", "laser", "პრინტერი", (("HP", "LaserJet Pro M404dn"), ("Kyocera", "ECOSYS P2040dn"))),
    Kind("ups", None, "უწყვეტი კვება", (("APC", "Smart-UPS 1500"), (None, None))),
    Kind("payment_terminal", "kiosk", "გადახდის ტერმინალი", (("Verifone", "VX 520"), ("", None))),
)

PINGS_SQL = """
INSERT INTO ping_results
    (id, device_ip, device_name, packets_sent, packets_received, packet_loss_percent,
     min_rtt_ms, avg_rtt_ms, max_rtt_ms, is_reachable, timestamp)
WITH RECURSIVE
    row_number(n) AS (SELECT 0 WHERE :pings > 0 UNION ALL SELECT n + 1 FROM row_number WHERE n + 1 < :pings),
    mixed(n, r) AS (SELECT n, ((n + :seed) * 2654435761 % 4294967291) * (n % 65521 + 1) % 1000000007 FROM row_number)
SELECT
    n + 1,
    ip,
    CASE n % 997 WHEN 13 THEN NULL WHEN 14 THEN '' ELSE name END,
    4,
    CASE WHEN r % 211 = 0 THEN 0 WHEN r % 53 = 0 THEN 3 ELSE 4 END,
    CASE WHEN r % 211 = 0 THEN 100 WHEN r % 53 = 0 THEN 25 ELSE 0 END,
    CASE WHEN r % 211 <> 0 THEN 1 + r % 17 END,
    CASE WHEN r % 211 <> 0 THEN 1 + r % 17 + r % 23 END,
    CASE WHEN r % 211 <> 0 THEN 1 + r % 17 + r % 23 + r % 31 END,
    r % 211 <> 0,
    strftime('%Y-%m-%d %H:%M:%S', :first + n / :devices * :sweep + r % :sweep, 'unixepoch')
        || CASE WHEN n % 499 = 7 THEN '' ELSE format('.%06d', r % 1000000) END
FROM mixed CROSS JOIN temp.pinged ON number = n % :devices
"""


@dataclass(frozen=True)
class Generated:
    """The written database.

    Attributes:
        file: Its path.
        rows: Rows of every table.
        bytes: Size of the file.
    """

    file: Path
    rows: dict[str, int]
    bytes: int


class _Values:
    """Values in the spelling of the application, from one seeded source of randomness."""

    def __init__(self, seed: int, now: datetime) -> None:
        self.random = random.Random(seed)
        self.now = now

    def hex_uuid(self) -> str:
        """Return 32 lower-case hex digits that SQLite's NUMERIC affinity cannot take for a number.

        All digits, or digits with one ``e``, would be stored as INTEGER or REAL; two letters are safe.
        """
        while True:
            value = uuid.UUID(int=self.random.getrandbits(128), version=4).hex
            if sum(not digit.isdigit() for digit in value) >= 2:
                return value

    def hyphenated_uuid(self) -> str:
        """Return 36 characters, as in branches.id and every branch_id."""
        return str(uuid.UUID(self.hex_uuid()))

    def fernet(self, size: int = 16) -> str:
        """Return a text of a Fernet token's form: version, time, IV, ciphertext, HMAC."""
        blocks = 16 * (size // 16 + 1)
        token = b"\x80" + int(self.now.timestamp()).to_bytes(8, "big") + self.random.randbytes(16 + blocks + 32)
        return base64.urlsafe_b64encode(token).decode()

    def password_hash(self) -> str:
        """Return a text of the form of a bcrypt hash."""
        alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
        return "$2b$12$" + "".join(self.random.choices(alphabet, k=53))

    def moment(self, days: float) -> str:
        """Return a datetime of the models, up to that many days ago: six fraction digits, naive, UTC."""
        moment = self.now - timedelta(seconds=self.random.uniform(0, days * 86_400))
        return moment.strftime("%Y-%m-%d %H:%M:%S.%f")

    def current_timestamp(self, days_ago: int) -> str:
        """Return a time as CURRENT_TIMESTAMP writes it: without a fraction."""
        return (self.now - timedelta(days=days_ago)).strftime("%Y-%m-%d %H:%M:%S")


def _georgian_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _branches(values: _Values) -> list[tuple[Any, ...]]:
    cities = [(region, city) for region, places in REGIONS.items() for city in places]
    rows = []
    for number in range(BRANCHES):
        region, city = cities[number % len(cities)]
        which = number // len(cities) + 1
        address = (
            f"{city.name_ka}, რუსთაველის გამზ. {number + 1}",
            f"{city.name_ka},\nაღმაშენებლის ქ. {number + 1}/{which}",
            "",
            None,
        )[number % 4]
        created = values.moment(400)
        rows.append((
            values.hyphenated_uuid(), f"{city.name_en} {which}", f"{city.name_ka} №{which}", region.name_en,
            f"GE{number + 1:04d}" if number % 9 else None, address, int(number % 31 != 0), 0, created, created,
        ))  # fmt: skip
    return rows


def _devices(values: _Values, branches: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    tags: tuple[str | None, ...] = (
        None,
        "null",
        "[]",
        _georgian_json(["ქსელი", "core"]),
        json.dumps(["ქსელი", "ფილიალი"]),
        _georgian_json(["a\tb", 'quote "', "back\\slash", "\\N"]),
    )
    rows = []
    for number in range(DEVICES):
        kind = KINDS[number % len(KINDS)]
        vendor, model = kind.models[values.random.randrange(len(kind.models))]
        branch = branches[values.random.randrange(len(branches))] if number % 37 else None
        # The last ten devices answer at addresses that are already taken: ip was never unique.
        address = number if number < DEVICES - 10 else number - 500
        city = branch[2] if branch else "საწყობი"
        name = f"{city} {kind.georgian} {number + 1}" if number % 5 else f"{kind.device_type.upper()}-{number + 1:03d}"
        custom: tuple[str | None, ...] = (
            None,
            "{}",
            _georgian_json({"სართული": number % 9, "price": 12.5, "note": "ხაზი\nმეორე"}),
            f'{{"contract": "№{number}",  "monthly": 1.10, "owner": null, "rack": {{"unit": {number % 42}}}}}',
        )
        created = values.moment(300)
        rows.append((
            values.hex_uuid(), name, f"10.{10 + address // 250}.{address % 250}.{1 + address * 7 % 250}",
            {0: None, 1: ""}.get(number % 11, f"{kind.device_type.replace('_', '-')}-{number + 1}.ward.example"),
            vendor, kind.device_type, model, city if number % 3 else "",
            AWKWARD_TEXTS[number % len(AWKWARD_TEXTS)], int(number % 29 != 0),
            values.moment(300) if number % 7 else None, values.moment(0.02) if number % 13 else None,
            tags[number % len(tags)], custom[number % len(custom)], branch[0] if branch else None,
            f"{kind.device_type} {number + 1}", kind.subtype, (f"{number % 9} სართული", "", None)[number % 3],
            number % 6 or None, name, 22 if kind.device_type in ("router", "switch") else None,
            "admin" if kind.device_type == "router" else None, int(kind.device_type in ("router", "switch")),
            created, values.moment(20),
        ))  # fmt: skip
    return rows


def _users(values: _Values) -> list[tuple[Any, ...]]:
    layout = _georgian_json({"widgets": [{"id": "რუკა", "x": 0, "y": 0, "w": 6}, {"id": "alerts", "x": 6}], "dark": True})
    people = (
        ("nino", "nino@ward-ops.example", "ნინო ბერიძე", "ADMIN", 1, None, None, "dark", "ka", layout),
        ("giorgi", "giorgi@ward-ops.example", "გიორგი მაისურაძე", "REGIONAL_MANAGER", 0, "Imereti", "Kutaisi 1,Vani 1",
         "auto", "en", "{}"),
        ("t.lomidze", "tamar@ward-ops.example", "Tamar \"Tako\" Lomidze", "TECHNICIAN", 0, "", "", None, None, None),
    )  # fmt: skip
    # The second account was deleted: keys have gaps.
    return [
        (
            key, username, email, full_name, values.password_hash(), role, None, is_superuser, region, branches, 1,
            values.moment(350), values.moment(3) if key < 4 else None, theme, language, "Asia/Tbilisi", 1, layout,
        )
        for key, (username, email, full_name, role, is_superuser, region, branches, theme, language, layout)
        in zip((1, 3, 4), people, strict=True)
    ]  # fmt: skip


def _hostgroups(values: _Values) -> list[tuple[Any, ...]]:
    groups = (
        (1, "15", "Routers", "როუტერები"), (2, "16", "Switches", "სვიჩები"), (4, "22", "ATM/Payment", ""),
        (5, "23", "Cameras & \"NVR\"", None), (7, "31", "UPS", "უწყვეტი კვება"), (8, "40", "Branches\\HQ", "სათაო ოფისი"),
    )  # fmt: skip
    return [
        (key, group, name, shown, int(key != 7), values.current_timestamp(200), values.current_timestamp(30 + key))
        for key, group, name, shown in groups
    ]


def _profiles(values: _Values) -> list[tuple[Any, ...]]:
    return [
        (values.hex_uuid(), name, mode, active, text, values.moment(200), values.moment(10))
        for name, mode, active, text in (
            ("Standalone monitoring", "standalone", 1, "ჩაშენებული მონიტორინგი: ping, SNMP"),
            ("Zabbix (old)", "zabbix", 0, ""),
        )
    ]


def _templates(values: _Values) -> list[tuple[Any, ...]]:
    rows = []
    for number, (name, vendor) in enumerate((
        ("Generic ping", None), ("Cisco IOS", "Cisco"), ("MikroTik RouterOS", "MikroTik"), ("HP ProCurve", "HP"),
        ("APC UPS", "APC"), ("Hikvision NVR", "Hikvision"),
    )):  # fmt: skip
        items = [
            {"name": "sysUpTime", "oid": "1.3.6.1.2.1.1.3.0", "interval": 60, "units": "წამი"},
            {"name": "ifInOctets", "oid": "1.3.6.1.2.1.2.2.1.10", "interval": 300, "scale": 0.125},
        ]
        triggers = [{"expression": "last(sysUpTime) < 600", "severity": "WARNING", "text": "მოწყობილობა გადაიტვირთა"}]
        rows.append((
            values.hex_uuid(), name, ("", None, "ძირითადი შაბლონი")[number % 3], vendor,
            json.dumps(["router", "switch"]), _georgian_json(items), json.dumps(triggers) if number else "null",
            int(number == 0), values.hex_uuid() if number % 2 else None, values.moment(200), values.moment(60),
        ))  # fmt: skip
    return rows


def _credentials(values: _Values, device_ids: Iterable[str]) -> list[tuple[Any, ...]]:
    rows = []
    for number, device in enumerate(device_ids):
        created = values.moment(90)
        secret: tuple[str | None, ...]
        if number % 3:
            secret = (None, "snmp-monitor", "SHA", values.fernet(20), "AES", values.fernet(20), "authPriv")
        else:
            secret = (values.fernet(), None, None, None, None, None, "")
        rows.append((values.hex_uuid(), device, "v3" if number % 3 else "v2c", *secret, created, created))
    return rows


def _alert_rules(values: _Values, devices: list[tuple[Any, ...]], branches: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    channels, nobody = _georgian_json(["email", "slack"]), "[]"
    rules: tuple[tuple[Any, ...], ...] = (
        (None, None, "Device down", "მოწყობილობა არ პასუხობს", "ping_unreachable >= 3", "CRITICAL", channels, "routers"),
        (devices[0][0], None, 'High latency: "core"', "", "avg_rtt_ms > 200\nAND packet_loss < 100", "WARNING", "null", ""),
        (None, branches[0][0], "ფილიალი მიუწვდომელია", None, "branch_down('\\N')", "HIGH", nobody, None),
        (None, None, "Packet loss", "loss > 20 %", "packet_loss_percent > 20", "MEDIUM", None, "switches"),
    )
    return [
        (
            values.hex_uuid(), device, branch, name, text, expression, severity, channel,
            _georgian_json(["ops@ward-ops.example", "ნინო"]), group, None, int(number != 3),
            values.moment(150), values.moment(15),
        )
        for number, (device, branch, name, text, expression, severity, channel, group) in enumerate(rules)
    ]  # fmt: skip


def _insert(connection: apsw.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f'INSERT INTO "{table}" VALUES ({marks})', rows)  # noqa: S608 - names of this module


def _fill(connection: apsw.Connection, *, pings: int, orphans: int, credentials: int, seed: int, now: datetime) -> None:
    values = _Values(seed, now)
    branches = _branches(values)
    devices = _devices(values, branches)
    located = [device[14] for device in devices]
    branches = [(*row[:7], located.count(row[0]), *row[8:]) for row in branches]

    created = values.current_timestamp(250)
    numbered = list(enumerate(REGIONS.items(), start=1))
    regions = [(key, *region, created) for key, (region, _) in numbered]
    cities = [(city, key) for key, (_, places) in numbered for city in places]

    _insert(connection, "users", _users(values))
    _insert(connection, "branches", branches)
    _insert(connection, "standalone_devices", devices)
    _insert(connection, "monitored_hostgroups", _hostgroups(values))
    _insert(connection, "georgian_regions", regions)
    _insert(connection, "georgian_cities", [
        (key, city.name_en, city.name_ka, region, city.latitude, city.longitude, int(key != len(cities)), created)
        for key, (city, region) in enumerate(cities, start=1)
    ])  # fmt: skip
    _insert(connection, "monitoring_profiles", _profiles(values))
    _insert(connection, "monitoring_templates", _templates(values))
    _insert(connection, "alert_rules", _alert_rules(values, devices, branches))
    known = [device[0] for device in devices]
    _insert(connection, "snmp_credentials", _credentials(values, known[:credentials]))
    _insert(connection, "snmp_credentials", _credentials(values, _unknown(values, known, orphans)))
    # Host groups 9 to 11 were deleted again: the sequence is ahead of the largest key.
    connection.execute("UPDATE sqlite_sequence SET seq = 11 WHERE name = 'monitored_hostgroups'")

    connection.execute("CREATE TEMP TABLE pinged (number INTEGER PRIMARY KEY, ip TEXT, name TEXT)")
    connection.executemany(
        "INSERT INTO temp.pinged VALUES (?, ?, ?)", [(number, row[2], row[1]) for number, row in enumerate(devices)]
    )
    sweeps = -(-pings // DEVICES)
    connection.execute(
        PINGS_SQL,
        {
            "pings": pings, "seed": seed % 1_000_003, "devices": DEVICES, "sweep": SWEEP_SECONDS,
            "first": int(now.timestamp()) - sweeps * SWEEP_SECONDS,
        },
    )  # fmt: skip


def _unknown(values: _Values, known: Iterable[str], count: int) -> list[str]:
    """Return that many ids that belong to no device."""
    taken = set(known)
    found: list[str] = []
    while len(found) < count:
        candidate = values.hex_uuid()
        if candidate not in taken:
            taken.add(candidate)
            found.append(candidate)
    return found


def _check_arguments(pings: int, orphans: int, credentials: int) -> None:
    for name, value in (("pings", pings), ("orphans", orphans), ("credentials", credentials)):
        if value < 0:
            raise Refused(f"--{name} must not be negative", found=str(value))
    if pings > 2_000_000_000:
        raise Refused("--pings is too large", expected="at most 2,000,000,000", found=f"{pings:,}")
    if credentials > DEVICES:
        raise Refused(
            "every credential belongs to a device of its own",
            expected=f"--credentials up to {DEVICES}",
            found=str(credentials),
        )


def _check_place(to: Path, force: bool) -> None:
    if to.is_dir():
        raise Refused("this is a folder", where=str(to), expected="the name of a file")
    in_the_way = [path for path in (to, *(Path(f"{to}{suffix}") for suffix in SIDE_FILES)) if path.exists()]
    if in_the_way and not force:
        raise Refused("the file exists", where=str(in_the_way[0]), do="Use --force to replace it.")


def generate(
    to: Path,
    *,
    pings: int = PINGS,
    orphans: int = 0,
    credentials: int = 1,
    seed: int = SEED,
    now: datetime = NOW,
    force: bool = False,
) -> Generated:
    """Write the database to ``to``: under a temporary name first, renamed when it is complete and on disk.

    Args:
        to: The file; missing folders above it are made.
        pings: Rows of ping_results, one sweep over all devices every 30 seconds up to ``now``.
        orphans: snmp_credentials of devices that do not exist, beside ``credentials``.
        credentials: snmp_credentials of devices that exist.
        seed: Other seeds give other values, not other numbers of rows.
        now: The instant of the newest values.
        force: Replace an existing file and its ``-wal``, ``-shm`` and ``-journal``. No process may have it open.

    Raises:
        Refused: When an argument is out of range, or the file exists. Nothing was written.
        StepFailed: When the file could not be written. An existing file is unchanged.
    """
    _check_arguments(pings, orphans, credentials)
    _check_place(to, force)
    temporary = to.with_name(f".{to.name}.{secrets.token_hex(4)}")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        connection = apsw.Connection(str(temporary))
        try:
            # A crash leaves a temporary file that is never read: no journal and no fsync before the end.
            connection.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute((HERE / "source_tables.sql").read_text(encoding="utf-8"))
            with connection:
                _fill(connection, pings=pings, orphans=orphans, credentials=credentials, seed=seed, now=now)
            connection.execute((HERE / "source_indexes.sql").read_text(encoding="utf-8"))
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
            rows = {
                name: connection.execute(f'SELECT count(*) FROM "{name}"').get  # noqa: S608 - names from the catalog
                for name in names
                if not name.startswith("sqlite_")
            }
        finally:
            connection.close()
        _into_place(temporary, to)
    except (OSError, apsw.Error) as error:
        raise StepFailed("the database could not be written", where=str(to), found=str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return Generated(to, rows, to.stat().st_size)


def _into_place(temporary: Path, to: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    # SQLite would apply a -wal or -journal of the old file to the new one.
    for suffix in SIDE_FILES:
        Path(f"{to}{suffix}").unlink(missing_ok=True)
    temporary.replace(to)
    folder = os.open(to.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _moment(text: str) -> datetime:
    """Return an instant; without an offset it is UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.ward_ops.generate", description="Write a SQLite database as Ward OPS leaves it."
    )
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help="the database to write")
    parser.add_argument("--pings", type=int, default=PINGS, metavar="N", help=f"rows of ping_results ({PINGS})")
    parser.add_argument("--orphans", type=int, default=0, metavar="N", help="credentials of devices that do not exist (0)")
    parser.add_argument("--credentials", type=int, default=1, metavar="N", help="credentials of devices that exist (1)")
    parser.add_argument("--seed", type=int, default=SEED, metavar="S", help=f"other values, same numbers of rows ({SEED})")
    parser.add_argument(
        "--now", type=_moment, default=NOW, metavar="TIME", help=f"the newest instant ({NOW:%Y-%m-%dT%H:%M:%SZ})"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    given = vars(parser.parse_args(arguments))
    try:
        done = generate(given.pop("to"), **given)
    except CutoverError as error:
        print(f"generate: {error}", file=sys.stderr)
        return 1
    filled = ", ".join(f"{table} {count:,}" for table, count in done.rows.items() if count)
    print(f"{done.file}: {done.bytes / 1e6:,.1f} MB, {len(done.rows)} tables ({filled}; the others are empty)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
