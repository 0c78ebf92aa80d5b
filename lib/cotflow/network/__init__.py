"""Residual networks: activations, weights, scalings, initial laws, published experiments."""
