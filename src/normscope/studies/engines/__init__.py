"""What computes the runs of a study."""
