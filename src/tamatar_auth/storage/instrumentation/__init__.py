"""Spans, metrics and summaries of SQL statements and connection pools."""
