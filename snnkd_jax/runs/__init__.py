"""One run: its configuration, directory and result."""
