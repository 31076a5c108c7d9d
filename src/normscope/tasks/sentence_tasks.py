"""The sentence classification tasks of Xu et al. (2019): RT polarity and SST-5."""

from normscope.data import load_rt, load_sst
from normscope.tasks.recipe import Recipe
from normscope.tasks.sentence_classification import EncoderSize, SentenceClassification
from normscope.tasks.task import Published

ENCODER_PLACEMENTS = (
    "pre",
    "post",
    "output",
    "peri",
    "deepnorm",
    "rezero",
    "layernorm_scaling",
    "recursive_skip",
    "hybrid",
    "mix",
    "residual_dual",
    "none",
)
"""What every transformer takes. The code that Xu et al. released is Pre-LN, so that is the default."""

SOURCE = "Xu et al. (2019), Tables 1 to 3"
NOTE = "no seeds and no spread printed; width, dropout, optimizer, split and AdaNorm's C not printed"

SIZES = {
    "small": EncoderSize(width=64, heads=4, feed_forward=128, dropout=0.3),
    "full": EncoderSize(width=256, heads=4, feed_forward=1024, dropout=0.3),
}

RT = SentenceClassification(
    name="rt",
    description="10,662 film review sentences, positive or negative (Pang and Lee 2005); encoder of four layers",
    datasets=("rt-polarity",),
    read=load_rt,
    classes=2,
    sizes=SIZES,
    presets={
        "small": Recipe(steps=800, batch_size=1024, learning_rate=1e-3, clip=1.0),
        "full": Recipe(steps=3000, batch_size=4096, learning_rate=3e-4, clip=1.0, warmup=300),
    },
    margin=1.0,
    regime="a four-layer transformer encoder from scratch on 8,530 sentences of RT, Adam with linear decay",
    placements=ENCODER_PLACEMENTS,
    published=(
        Published(
            source=f"{SOURCE}, RT",
            rows={
                "none": 76.85,
                "layer_norm": 77.21,
                "layer_norm_simple": 76.66,
                "detach_norm": 76.40,
                "ada_norm": 77.50,
            },
            note=NOTE,
        ),
    ),
)

SST5 = SentenceClassification(
    name="sst5",
    description="11,855 film review sentences in five classes (Socher et al. 2013); encoder of four layers",
    datasets=("sst",),
    read=load_sst,
    classes=5,
    sizes=SIZES,
    presets={
        "small": Recipe(steps=700, batch_size=1024, learning_rate=1e-3, clip=1.0),
        "full": Recipe(steps=3000, batch_size=4096, learning_rate=3e-4, clip=1.0, warmup=300),
    },
    margin=1.0,
    regime="a four-layer transformer encoder from scratch on 8,544 sentences of SST-5, Adam with linear decay",
    placements=ENCODER_PLACEMENTS,
    published=(
        Published(
            source=f"{SOURCE}, SST5",
            rows={
                "none": 38.55,
                "layer_norm": 39.23,
                "layer_norm_simple": 40.54,
                "detach_norm": 40.04,
                "ada_norm": 40.54,
            },
            note=NOTE,
        ),
    ),
)
