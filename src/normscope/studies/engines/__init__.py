"""Engines, which compute the runs of a study."""
