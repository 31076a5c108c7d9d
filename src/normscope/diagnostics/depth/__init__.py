"""Signals and gradients by depth: layer stacks, their profile, and scaling with width."""
