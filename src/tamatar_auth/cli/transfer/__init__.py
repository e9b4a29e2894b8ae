"""File formats, streams and reports of `import` and `export`."""
