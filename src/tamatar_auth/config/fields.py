"""Each setting: its form, its default, and what it does."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.durations import Duration, between
from tamatar_auth.config.sources import ENV_FILE, ENV_PREFIX
from tamatar_auth.config.types import (
    Address,
    Addresses,
    DatabaseUrl,
    OptionalAddress,
    OptionalFile,
    OptionalSecret,
    SigningKey,
    empty_as_none,
)

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


class SettingFields(BaseSettings):
    """Everything that can be set. Durations are `timedelta`s, secrets have no default."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        populate_by_name=True,
    )

    environment: Annotated[
        Literal["development", "production"],
        Field(description="What this process is part of; production wants its secrets."),
    ] = "development"
    database_url: Annotated[
        DatabaseUrl,
        Field(
            description="The PostgreSQL to use, several hosts allowed; DATABASE_URL is read too.",
            validation_alias=AliasChoices("TAMATAR_DATABASE_URL", "DATABASE_URL"),
        ),
    ] = None
    listener_database_url: Annotated[
        DatabaseUrl,
        Field(
            description="The same database without a pooler between, for the connection that hears"
            " of ended sessions; TAMATAR_DATABASE_URL unless set."
        ),
    ] = None
    listen: Annotated[
        Addresses,
        Field(
            description="Where calls are answered: host:port or unix:path, several with commas.",
        ),
    ] = (ListenAddress.parse("127.0.0.1:50051"),)
    health_listen: Annotated[
        OptionalAddress,
        Field(
            description="Where health is answered, and nothing else, to whoever asks and without"
            " TLS: host:port, for the probes of an orchestrator."
        ),
    ] = None
    workers: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="How many processes answer calls. Several share the ports, and each has"
            " its own pool of connections and its own metrics.",
        ),
    ] = 1
    callers_file: Annotated[
        OptionalFile,
        Field(
            description="Who may call (TOML; `tamatar-auth caller add` writes it). Without it"
            " whoever calls from this machine is an admin."
        ),
    ] = None
    tls_certificate_file: Annotated[
        OptionalFile,
        Field(description="The server's certificate and what leads to its CA (PEM)."),
    ] = None
    tls_key_file: Annotated[
        OptionalFile, Field(description="The key of the certificate (PEM, without a password).")
    ] = None
    tls_client_ca_file: Annotated[
        OptionalFile,
        Field(
            description="The CAs that sign callers' certificates (PEM); once set, each connection"
            " but those to unix sockets must show one."
        ),
    ] = None
    metrics_enabled: Annotated[
        bool,
        Field(
            description="Whether metrics are offered to Prometheus; METRICS_ENABLED is read too.",
            validation_alias=AliasChoices("TAMATAR_METRICS_ENABLED", "METRICS_ENABLED"),
        ),
    ] = False
    metrics_listen: Annotated[
        Address,
        Field(
            description="Where Prometheus finds them: host:port. Of several workers the second has"
            " the next port, and so on."
        ),
    ] = ListenAddress.parse("127.0.0.1:9464")
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        BeforeValidator(empty_as_none),
        Field(description="The least level to log; debug in development, info in production."),
    ] = None
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Field(description="How log lines look; auto is console on a terminal, json elsewhere."),
    ] = "auto"

    call_deadline: Annotated[
        Duration,
        between(timedelta(milliseconds=100), timedelta(minutes=10)),
        Field(description="How long a call may take whose caller has set no deadline."),
    ] = 5 * _SECOND
    password_call_deadline: Annotated[
        Duration,
        between(timedelta(milliseconds=100), timedelta(minutes=10)),
        Field(description="The same for a call that has a password hashed."),
    ] = 10 * _SECOND
    calls_in_flight: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="How many calls a process works on at once; more are refused. Health and"
            " reflection are always answered.",
        ),
    ] = 1000

    streams: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="How many streams of WatchSessions a process holds at once; more are"
            " refused.",
        ),
    ] = 1000
    streams_per_connection: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="How many of them one connection holds. A proxy carries those of all"
            " callers behind it.",
        ),
    ] = 100

    session_lifetime: Annotated[
        Duration,
        between(timedelta(minutes=1), 365 * _DAY),
        Field(description="How long a session lives."),
    ] = 7 * _DAY
    bcrypt_cost: Annotated[
        int,
        Field(ge=4, le=16, description="The cost of a password's hash; 10 at least in production."),
    ] = 12
    hash_threads: Annotated[
        Annotated[int, Field(ge=1, le=256)] | None,
        BeforeValidator(empty_as_none),
        Field(
            description="How many threads hash passwords; one less than there are cores, and one"
            " at least."
        ),
    ] = None
    hash_queue: Annotated[
        Annotated[int, Field(ge=0, le=10_000)] | None,
        BeforeValidator(empty_as_none),
        Field(
            description="How many calls may wait for one of these threads, beyond which they are"
            " refused at once; 16 a thread."
        ),
    ] = None
    session_idle_limit: Annotated[
        Duration,
        between(timedelta(0), 365 * _DAY),
        Field(description="How long a session may go unused; 0 is as long as it lives."),
    ] = timedelta(0)
    sessions_per_user: Annotated[
        int,
        Field(ge=1, le=10_000, description="How many live sessions a user has; the oldest goes."),
    ] = 100
    password_min_length: Annotated[
        int, Field(ge=8, le=64, description="The fewest characters of a new password.")
    ] = 12
    password_keys: Annotated[
        OptionalSecret,
        Field(
            description="Keys under which passwords are hashed: id:base64, with spaces between"
            " them, the newest last. Old ones stay until no hash names them."
        ),
    ] = None
    password_keys_file: Annotated[
        OptionalFile,
        Field(description="A file with such keys, a line each."),
    ] = None
    email_verification_lifetime: Annotated[
        Duration,
        between(timedelta(minutes=1), 30 * _DAY),
        Field(description="How long the secret that verifies an address is good."),
    ] = _DAY
    password_reset_lifetime: Annotated[
        Duration,
        between(timedelta(minutes=1), _DAY),
        Field(description="How long the secret that resets a password is good."),
    ] = timedelta(minutes=10)
    page_token_key: Annotated[
        SigningKey,
        Field(
            description="Signs page tokens: 32 characters or more, the same in every replica."
            " Random in development."
        ),
    ] = None
    seed_admin_password: Annotated[
        OptionalSecret, Field(description="The password that `seed` gives the administrator.")
    ] = None

    slow_query: Annotated[
        Duration,
        between(timedelta(milliseconds=1), timedelta(hours=1)),
        Field(description="A statement that takes longer is warned about."),
    ] = _SECOND
    pool_size: Annotated[
        int, Field(ge=1, le=500, description="How many connections a process holds at most.")
    ] = 10
    pool_wait: Annotated[
        Duration,
        between(timedelta(milliseconds=1), _SECOND),
        Field(description="How long a call waits for a connection, at most 1s."),
    ] = _SECOND
    pool_recycle: Annotated[
        Duration,
        between(_SECOND, _DAY),
        Field(description="The age at which a connection is replaced."),
    ] = timedelta(minutes=30)
    application_name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=63,
            pattern=r"^[\x20-\x7e]+$",
            description="How the service calls itself in pg_stat_activity.",
        ),
    ] = "tamatar-auth"
    connect_timeout: Annotated[
        Duration,
        between(2 * _SECOND, 60 * _SECOND),
        Field(description="How long connecting to PostgreSQL may take, in whole seconds."),
    ] = 2 * _SECOND
    tcp_user_timeout: Annotated[
        Duration,
        between(timedelta(milliseconds=100), 60 * _SECOND),
        Field(description="How long PostgreSQL may leave our packets unanswered."),
    ] = timedelta(milliseconds=1500)
    statement_timeout: Annotated[
        Duration,
        between(timedelta(milliseconds=10), timedelta(minutes=10)),
        Field(description="How long a statement may take."),
    ] = 5 * _SECOND
    lock_timeout: Annotated[
        Duration,
        between(timedelta(milliseconds=10), timedelta(minutes=10)),
        Field(description="How long a statement may wait for a lock."),
    ] = 2 * _SECOND
    idle_in_transaction_timeout: Annotated[
        Duration,
        between(timedelta(milliseconds=100), timedelta(minutes=10)),
        Field(description="How long a transaction may rest between statements."),
    ] = 10 * _SECOND

    health_interval: Annotated[
        Duration,
        between(timedelta(milliseconds=50), 2 * _SECOND),
        Field(description="How often the database is looked at for the health service."),
    ] = timedelta(milliseconds=500)
    drain_delay: Annotated[
        Duration,
        between(timedelta(0), timedelta(minutes=1)),
        Field(description="How long NOT_SERVING is said before the port closes."),
    ] = timedelta(milliseconds=200)
    shutdown_grace: Annotated[
        Duration,
        between(timedelta(0), timedelta(minutes=5)),
        Field(description="How long calls in flight may take to finish at the end."),
    ] = 10 * _SECOND

    sweep_interval: Annotated[
        Duration,
        between(timedelta(0), 7 * _DAY),
        Field(description="How often the server removes what is past its retention; 0 is never."),
    ] = timedelta(hours=1)
    sweep_batch_size: Annotated[
        int,
        Field(ge=1, le=100_000, description="How many rows a sweep removes in one transaction."),
    ] = 1000
    ended_session_retention: Annotated[
        Duration,
        between(timedelta(0), 3650 * _DAY),
        Field(description="How long a revoked session is kept."),
    ] = 30 * _DAY
    expired_session_retention: Annotated[
        Duration,
        between(timedelta(0), 3650 * _DAY),
        Field(description="How long an expired session is kept."),
    ] = timedelta(0)

    embedded_directory: Annotated[
        Path, Field(description="Where the embedded PostgreSQL of `serve --dev` keeps its data.")
    ] = Path(".tamatar/postgres")
