"""Options that are addresses of servers."""

import typer

from tamatar_auth.config.addresses import ListenAddress


def parse_address(text: str) -> ListenAddress:
    """Return the address in a text."""
    try:
        return ListenAddress.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_addresses(text: str) -> tuple[ListenAddress, ...]:
    """Return the addresses in a text, which are separated by commas."""
    return tuple(parse_address(part) for part in text.split(","))
