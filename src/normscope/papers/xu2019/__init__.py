"""Understanding and Improving Layer Normalization (Xu et al., 2019)."""
