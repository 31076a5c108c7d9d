"""A BERT of Hugging Face's, from its configuration, on film reviews: `normscope compare examples/sentences.py:make`.

It shows how norms are put into a model that nobody wrote for it: `normscope.swap`.
"""

import os

import torch
import torch.nn.functional as F
from transformers import BertConfig, BertForSequenceClassification

import normscope
from normscope import Metric, Recipe, Trial
from normscope.data import load_rt

STEPS = int(os.environ.get("EXAMPLE_STEPS", "300"))
LENGTH, BATCH = 32, 32


def make(norm, placement, seed):
    """RT polarity by a BERT of two layers and width 64, trained from its first weights."""
    reviews = load_rt()
    words = sorted({word for sentence in reviews.train.sentences for word in sentence.split(" ")})
    number = {word: index for index, word in enumerate(words, start=2)}

    def encode(part):
        rows = torch.zeros(len(part), LENGTH, dtype=torch.int64)
        for row, sentence in zip(rows, part.sentences, strict=True):
            ids = [number.get(word, 1) for word in sentence.split(" ")[:LENGTH]]
            row[: len(ids)] = torch.tensor(ids)
        return rows, torch.from_numpy(part.labels)

    config = BertConfig(
        vocab_size=len(number) + 2,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=LENGTH,
        num_labels=2,
    )
    model = BertForSequenceClassification(config)
    normscope.swap(model, "layer_norm", norm)
    parts = {"valid": encode(reviews.valid), "test": encode(reviews.test)}
    x, y = encode(reviews.train)

    def logits(model, tokens):
        return model(input_ids=tokens, attention_mask=(tokens != 0).long()).logits

    def evaluate(model, part):
        tokens, labels = parts[part]
        return 100.0 * torch.cat(
            [
                logits(model, rows).argmax(-1) == right
                for rows, right in zip(tokens.split(256), labels.split(256), strict=True)
            ]
        )

    return Trial(
        model=model,
        loss=lambda model, batch: F.cross_entropy(logits(model, batch[0]), batch[1]),
        batches=list(zip(x.split(BATCH), y.split(BATCH), strict=True)),
        evaluate=evaluate,
        metric=Metric(name="test accuracy", unit="%", higher_is_better=True),
        margin=1.0,
        recipe=Recipe(steps=STEPS, batch_size=BATCH, learning_rate=1e-3, warmup=min(50, STEPS // 10), clip=1.0),
        regime="a BERT of two layers and width 64 from scratch on 8,530 sentences of RT, Adam",
    )
