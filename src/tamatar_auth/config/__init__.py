"""Settings: their types, their sources, and the files that they name."""
