"""Skip-thoughts: vectors of sentences, trained on the sentences beside them and tested by linear classifiers."""
