"""The command `doctor`: checks each part of an installation, and says how to repair it."""

import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import grpc
import typer

from tamatar_auth.cli.formats import TextFormat, TextOption
from tamatar_auth.cli.local.database_checks import check_database
from tamatar_auth.cli.local.finding import Finding
from tamatar_auth.cli.local.healthcheck import check_health, tls_files_at
from tamatar_auth.cli.local.scheduler import uses_autogroups
from tamatar_auth.cli.output import print_json
from tamatar_auth.cli.tables import print_table
from tamatar_auth.config.errors import OperatorError, SettingsError
from tamatar_auth.config.factors import ORIGINS, RELYING_PARTY_ID
from tamatar_auth.config.settings import Settings
from tamatar_auth.config.sources import REMOVED_VARIABLES, Sources
from tamatar_auth.errors.factors import FactorsNotConfigured
from tamatar_auth.security.caller_file import read_callers
from tamatar_auth.security.callers import CallerCredentials
from tamatar_auth.security.factor_keys import FactorKeys
from tamatar_auth.security.passkey_options import RelyingParty
from tamatar_auth.security.passwords.peppers import Peppers
from tamatar_auth.security.tls import TlsFiles
from tamatar_auth.server import grpcio_release
from tamatar_auth.server.ports import HEALTH_LISTEN, LISTEN

EXPIRY_WARNING = timedelta(days=14)
"""The remaining lifetime of a token or a certificate below which the doctor complains."""


def doctor(*, output: TextOption = TextFormat.TEXT) -> None:
    """Check the installation. Exit with 1 if a check fails. Warnings do not count.

    The checks cover settings, password keys, factor keys, passkeys, grpcio, callers, certificate,
    database, clock, standbys, tables, partitions and ports.
    """
    findings = examine()
    rows = [(each.label, each.subject, each.text) for each in findings]
    if output is TextFormat.JSON:
        names = ("level", "subject", "text")
        print_json({"findings": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        print_table((), rows)
    raise typer.Exit(0 if all(each.ok for each in findings) else 1)


def examine() -> Sequence[Finding]:
    """Run every check. Wrong settings end the checks, because the others depend on them."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        return [Finding("settings", ok=False, text=line) for line in str(error).splitlines()]
    return [
        *_settings(settings),
        _passwords(settings),
        _factors(settings),
        _passkeys(settings),
        _grpcio(),
        *_scheduler(),
        *_callers(settings),
        *_certificate(settings),
        *check_database(settings),
        *_ports(settings),
    ]


def _settings(settings: Settings) -> Iterator[Finding]:
    unknown, removed = Sources(Settings).unknown(), Sources(Settings).removed()
    yield from (Finding("settings", ok=False, text=str(each)) for each in unknown)
    for variable, place in removed:
        instead = REMOVED_VARIABLES[variable.upper()]
        yield Finding("settings", ok=False, text=f"{variable} ({place}) was removed: {instead}")
    if not unknown and not removed:
        yield Finding("settings", ok=True, text=f"all valid, for {settings.environment}")


def _passwords(settings: Settings) -> Finding:
    try:
        newest = Peppers.load(settings.passwords).newest_id
    except SettingsError as error:
        return Finding("passwords", ok=False, text=str(error))
    return Finding("passwords", ok=True, text=f"new ones are hashed with the key {newest}")


def _factors(settings: Settings) -> Finding:
    in_development = settings.environment == "development"
    try:
        newest = FactorKeys.load(settings.factors, in_development=in_development).newest_id
    except SettingsError as error:
        return Finding("factors", ok=False, text=str(error))
    except FactorsNotConfigured:
        text = "no keys: users cannot add apps, recovery codes or passkeys; set TAMATAR_FACTOR_KEYS"
        return Finding("factors", ok=True, text=text, is_warning=True)
    return Finding("factors", ok=True, text=f"new ones are kept with the key {newest}")


def _passkeys(settings: Settings) -> Finding:
    in_development = settings.environment == "development"
    party = RelyingParty.load(settings.factors, in_development=in_development)
    if party is None:
        text = f"no domain: users cannot add or use passkeys; set {RELYING_PARTY_ID} and {ORIGINS}"
        return Finding("passkeys", ok=True, text=text, is_warning=True)
    text = f"they belong to {party.id}, for pages of {', '.join(party.origins)}"
    return Finding("passkeys", ok=True, text=text)


def _grpcio() -> Finding:
    installed, tried = grpc.__version__, grpcio_release.TRIED
    if grpcio_release.is_tried():
        return Finding("grpcio", ok=True, text=f"{installed}, as tried")
    text = f"{installed} was not tried and makes calls slower: install grpcio {tried}"
    return Finding("grpcio", ok=False, text=text)


def _scheduler() -> Iterator[Finding]:
    if uses_autogroups():
        text = (
            "kernel.sched_autogroup_enabled is on: if PostgreSQL runs on this machine, validations"
            " wait while others sign in; set it to 0, or use control groups (systemd, containers)"
        )
        yield Finding("scheduler", ok=True, text=text, is_warning=True)


def _callers(settings: Settings) -> Iterator[Finding]:
    path = settings.callers_file
    if path is None:
        text = "none configured: every caller on this machine is an admin"
        yield _risk_in_production(settings, "callers", text, "set TAMATAR_CALLERS_FILE")
        return
    try:
        known = read_callers(path).known
        is_open = bool(path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    except (OperatorError, OSError) as error:
        yield Finding("callers", ok=False, text=str(error))
        return
    if is_open:
        yield Finding("callers", ok=False, text=f"other users can write to {path}: run chmod go-w")
    expiring = [text for credentials in known for text in _expiring_tokens(credentials)]
    yield from (Finding("callers", ok=False, text=text) for text in expiring)
    if not expiring:
        yield Finding("callers", ok=True, text=f"{len(known)} in {path}")


def _expiring_tokens(credentials: CallerCredentials) -> Iterator[str]:
    end = max(credentials.tokens.values(), default=None)
    if end is not None and end - datetime.now(UTC) < EXPIRY_WARNING:
        name, when = credentials.caller.name, end.astimezone(UTC)
        yield (
            f"the last token of {name} ends at {when:%Y-%m-%d %H:%M} UTC;"
            f" run `tamatar-auth caller rotate {name}`"
        )


def _certificate(settings: Settings) -> Iterator[Finding]:
    files = TlsFiles.find(settings.tls)
    if files is None:
        text = "none configured: calls are not encrypted"
        advice = "set TAMATAR_TLS_CERTIFICATE_FILE and TAMATAR_TLS_KEY_FILE, or use a unix socket"
        if all(address.path for address in settings.listen):
            yield Finding("certificate", ok=True, text="none needed by unix sockets")
        else:
            yield _risk_in_production(settings, "certificate", text, advice)
        return
    try:
        end = files.read().leaf.not_valid_after_utc
    except OperatorError as error:
        yield Finding("certificate", ok=False, text=str(error))
        return
    ok = end - datetime.now(UTC) >= EXPIRY_WARNING
    advice = "" if ok else "; renew it, the server reloads it without a restart"
    yield Finding("certificate", ok, f"valid until {end:%Y-%m-%d %H:%M} UTC{advice}")


def _risk_in_production(settings: Settings, subject: str, text: str, advice: str) -> Finding:
    if settings.environment == "development":
        return Finding(subject, ok=True, text=text)
    return Finding(subject, ok=True, text=f"{text}; {advice}", is_warning=True)


def _ports(settings: Settings) -> Iterator[Finding]:
    health_listen = () if settings.health_listen is None else (settings.health_listen,)
    for address in (*settings.listen, *health_listen):
        if not address.is_taken:
            yield Finding("port", ok=True, text=f"{address} is free")
            continue
        status = check_health(address, timeout=2, tls=tls_files_at(settings, address))
        if status in ("SERVING", "NOT_SERVING"):
            text = f"{address} is answered by a server that is {status}"
        else:
            setting = LISTEN if address in settings.listen else HEALTH_LISTEN
            text = f"{status}, but another process uses it: stop that process, or set {setting}"
        yield Finding("port", status == "SERVING", text)
