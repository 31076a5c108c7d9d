"""Machine translation: subwords, encoded corpora, beam search, BLEU, and the tasks."""
