"""The ports that are reserved for workers, and the environment variables of each worker."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.observability.telemetry import ExporterConfig
from tamatar_auth.server.ports import HEALTH_LISTEN, LISTEN, reserve_address

METRICS_LISTEN = "TAMATAR_METRICS_LISTEN"

Environment = Mapping[str, str]


@contextlib.contextmanager
def environments(
    settings: Settings,
) -> Iterator[tuple[Sequence[ListenAddress], Sequence[Environment]]]:
    """Reserve the ports; yield the addresses of calls and the environment of each worker.

    Raises `StartError` if another process has one of the ports.
    """
    with contextlib.ExitStack() as reservations:

        def reserve(address: ListenAddress, setting: str) -> ListenAddress:
            return reservations.enter_context(reserve_address(address, setting))

        addresses = [reserve(address, LISTEN) for address in settings.listen]
        shared = _shared_variables(settings, addresses)
        if settings.health_listen is not None:
            shared[HEALTH_LISTEN] = str(reserve(settings.health_listen, HEALTH_LISTEN))
        with_metrics = [
            shared | {METRICS_LISTEN: str(reserve(address, METRICS_LISTEN))}
            for address in _metrics_addresses(settings)
        ]
        variables = with_metrics or [shared] * settings.workers
        yield (
            addresses,
            [
                {name: value for name, value in os.environ.items() if name.upper() not in own} | own
                for own in variables
            ],
        )


def _metrics_addresses(settings: Settings) -> Sequence[ListenAddress]:
    """Return the metrics address of each worker, or none if metrics are not scraped."""
    base = settings.telemetry.metrics_listen
    if "prometheus" not in ExporterConfig.read(settings.telemetry).metrics or base.path:
        return []
    numbers = range(settings.workers)
    return [base._replace(port=base.port and base.port + number) for number in numbers]


def _shared_variables(settings: Settings, addresses: Sequence[ListenAddress]) -> dict[str, str]:
    """Return the settings that a worker cannot read from the sources of this process."""
    shared = {
        "TAMATAR_WORKERS": str(settings.workers),
        "TAMATAR_LISTEN": ",".join(map(str, addresses)),
    }
    if settings.page_token_key is None:  # another worker may answer the next page
        shared["TAMATAR_PAGE_TOKEN_KEY"] = secrets.token_urlsafe(32)
    url = settings.database.url
    if url is not None and url != Settings.load().database.url:  # the embedded PostgreSQL
        shared["TAMATAR_DATABASE_URL"] = url.get_secret_value()
    return shared
