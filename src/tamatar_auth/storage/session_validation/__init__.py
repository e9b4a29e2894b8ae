"""ValidateSession: concurrent lookups share one prepared statement."""
