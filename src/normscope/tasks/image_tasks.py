"""The image tasks: digits of 8 x 8 pixels, and MNIST as Ba et al. (2016) and Xu et al. (2019) use it."""

import dataclasses

from normscope import data
from normscope.tasks.image_classification import ImageClassification, convnet, plain_mlp, residual_mlp
from normscope.tasks.task import Published

DIGITS = ImageClassification(
    name="digits",
    description="8 x 8 handwritten digits (UCI, in scikit-learn), residual MLP of four blocks; nothing to download",
    datasets=("digits",),
    read=data.load_digits,
    shape=(64,),
    build=residual_mlp(inputs=64, width=64, depth=4, classes=10),
    placements=("pre", "post", "output", "peri"),
    steps=1000,
    full_steps=4000,
    batch_size=32,
    learning_rate=2e-3,
    accuracy=False,
    margin=0.5,
    revision=2,
    regime="a four-block residual MLP of width 64 on 1,029 images of 8 x 8, Adam with linear decay",
)

MNIST_MLP = ImageClassification(
    name="mnist_mlp",
    description="permutation-invariant MNIST, 784-1000-1000-10, batch 128 (Ba et al. 2016, 6.6)",
    datasets=("mnist",),
    read=data.load_mnist,
    shape=(784,),
    build=plain_mlp(784, 1000, 1000, 10),
    placements=("preactivation",),
    steps=2150,
    full_steps=8600,
    batch_size=128,
    learning_rate=1e-3,
    accuracy=False,
    margin=0.1,
    regime="a two-hidden-layer MLP of width 1000 on MNIST, Adam with linear decay, no regularization",
    published=(
        Published(
            source="Ba, Kiros, Hinton (2016), Figure 6, batch 128",
            rows={"none": 1.5, "layer_norm": 1.3, "batch_norm": 1.35},
            note="read off a plot, about +-0.1; 65 epochs, rate and seeds not printed; batch norm on the logits, too",
        ),
    ),
)

MNIST_MLP_BATCH4 = dataclasses.replace(
    MNIST_MLP,
    name="mnist_mlp_batch4",
    description="the same at batch 4, where batch statistics are poor (Ba et al. 2016, 6.6)",
    steps=13_750,
    full_steps=137_500,
    batch_size=4,
    learning_rate=2e-4,
    margin=0.2,
    published=(
        Published(
            source="Ba, Kiros, Hinton (2016), Figure 6, batch 4",
            rows={"none": 1.55, "layer_norm": 1.45, "batch_norm(unbiased=True)": 2.0},
            note="read off a plot, about +-0.1; batch norm 'at or above' its figure",
        ),
    ),
)

MNIST_CNN = ImageClassification(
    name="mnist_cnn",
    description="MNIST, three convolutions of 16, 32 and 64 channels (Xu et al. 2019 name a 3-layer CNN)",
    datasets=("mnist",),
    read=data.load_mnist,
    shape=(1, 28, 28),
    build=convnet(1, 16, 32, 64, size=28, classes=10),
    placements=("preactivation",),
    steps=1720,
    full_steps=4300,
    batch_size=128,
    learning_rate=2e-3,
    accuracy=True,
    margin=0.1,
    regime="a three-convolution network (16, 32, 64 channels) on MNIST, Adam with linear decay",
    published=(
        Published(
            source="Xu et al. (2019), Tables 1 to 3, MNIST",
            rows={
                "none": 99.14,
                "layer_norm": 99.13,
                "layer_norm_simple": 99.09,
                "detach_norm": 99.10,
                "ada_norm": 99.35,
            },
            note="no seeds and no spread printed; channels, optimizer, epochs and AdaNorm's C not printed",
        ),
    ),
)
