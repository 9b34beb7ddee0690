"""Learned optimizers, and how to use a trained one as an optax transformation."""
