"""Inference with trained networks, and their conversion."""
