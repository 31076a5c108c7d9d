"""What a norm is by what it computes, whoever wrote it."""
