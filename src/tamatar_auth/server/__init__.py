"""The composition root, and the life of a server process: build, start, run, shut down."""
