"""The gRPC services, and what their methods share."""
