"""Measurements of trained networks: energy, noise, recordings."""
