"""Neurons, surrogate gradients and encoders: pure functions on `[B, T, ...]`."""
