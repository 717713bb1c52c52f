"""Train spiking neural networks by knowledge distillation from ordinary networks, in JAX."""
