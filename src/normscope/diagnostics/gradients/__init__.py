"""Gradients at the norms of a model: at one step, and through training."""
