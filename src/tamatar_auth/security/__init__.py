"""Callers, authorization, tokens, identifiers, audit, TLS and passwords."""
