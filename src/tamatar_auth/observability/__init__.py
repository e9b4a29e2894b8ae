"""Logs, spans and metrics, and the redaction that keeps secrets out of them."""
