"""On Layer Normalization in the Transformer Architecture (Xiong et al., 2020)."""
