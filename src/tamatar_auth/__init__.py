"""Users and sessions for services that speak gRPC."""

__version__ = "0.1.0"
