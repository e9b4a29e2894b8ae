"""WatchSessions: PostgreSQL notifications about ended sessions, fanned out to subscribers."""
