"""The dependency parsing task of Xu et al. (2019), the Penn Treebank, and a free stand-in."""

import dataclasses

from normscope.data import load_ewt, load_ptb
from normscope.tasks.parsing import ParserSize, Parsing
from normscope.tasks.recipe import Recipe
from normscope.tasks.task import Published

SIZES = {
    "small": ParserSize(width=32, hidden=200, dropout=0.0),
    "full": ParserSize(width=50, hidden=200, dropout=0.2),
}

PRESETS = {
    "small": Recipe(steps=2500, batch_size=250, learning_rate=2e-3),
    "full": Recipe(steps=20_000, batch_size=500, learning_rate=2e-3),
}

UD_EWT = Parsing(
    name="ud_ewt",
    description="dependency parsing of UD English EWT, a stand-in for the Penn Treebank; three-layer perceptron",
    datasets=("ud-english-ewt",),
    read=load_ewt,
    sizes=SIZES,
    presets=PRESETS,
    margin=0.3,
    regime="a greedy arc-standard parser on UD English EWT with gold tags, Adam with linear decay",
)

PTB = Parsing(
    name="ptb",
    description="dependency parsing of the Penn Treebank (bring your own CoNLL files); three-layer perceptron",
    datasets=("ptb",),
    read=load_ptb,
    sizes=SIZES,
    presets=PRESETS,
    margin=0.3,
    regime="a greedy arc-standard parser on the Penn Treebank with the file's tags, Adam with linear decay",
    published=(
        Published(
            source="Xu et al. (2019), Tables 1 to 3, PTB",
            rows={
                "none": 88.31,
                "layer_norm": 89.12,
                "layer_norm_simple": 89.19,
                "detach_norm": 89.79,
                "ada_norm": 89.23,
            },
            note="taken to be UAS; no seeds and no spread printed; sections, features, sizes and C not printed",
        ),
    ),
)

UD_EWT_LAS = dataclasses.replace(
    UD_EWT, name="ud_ewt_las", description=f"{UD_EWT.description}; labels, too", labelled=True
)

PTB_LAS = dataclasses.replace(
    PTB, name="ptb_las", description=f"{PTB.description}; labels, too", labelled=True, published=()
)
