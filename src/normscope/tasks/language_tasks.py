"""The language model task of Xu et al. (2019), enwik8, and two stand-ins that are small."""

from functools import partial

from normscope.data import load_bytes
from normscope.tasks.language_model import LanguageModel, StreamSize
from normscope.tasks.recipe import Recipe
from normscope.tasks.sentence_tasks import ENCODER_PLACEMENTS, SOURCE
from normscope.tasks.task import Published

SIZES = {
    "small": StreamSize(
        width=128,
        heads=4,
        feed_forward=512,
        layers=4,
        dropout=0.0,
        segment=64,
        memory=64,
        test_segment=64,
        test_memory=128,
    ),
    # The public code of Dai et al. (2019) for enwik8, which Xu et al. build on.
    "full": StreamSize(
        width=512,
        heads=8,
        feed_forward=2048,
        layers=12,
        dropout=0.1,
        segment=512,
        memory=512,
        test_segment=80,
        test_memory=2100,
    ),
}

PRESETS = {
    "small": Recipe(steps=2000, batch_size=1024, learning_rate=3e-3, clip=0.25, warmup=100),
    "full": Recipe(steps=20_000, batch_size=22 * 512, learning_rate=2.5e-4, clip=0.25),
}

ENWIK8 = LanguageModel(
    name="enwik8",
    description="the first 100 million bytes of English Wikipedia XML of 2006; Transformer-XL",
    datasets=("enwik8",),
    read=partial(load_bytes, "enwik8"),
    sizes=SIZES,
    presets={**PRESETS, "full": Recipe(steps=400_000, batch_size=22 * 512, learning_rate=2.5e-4, clip=0.25)},
    margin=0.01,
    regime="a Transformer-XL on enwik8, Adam with linear decay",
    placements=ENCODER_PLACEMENTS,
    published=(
        Published(
            source=f"{SOURCE}, Enwiki8",
            rows={
                "none": 1.04,
                "layer_norm": 1.07,
                "layer_norm_simple": 1.07,
                "detach_norm": 1.12,
                "ada_norm": 1.07,
            },
            note="no seeds and no spread printed; width, rate, batch, steps and AdaNorm's C not printed",
        ),
    ),
)

ENWIKI_SMALL = LanguageModel(
    name="enwiki_small",
    description="6.1 MB of English Wikipedia XML of 2016, a stand-in for enwik8; Transformer-XL",
    datasets=("enwiki-xml-small",),
    read=partial(load_bytes, "enwiki-xml-small"),
    sizes=SIZES,
    presets=PRESETS,
    margin=0.02,
    regime="a Transformer-XL on 5.5 MB of Wikipedia XML, Adam with linear decay",
    placements=ENCODER_PLACEMENTS,
)

TINY_SHAKESPEARE = LanguageModel(
    name="tiny_shakespeare",
    description="1.1 MB of Shakespeare, to try things out; Transformer-XL",
    datasets=("text-small",),
    read=partial(load_bytes, "text-small"),
    sizes=SIZES,
    presets=PRESETS,
    margin=0.02,
    regime="a Transformer-XL on 1.0 MB of Shakespeare, Adam with linear decay",
    placements=ENCODER_PLACEMENTS,
)
