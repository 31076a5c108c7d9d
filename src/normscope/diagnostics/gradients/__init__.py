"""Gradients at the norms of a model, in one training step and throughout training."""
