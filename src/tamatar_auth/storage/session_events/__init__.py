"""WatchSessions: the ends of sessions, read from a table and fanned out to subscribers."""
