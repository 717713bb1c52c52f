"""Devices, compiler options and processes."""
