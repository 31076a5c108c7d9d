"""Transition-based dependency parsing: the transition system, its features, and the tasks."""
