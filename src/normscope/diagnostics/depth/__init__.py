"""Activations and gradients by depth: stacks of layers, their profile, and how it scales with depth or width."""
