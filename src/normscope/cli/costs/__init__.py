"""The costs of norms and of recurrent layers, measured on this machine."""
