"""One training step, one loop, and what survives a crash."""
