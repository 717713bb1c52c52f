"""Measurements on trained networks: energy, robustness to noise, spikes and membrane potentials."""
