"""The published data sets by kind: files, hashes, sources and licences."""
