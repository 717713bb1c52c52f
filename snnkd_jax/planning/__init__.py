"""Compiles training steps for accelerators that are not there."""
