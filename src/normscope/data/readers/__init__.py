"""Readers of the original file formats, one file per kind of data."""
