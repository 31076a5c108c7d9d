"""Which small transformers need a warm-up, and whether their first update tells: ``./run bench warmup``.

Every configuration is trained with and without a linear warm-up on the characters of tinyshakespeare, from the same
first weights and on the same batches, and the first update is measured at initialization. All that decides the verdict
stands in this file and was committed before the runs. About twenty minutes of one core; what ended is not run again.
"""

import argparse
import itertools
import math
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from normscope.data import load_bytes
from normscope.diagnostics.rules import Measured, lacks_warm_up
from normscope.diagnostics.warmup import warmup_features
from normscope.files import write_atomically
from normscope.models.attention import Attention, Context
from normscope.models.layers import Embedding, FeedForward, Linear, sinusoids
from normscope.norms import NORMS
from normscope.placement import PLACEMENTS
from normscope.results.store import SCHEMA, read_json, write_json
from normscope.training.outcome import device_name, versions

HEADS, HELD_OUT, LOOKS = 4, 256, 32
"""Heads of every attention; windows that are held out; windows looked at together."""

MARGIN = 0.1
"""Nats a character: a configuration needs warm-up where the mean over seeds of the held-out loss is worse by more."""

FEATURES = ("output_change", "common_after", "update_ratio", "decrease_ratio", "gradient_slope", "output_change_slope")
"""What the predictor chooses from, in every fold anew: one of these, a threshold, a direction, and whether it asks for
norms on the stream first. Of rules that are equally good on the other configurations, the first in this order."""

ARMS = ("with_warmup", "without")
"""How every model is trained."""

SIGNIFICANT = 0.05
"""The predictor beats a rule where a one-sided sign test over the configurations they disagree on stays below."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One model and its rate."""

    placement: str
    layers: int
    width: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long is trained, on how much."""

    steps: int = 240
    warmup: int = 80
    window: int = 48
    batch: int = 8
    seeds: int = 2


CONFIGURATIONS = [
    Configuration(placement=placement, layers=layers, width=width, learning_rate=rate)
    for placement, layers, width, rate in itertools.product(
        ("post", "pre", "deepnorm"), (4, 8), (32, 64), (1e-3, 3e-3, 1e-2)
    )
]


class Characters(nn.Module):
    """A causal transformer over characters, its norms where the placement wants them."""

    def __init__(self, configuration: Configuration, vocabulary: int, window: int) -> None:
        super().__init__()
        width = configuration.width
        branches: list[tuple[str, nn.Module]] = []
        for _ in range(configuration.layers):
            branches += [("attention", Attention(width, HEADS)), ("feed_forward", FeedForward(width, 4 * width))]
        self.embedding = Embedding(vocabulary, width)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(torch.arange(window), width), persistent=False)
        self.stack = PLACEMENTS[configuration.placement].stack(branches, width, NORMS["layer_norm"])
        self.head = Linear(width, vocabulary)

    def forward(self, characters: Tensor) -> Tensor:
        """Map ``[B, T]`` int64 to logits ``[B, T, V]``."""
        x = self.embedding(characters, self.positions[: characters.shape[1]])
        return self.head(self.stack(x, Context(causal=True)))


@dataclass(frozen=True, kw_only=True)
class Text:
    """Running text as numbers of characters."""

    train: Tensor
    """``[N]`` int64."""
    held_out: Tensor
    """``[HELD_OUT, window + 1]`` int64."""
    vocabulary: int


def read_text(window: int) -> Text:
    """Read tinyshakespeare; the windows held out are drawn once, from the part that validates."""
    splits = load_bytes("text-small")
    letters = np.unique(np.concatenate([splits.train, splits.valid]))
    numbers = {part: torch.from_numpy(np.searchsorted(letters, getattr(splits, part))) for part in ("train", "valid")}
    generator = torch.Generator().manual_seed(0)
    held_out = windows(numbers["valid"], HELD_OUT, window, generator)
    return Text(train=numbers["train"], held_out=held_out, vocabulary=len(letters))


def windows(text: Tensor, rows: int, window: int, generator: torch.Generator) -> Tensor:
    """Draw windows and the character after each of their characters: ``[rows, window + 1]``."""
    begins = torch.randint(len(text) - window, (rows, 1), generator=generator)
    return text[begins + torch.arange(window + 1)]


def next_character(model: nn.Module, rows: Tensor) -> Tensor:
    """Give the mean cross-entropy in nats."""
    return functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def frequencies(text: Text) -> float:
    """Give the loss of the held-out windows where nothing but the frequencies of the characters is known."""
    counts = torch.bincount(text.train, minlength=text.vocabulary).double() + 1
    return float(-(counts / counts.sum()).log()[text.held_out[:, 1:]].mean())


def start(configuration: Configuration, text: Text, seed: int, size: Size) -> tuple[Characters, torch.Generator]:
    """Make the model, and what draws its batches: both are the same with and without warm-up."""
    torch.manual_seed(seed)
    return Characters(configuration, text.vocabulary, size.window), torch.Generator().manual_seed(1000 + seed)


def measure(configuration: Configuration, text: Text, seed: int, size: Size) -> dict[str, float | None]:
    """Measure the first update without warm-up on the first batch; a number that cannot be told is None."""
    model, generator = start(configuration, text, seed, size)
    batch = windows(text.train, size.batch, size.window, generator)
    told = warmup_features(model, batch, next_character, configuration.learning_rate)
    return {name: value if math.isfinite(value) else None for name, value in told.items()}


def train(configuration: Configuration, text: Text, seed: int, warmup: int, size: Size) -> float | None:
    """Train with Adam, constant rate after the warm-up; give the held-out loss, None where it is not finite."""
    model, generator = start(configuration, text, seed, size)
    optimizer = torch.optim.Adam(model.parameters(), lr=configuration.learning_rate, fused=True)
    for step in range(size.steps):
        optimizer.param_groups[0]["lr"] = configuration.learning_rate * min((step + 1) / max(warmup, 1), 1.0)
        loss = next_character(model, windows(text.train, size.batch, size.window, generator))
        if not math.isfinite(float(loss.detach())):
            return None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses = [float(next_character(model, rows)) for rows in text.held_out.split(LOOKS)]
    found = statistics.fmean(losses)
    return found if math.isfinite(found) else None


def key(configuration: Mapping[str, Any], seed: int) -> tuple[Any, ...]:
    """Name a run."""
    return *(configuration[name] for name in ("placement", "layers", "width", "learning_rate")), seed


def compute(path: Path, configurations: Sequence[Configuration], size: Size, say: Callable[[str], None]) -> None:
    """Measure and train what the file does not have yet; it is written whole after every seed of a configuration.

    Raises:
        ValueError: If the file is of another size.
    """
    text = read_text(size.window)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "size": asdict(size),
        "frequencies": frequencies(text),
        "machine": device_name(torch.device("cpu")),
        "torch": versions()["torch"],
        "runs": [],
    }
    if path.exists():
        content = read_json(path)
        if content["size"] != asdict(size):
            raise ValueError(f"{path} was measured with {content['size']}, wanted {asdict(size)}: take another folder")
    ended = {key(run, run["seed"]) for run in content["runs"]}
    for seed, configuration in itertools.product(range(size.seeds), configurations):
        if key(asdict(configuration), seed) in ended:
            continue
        begin = time.process_time()
        features = measure(configuration, text, seed, size)
        with_warmup = train(configuration, text, seed, size.warmup, size)
        without = train(configuration, text, seed, 0, size)
        run = {**asdict(configuration), "seed": seed, "with_warmup": with_warmup, "without": without}
        run |= {"seconds": round(time.process_time() - begin, 1), "features": features}
        content["runs"].append(run)
        write_json(path, content)
        say(f"{key(run, seed)}: {with_warmup} with warm-up, {without} without")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A configuration, over its seeds."""

    configuration: Configuration
    with_warmup: float
    """Mean held-out loss; infinite where a seed diverged."""
    without: float
    features: Mapping[str, float]
    """Means; NaN where a seed has no such number."""

    @property
    def needed(self) -> bool:
        """TrainCallback whether warm-up makes it better by more than the margin; two that diverged are no better."""
        return self.without - self.with_warmup > MARGIN


def rows_of(content: Mapping[str, Any]) -> list[Row]:
    """Take the means over seeds, in the order of the first runs."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in content["runs"]:
        groups.setdefault(key(run, 0), []).append(run)
    rows = []
    for runs in groups.values():
        names = Configuration.__dataclass_fields__
        losses = {name: [math.inf if run[name] is None else run[name] for run in runs] for name in ARMS}
        features = {
            name: statistics.fmean(math.nan if run["features"][name] is None else run["features"][name] for run in runs)
            for name in runs[0]["features"]
        }
        configuration = Configuration(**{name: runs[0][name] for name in names})
        means = {name: statistics.fmean(values) for name, values in losses.items()}
        rows.append(Row(configuration=configuration, features=features, **means))
    return rows


Rule = Callable[[Row], bool]
Fit = Callable[[Sequence[Row]], Rule]
"""From configurations whose need is known to a rule for others."""


@dataclass(frozen=True, kw_only=True)
class Stump:
    """A threshold on one feature."""

    feature: str
    threshold: float
    above: bool
    """Whether it is needed from the threshold on, or below it."""
    post: bool
    """Whether norms must stand on the stream, too."""

    def __call__(self, row: Row) -> bool:
        """TrainCallback whether warm-up is needed."""
        return (not self.post or on_stream(row)) and (row.features[self.feature] >= self.threshold) == self.above

    def words(self) -> str:
        """Write the rule down."""
        gate = " where norms stand on the stream" if self.post else ""
        if math.isinf(self.threshold):
            return f"always needed{gate}" if (self.threshold < 0) == self.above else "never needed"
        return f"`{self.feature}` {'at least' if self.above else 'below'} {self.threshold:.3g}{gate}"


def on_stream(row: Row) -> bool:
    """TrainCallback whether norms stand on the residual stream in most layers."""
    return row.features["post"] > 0.5


def stump(*features: str, posts: Sequence[bool] = (False,)) -> Callable[[Sequence[Row]], Stump]:
    """Give the fit of a threshold: of rules equally often right, the first in the order of the loops."""

    def fit(rows: Sequence[Row]) -> Stump:
        rules = []
        for post, feature, above in itertools.product(posts, features, (True, False)):
            values = sorted({row.features[feature] for row in rows if not math.isnan(row.features[feature])})
            middles = [(low + high) / 2 for low, high in itertools.pairwise(values)]
            for threshold in (math.inf, -math.inf, *middles):
                rules.append(Stump(feature=feature, threshold=threshold, above=above, post=post))
        return max(rules, key=lambda rule: sum(rule(row) == row.needed for row in rows))

    return fit


def majority(rows: Sequence[Row]) -> Rule:
    """Say for all what is so for most; a tie counts as not needed."""
    needed = 2 * sum(row.needed for row in rows) > len(rows)
    return lambda row: needed


def of_placement(rows: Sequence[Row]) -> Rule:
    """Say what is so for most of the same placement."""
    rules = {
        placement: majority([row for row in rows if row.configuration.placement == placement])
        for placement in {row.configuration.placement for row in rows}
    }
    return lambda row: rules[row.configuration.placement](row)


PREDICTOR = stump(*FEATURES, posts=(False, True))
TRIVIAL: dict[str, Fit] = {
    "most of the others": majority,
    "Post-LN needs it, others do not": lambda rows: lambda row: row.configuration.placement == "post",
    "most of the same placement": of_placement,
    "the learning rate alone, its threshold fitted": stump("learning_rate"),
}
"""What anybody can say without measuring; the last two are more than was asked for."""


def both(rows: Sequence[Row]) -> Rule:
    """Fit the two thresholds of the named cause."""
    cuts = {
        name: (*sorted({row.features[name] for row in rows}), math.inf) for name in ("output_change", "common_after")
    }

    def rule(change: float, common: float) -> Rule:
        return lambda row: (
            on_stream(row) and row.features["output_change"] >= change and row.features["common_after"] >= common
        )

    rules = itertools.starmap(rule, itertools.product(*cuts.values()))
    return max(rules, key=lambda each: sum(each(row) == row.needed for row in rows))


OTHERS: dict[str, Fit] = {
    **{f"a threshold on `{name}`, norms on the stream or not": stump(name, posts=(False, True)) for name in FEATURES},
    "the named cause, both thresholds fitted": both,
}
"""Told beside it; they decide nothing."""


def left_out(rows: Sequence[Row], fit: Fit) -> list[bool]:
    """Predict every configuration by the rule that the others give."""
    return [fit([other for other in rows if other is not row])(row) for row in rows]


def right(rows: Sequence[Row], told: Sequence[bool]) -> int:
    """Count the configurations that are told rightly."""
    return sum(row.needed == each for row, each in zip(rows, told, strict=True))


def sign_test(rows: Sequence[Row], told: Sequence[bool], other: Sequence[bool]) -> tuple[int, int, float]:
    """Count where only the first is right and where only the second, and how likely that is for equals or worse."""
    wins = sum(a != b and a == row.needed for row, a, b in zip(rows, told, other, strict=True))
    apart = sum(a != b for a, b in zip(told, other, strict=True))
    chance = sum(math.comb(apart, count) for count in range(wins, apart + 1)) / 2**apart
    return wins, apart - wins, chance


def named(row: Row) -> bool:
    """TrainCallback whether the diagnosis names the missing warm-up, at the mean numbers of the configuration."""
    return lacks_warm_up(Measured(gradients=(), stacks=(), doubles=(), ranges=(), first_update=row.features, warmup=0))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the table says."""

    rows: Sequence[Row]
    told: Sequence[bool]
    """The predictor's word on every configuration that it was not fitted to."""
    trivial: Mapping[str, Sequence[bool]]
    others: Mapping[str, Sequence[bool]]
    named: Sequence[bool]

    @property
    def best(self) -> str:
        """Name the trivial rule that is most often right."""
        return max(self.trivial, key=lambda name: right(self.rows, self.trivial[name]))

    @property
    def beats(self) -> bool:
        """TrainCallback whether the predictor is better than the best trivial rule by more than chance."""
        return sign_test(self.rows, self.told, self.trivial[self.best])[2] < SIGNIFICANT


def outcome_of(content: Mapping[str, Any]) -> Outcome:
    """Predict every configuration of the committed runs from the others."""
    rows = rows_of(content)
    return Outcome(
        rows=rows,
        told=left_out(rows, PREDICTOR),
        trivial={name: left_out(rows, fit) for name, fit in TRIVIAL.items()},
        others={name: left_out(rows, fit) for name, fit in OTHERS.items()},
        named=[named(row) for row in rows],
    )


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    return "".join(f"| {' | '.join(line)} |\n" for line in [heads, ["---"] * len(heads), *lines])


def share(rows: Sequence[Row], told: Sequence[bool]) -> str:
    """Write how many are right."""
    return f"{right(rows, told)} of {len(rows)} ({right(rows, told) / len(rows):.0%})"


def line_of(row: Row, told: bool, cause: bool) -> list[str]:
    """Write a configuration's line of the table."""
    which = row.configuration
    losses = [f"{loss:.3f}" if math.isfinite(loss) else "diverged" for loss in (row.with_warmup, row.without)]
    names = [which.placement, str(which.layers), str(which.width), f"{which.learning_rate:g}"]
    features = [f"{row.features[name]:.3g}" for name in FEATURES]
    words = ["needed" if row.needed else "no", "needed" if told else "no", "yes" if cause else "no"]
    return [*names, *features, *losses, *words]


def accuracies(found: Outcome, stuck: Sequence[Row]) -> str:
    """Write who is right how often, on all configurations and on those that learn with warm-up, fitted to those."""
    learn = [row for row in found.rows if row not in stuck]
    fits = {**TRIVIAL, PREDICTED: PREDICTOR, **OTHERS, "the named cause as it stands": lambda rows: named}
    told = {**found.trivial, PREDICTED: found.told, **found.others, "the named cause as it stands": found.named}
    lines = [[name, share(found.rows, told[name]), share(learn, left_out(learn, fit))] for name, fit in fits.items()]
    return table(["rule", "right, left out", "of those that learn with warm-up"], lines)


def by_placement(rows: Sequence[Row]) -> str:
    """Count who needs it."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        found.setdefault(row.configuration.placement, []).append(row.needed)
    return ", ".join(f"{sum(needed)} of {len(needed)} {placement}" for placement, needed in found.items())


def stuck_of(content: Mapping[str, Any], rows: Sequence[Row]) -> list[Row]:
    """Give the configurations that do not learn with warm-up either."""
    return [row for row in rows if not row.with_warmup < content["frequencies"] - MARGIN]


def page(content: Mapping[str, Any]) -> str:
    """Write the README from the runs alone."""
    size, found = Size(**content["size"]), outcome_of(content)
    rows, stuck = found.rows, stuck_of(content, found.rows)
    needed = sum(row.needed for row in rows)
    alarms = [row for row, cause in zip(rows, found.named, strict=True) if cause and not row.needed]
    hits = sum(found.named) - len(alarms)
    dead = sum(row in stuck for row in alarms)
    false = [row for row, told in zip(rows, found.told, strict=True) if told and not row.needed]
    wins, losses, chance = sign_test(rows, found.told, found.trivial[found.best])
    rule = PREDICTOR(rows)
    verdict = BEATS if found.beats else BEATS_NOT
    minutes = sum(run["seconds"] for run in content["runs"]) / 60
    heads = ["placement", "layers", "width", "rate", *(f"`{name}`" for name in FEATURES)]
    heads += ["loss with", "without", "warm-up", "left out", "named"]
    lines = [line_of(*each) for each in zip(rows, found.told, found.named, strict=True)]
    return flowed(f"""# Warm-up: who needs it, and does the first update tell?

`./run bench warmup --out docs/results/warmup`, {content["machine"]}, torch {content["torch"]}, one thread,
{minutes:.0f} minutes of one core. {len(rows)} small causal transformers on the characters of tinyshakespeare
(windows of {size.window}, {size.batch} at a time, {HEADS} heads, LayerNorm, no dropout), each trained {size.steps}
steps with Adam from {size.seeds} seeds, twice: with a linear warm-up of {size.warmup} steps and without, the rate
constant afterwards, first weights and batches the same. [The runs](calibration.json).

**Needed** means: over the seeds, the mean loss of {HELD_OUT} held-out windows is worse without warm-up by more than
{MARGIN:g} nats. Margin, configurations and features stood in `benchmarks/warmup.py` as the runs began. Ten pairs of
runs on another seed, before, chose the sizes and the rates, so that warm-up matters somewhere; their first updates were
seen, too, and suggested that the predictor may ask for norms on the stream.

## What it says

Warm-up is needed in {needed} of {len(rows)} configurations: {by_placement(rows)}. {len(stuck)} stay within {MARGIN:g}
nats of what the frequencies of the characters alone give ({content["frequencies"]:.3f}) even with warm-up: there "no"
means that this much of it did not help. The largest difference between two seeds of one arm is
{max(spreads(content)):.2f} nats.

Out of sample, every configuration told by the rule that the {len(rows) - 1} others give:

{accuracies(found, stuck)}
The predictor chooses, in every fold anew, one of {len(FEATURES)} features, a threshold, its direction, and whether it
asks for norms on the stream; on all {len(rows)} it takes: {rule.words()}. The best trivial rule is "{found.best}".
Where they differ the predictor alone is right {wins} times and the trivial rule alone {losses} times (one-sided sign
test: {chance:.3f}, wanted below {SIGNIFICANT:g}). {verdict}

Of the {len(false)} that the predictor calls needed wrongly, {sum(row in stuck for row in false)} do not learn with
warm-up either: what the first update shows is nearer to whether a model learns without warm-up than to whether this
warm-up helps it.

The rows below the predictor and the last column were looked at afterwards and decide nothing: of so many, one is best
by luck. The last column leaves out the {len(stuck)} that do not learn with warm-up either, and fits without them.

The cause `post_norm_without_warm_up` is another thing: it is named where the first update replaces the function and
makes positions one. At the mean numbers of a configuration it names {sum(found.named)} of {len(rows)}: {hits} hits,
{needed - hits} misses, {len(alarms)} false alarms. Of the false alarms, {dead} do not learn with warm-up either.

## Every configuration

Features are means over seeds, at the rate of the first step without warm-up; losses are held out, in nats; *left out*
is the predictor's word from the others; *named* is the cause.

{table(heads, lines)}
**What it does not show.** Anything about longer training, larger models, other data, other optimizers, or a warm-up of
another length. The configurations are a grid, so that one left out has near neighbours among the others: an accuracy
here flatters what it would be elsewhere.
""")


def flowed(text: str) -> str:
    """Break the lines of all paragraphs but headings and tables anew."""
    parts = text.rstrip("\n").split("\n\n")
    flow = [part if part[0] in "#|" else textwrap.fill(part, 118, break_on_hyphens=False) for part in parts]
    return "\n\n".join(flow) + "\n"


PREDICTED = "**the predictor**"
BEATS = """The reading of the first update therefore says needed, not needed
or unknown, and quotes these figures."""
BEATS_NOT = """**The predictor does not
beat it by more than chance.** The reading of the first update therefore gives the measurement without a verdict."""


def spreads(content: Mapping[str, Any]) -> list[float]:
    """Give the range over seeds of every configuration and arm that never diverged."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for run, arm in itertools.product(content["runs"], ARMS):
        found.setdefault((key(run, 0), arm), []).append(math.inf if run[arm] is None else run[arm])
    return [max(losses) - min(losses) for losses in found.values() if math.isfinite(max(losses))]


def main() -> None:
    """Compute what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for calibration.json and README.md")
    folder = parser.parse_args().out
    torch.set_num_threads(1)
    path = folder / "calibration.json"
    compute(path, CONFIGURATIONS, Size(), lambda words: print(words, file=sys.stderr, flush=True))
    write_atomically(folder / "README.md", page(read_json(path)).encode())
    print(f"wrote {folder / 'README.md'}")


if __name__ == "__main__":
    main()
