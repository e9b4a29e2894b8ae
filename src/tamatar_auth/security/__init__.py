"""Passwords, tokens and addresses."""
