"""Settings in groups, their types and sources, and the files that they name."""
