"""Machine translation: corpora, subwords, beam search, BLEU, and the tasks."""
