"""File formats, progress and reports of `import` and `export`."""
