"""Commands that run or inspect the service. They need the `server` extra."""
