"""The prefork supervisor of `serve --workers` and its worker processes."""
