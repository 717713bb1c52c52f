"""The facts of one run: its configuration, its directory, its result."""
