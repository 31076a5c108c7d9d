"""What skip-thoughts are trained on, and what their vectors are tested on."""
