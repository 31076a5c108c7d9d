"""Convert a Pre-LN model from LayerNorm to RMSNorm exactly, with a proof in numbers."""
