"""The client for asyncio. Everything else is in `tamatar_auth.client`."""

from tamatar_auth.client.aio.connect import AuthClient, connect
from tamatar_auth.client.aio.guard import SessionGuard

__all__ = ["AuthClient", "SessionGuard", "connect"]
