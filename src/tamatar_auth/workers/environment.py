"""What workers are given: the ports that are kept for them, and the environment they start in."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from tamatar_auth.config.addresses import ListenAddress
from tamatar_auth.config.settings import Settings
from tamatar_auth.observability.telemetry import Wanted
from tamatar_auth.server.ports import HEALTH_LISTEN, reserved

Environment = Mapping[str, str]


@contextlib.contextmanager
def environments(
    settings: Settings,
) -> Iterator[tuple[Sequence[ListenAddress], Sequence[Environment]]]:
    """Keep the ports; yield where calls are answered, and the environment of each worker.

    Raises `StartError` if another process has one of the ports.
    """
    with contextlib.ExitStack() as kept:
        addresses = [kept.enter_context(reserved(address)) for address in settings.listen]
        metrics = [
            {
                "TAMATAR_METRICS_LISTEN": str(
                    kept.enter_context(reserved(address, "TAMATAR_METRICS_LISTEN"))
                )
            }
            for address in _metrics(settings)
        ]
        decided = _decided(settings, addresses)
        if settings.health_listen is not None:
            health = kept.enter_context(reserved(settings.health_listen, HEALTH_LISTEN))
            decided[HEALTH_LISTEN] = str(health)
        given = [decided | own for own in metrics or [{}] * settings.workers]
        yield addresses, [{**_inherited(but=own.keys()), **own} for own in given]


def _metrics(settings: Settings) -> Sequence[ListenAddress]:
    """Name where each worker offers its metrics; none where nobody asks for them."""
    wanted, first = Wanted.read(settings), settings.metrics_listen
    if "prometheus" not in wanted.metrics or first.path:
        return []
    numbers = range(settings.workers)
    return [first._replace(port=first.port and first.port + number) for number in numbers]


def _decided(settings: Settings, addresses: Sequence[ListenAddress]) -> dict[str, str]:
    """Write down what a worker cannot read where this process read its settings."""
    decided = {
        "TAMATAR_WORKERS": str(settings.workers),
        "TAMATAR_LISTEN": ",".join(map(str, addresses)),
    }
    if settings.page_token_key is None:  # the next page may be asked of another worker
        decided["TAMATAR_PAGE_TOKEN_KEY"] = secrets.token_urlsafe(32)
    url = settings.database_url
    if url is not None and url != Settings.load().database_url:  # the embedded one
        decided["TAMATAR_DATABASE_URL"] = url.get_secret_value()
    return decided


def _inherited(*, but: AbstractSet[str]) -> Environment:
    return {name: value for name, value in os.environ.items() if name.upper() not in but}
