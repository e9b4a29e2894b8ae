"""The client for asyncio; errors and reasons are those of `tamatar_auth.client`."""

from tamatar_auth.client.aio.connecting import AuthClient, connect

__all__ = ["AuthClient", "connect"]
