"""Fifty faults planted in normscope, one at a time: do its tests find each of them?

    ./run mutants                       all of them, one after another
    ./run mutants --only bca-sign holm-rank
    ./run mutants --json found.json     keep the results; what the file has already is not run again

A fault is named by the code that it changes and not by a file, so that it outlives moves and renames: the code must
occur once in src/normscope. It is tried in a copy of src, with the tests that should find it, which must pass without
it. Exit status 0: every fault was found. 1: one was not, or its code or its tests are not there.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
COMPILED = {".c", ".h", ".cpp"}
"""Suffixes of sources whose mutants are compiled into a cache of their own."""


class Mutant(NamedTuple):
    """A fault."""

    id: str
    """Its name; it does not change when the code moves."""
    old: str
    """The code, whatever its line breaks; ``<name>`` stands for any name, with or without dots."""
    new: str
    """What stands there instead; ``<name>`` is what stood there."""
    tests: tuple[str, ...]
    """Names of the test functions that should find it, less ``test_``."""


MUTANTS = (
    # The kernels in C and C++.
    Mutant(
        "c-eps-outside-the-root",
        "inverse = 1 / ROOT_OF(square + eps);",
        "inverse = 1 / (ROOT_OF(square) + eps);",
        ("module_is_its_definition",),
    ),
    Mutant(
        "c-mean-of-the-gradient",
        "(n->flags & CENTER ? pull[r] * third : 0)) / (S)width;",
        "(n->flags & CENTER ? pull[r] * third : 0)) / (S)(width + 1);",
        ("input_gradients_have_the_closed_forms",),
    ),
    Mutant(
        "c-last-partial-sum",
        "row + step < count; row += 2 * step",
        "row + step < count - 1; row += 2 * step",
        ("parameter_gradients_of_many_rows_are_as_exact_as_a_sum_by_torch",),
    ),
    Mutant(
        "cpp-gradient-of-the-sum",
        "call.dsum = read(added);",
        "call.dsum = nullptr;",
        ("fused_addition_is_two_calls_to_the_bit",),
    ),
    # The kernels in Triton, the closed form and what is kept.
    Mutant(
        "triton-second-pass-of-the-mean",
        "mu += tl.sum(tl.where(here, value - mu[:, None], 0.0), 1) * (1.0 / WIDTH)",
        "mu += 0.0 * tl.sum(tl.where(here, value - mu[:, None], 0.0), 1)",
        ("constant_row_is_zero_whatever_its_value",),
    ),
    Mutant(
        "triton-slope-of-the-length",
        "return inverse, tl.where(short, 0.0, inverse)",
        "return inverse, tl.where(short, inverse, inverse)",
        ("short_rows_are_divided_by_a_constant",),
    ),
    Mutant(
        "closed-form-detached-mean",
        "centered = inner if <formula>.moves_with_mean else centered - <mu>.detach()",
        "centered = inner",
        ("a_row_far_shorter_or_longer_than_eps_has_the_definitions_derivatives",),
    ),
    Mutant(
        "input-kept-for-the-gain",
        "return self.moves_with_divisor or bool(self.flags & PHI) or <weight>",
        "return self.moves_with_divisor or bool(self.flags & PHI)",
        ("the_input_is_kept_exactly_where_a_first_derivative_depends_on_it",),
    ),
    # Norms.
    Mutant(
        "batch-norm-running-variance",
        "<spread> = variance * (rows / (rows - 1))",
        "<spread> = variance * (rows / rows)",
        ("is_torchs_over_several_batches_in_training_and_evaluation",),
    ),
    Mutant(
        "ada-norm-attached-factor",
        "torch.rsub(<y>.detach(), scale, alpha=scale * k)",
        "torch.rsub(<y>, scale, alpha=scale * k)",
        (
            "ada_norm_detaches_its_factor_and_the_attached_variant_is_found_out",
            "values_and_gradients_are_the_conventions",
        ),
    ),
    Mutant(
        "frn-over-the-batch",
        "<mean_square> = <wide>.square().mean(over, keepdim=True) y = weight * (",
        "<mean_square> = <wide>.square().mean((0, *over), keepdim=True)\n    y = weight * (",
        ("a_sample_is_the_same_in_any_batch",),
    ),
    Mutant(
        "rms-norm-eps-of-the-dtype",
        "eps = torch.finfo(<wide>.dtype).eps <mean_square> = <wide>.square().mean(",
        "eps = torch.finfo(x.dtype).eps\n    <mean_square> = <wide>.square().mean(",
        ("no_eps_is_the_machine_epsilon_of_the_mean_square",),
    ),
    Mutant(
        "scale-norm-eps-added",
        "(weight / length(wide, trailing(axes)).clamp(min=eps * unit))",
        "(weight / (length(wide, trailing(axes)) + eps * unit))",
        ("a_row_shorter_than_eps_is_divided_by_eps",),
    ),
    # Placement and models.
    Mutant(
        "deepnorm-decoder-gain",
        "(12 * <own>) ** -0.25",
        "(8 * <own>) ** -0.25",
        ("the_papers_constants",),
    ),
    Mutant(
        "mix-one-layer-less",
        "<site>.layer <= math.floor(round(share * <site>.layers, 9))",
        "<site>.layer < math.floor(round(share * <site>.layers, 9))",
        ("the_first_layers_are_post",),
    ),
    Mutant(
        "window-one-too-wide",
        ".tril_().triu_(1 - window)",
        ".tril_().triu_(-window)",
        ("window_mask_is_a_band",),
    ),
    Mutant(
        "position-sees-the-next",
        "(keys > queries) |",
        "(keys > queries + 1) |",
        ("a_later_word_changes_no_earlier_bit",),
    ),
    Mutant(
        "sinusoids-base",
        "10000.0 ** -exponents",
        "1000.0 ** -exponents",
        ("sinusoids_equal_the_formula",),
    ),
    # Probes.
    Mutant(
        "gauss-newton-off-diagonal",
        "p * (change - (p * change).sum(-1, keepdim=True)) / self.cases",
        "p * change / self.cases",
        ("spectrum_against_the_matrix_in_full", "fisher_is_the_definition"),
    ),
    Mutant(
        "depth-theory-of-post",
        "POST_LN_DECAY ** (count[-1] - count)",
        "POST_LN_DECAY ** (count - count[0])",
        ("post_lines",),
    ),
    Mutant(
        "ada-norm-gradient-sign",
        "torch.addcmul(g, g, unit, value=-ADA_SLOPE * root)",
        "torch.addcmul(g, g, unit, value=ADA_SLOPE * root)",
        ("what_ada_norm_lets_through",),
    ),
    Mutant(
        "fisher-of-the-layer",
        "(1 + y[:, :, None] * y[:, None, :]) / outputs",
        "(y[:, :, None] * y[:, None, :]) / outputs",
        ("equation_13_as_printed", "layer_normalization_needs_the_derivatives_across_outputs"),
    ),
    Mutant(
        "untouched-without-a-copy",
        "parameter.data = parameter.data.clone()",
        "parameter.data = parameter.data",
        ("what_a_forward_does_in_place_is_taken_back", "everything_comes_back"),
    ),
    # Recognition and swapping.
    Mutant(
        "unbiased-is-not-told",
        "square / max(width - unbiased, 1)",
        "square / max(width, 1)",
        ("divisor_and_place_of_eps",),
    ),
    Mutant(
        "gradient-of-a-norm-not-looked-at",
        "if not close.all() or any(",
        "if any(",
        ("either_statistic_detached_is_another_gradient",),
    ),
    Mutant(
        "unit-offset-sign",
        "reshape(target.shape) + (int(before) - int(offset))",
        "reshape(target.shape) + (int(offset) - int(before))",
        ("a_function_with_either_convention_gets_the_gain_in_its_own", "one_plus_the_parameter"),
    ),
    Mutant(
        "conversion-not-proved",
        "if not worst <= TOLERANCE: changed =",
        "if not worst <= 1e9:\n        changed =",
        ("something_else_reads_the_stream",),
    ),
    Mutant(
        "order-of-the-optimizer",
        "ordered.insert(max(earlier, default=-1) + 1, parameter)",
        "ordered.insert(max(earlier, default=-1), parameter)",
        ("what_goes_is_forgotten_and_undo_brings_it_back", "two_swaps_are_undone_in_any_order"),
    ),
    Mutant(
        "biases-decay",
        "else decay_biases or not _is_bias(",
        "else not decay_biases or not _is_bias(",
        ("only_what_is_in_the_first_group_decays", "groups", "biases_by_any_of_their_names"),
    ),
    # Data and tasks.
    Mutant(
        "every-23rd-validates",
        "number % IWSLT14_EVERY == 0",
        "number % IWSLT14_EVERY == 1",
        ("titles_descriptions_and_lines_are_pairs_and_every_23rd_validates",),
    ),
    Mutant(
        "downloads-not-verified",
        "if file.sha256 is not None and <found> != file.sha256:",
        "if file.sha256 is not None and not <found>:",
        ("nothing_is_left_by_a_mirror_that_fails",),
    ),
    Mutant(
        "conllu-head-behind-the-end",
        "or int(row[6]) > len(words)",
        "or int(row[6]) > len(words) + 1",
        (
            "a_broken_sentence_is_refused_with_file_and_line",
            "trees_and_nothing_else_are_taken_of_all_heads_of_three_words",
        ),
    ),
    Mutant(
        "warm-up-from-zero",
        "self.learning_rate * (step + 1) / self.warmup",
        "self.learning_rate * step / self.warmup",
        ("learning_rates_by_hand", "the_warm_up_is_xiongs"),
    ),
    Mutant(
        "batch-over-the-end-of-a-pass",
        "self._pass(number + 1)[:missing]",
        "self._pass(number)[:missing]",
        ("every_example_is_seen_once_a_pass_and_every_batch_is_full",),
    ),
    Mutant(
        "beam-one-word-too-long",
        "limits[sentence] <= length for sentence in",
        "limits[sentence] < length for sentence in",
        ("no_hypothesis_twice_none_too_long_and_the_best_first", "where_only_the_end_is_allowed_the_sentence_is_empty"),
    ),
    Mutant(
        "arc-before-its-children",
        "(state.children[rows, s1] == wanted)",
        "(state.children[rows, s1] <= wanted)",
        ("oracle_gives_the_sequence_found_by_hand",),
    ),
    # Training and studies.
    Mutant(
        "best-look-is-the-worst",
        "[-value if self.task.valid_metric.higher_is_better else value, loss]",
        "[value if self.task.valid_metric.higher_is_better else -value, loss]",
        ("the_best_validation_value_is_tested_not_the_last",),
    ),
    Mutant(
        "best-weights-not-copied",
        "kept.clone() if isinstance(kept, torch.Tensor) else",
        "kept if isinstance(kept, torch.Tensor) else",
        ("the_best_evaluation_is_tested_with_all_of_its_state",),
    ),
    Mutant(
        "training-past-a-nan",
        "if not math.isfinite(self.loss): return False",
        "if not math.isfinite(self.loss):\n                pass",
        ("a_loss_that_is_not_finite_is_a_state",),
    ),
    Mutant(
        "tuning-on-the-studys-seeds",
        "if self.tune and set(self.seeds) & set(TUNING_SEEDS):",
        "if self.tune and len(set(self.seeds) & set(TUNING_SEEDS)) > 1:",
        ("what_makes_no_sense_is_refused",),
    ),
    Mutant(
        "tuning-takes-the-worst",
        "sign = -1.0 if find_task(study_spec.task).valid_metric.higher_is_better else 1.0",
        "sign = 1.0 if find_task(study_spec.task).valid_metric.higher_is_better else -1.0",
        ("the_best_follows_the_metrics_direction",),
    ),
    # Results and papers.
    Mutant(
        "bca-sign",
        "shifted / (1 - acceleration * shifted)",
        "shifted / (1 + acceleration * shifted)",
        ("bca_agrees_with_scipy",),
    ),
    Mutant(
        "holm-rank",
        "(len(p) - rank) * value",
        "(len(p) - rank - 1) * value",
        ("holm_of_a_known_example",),
    ),
    Mutant(
        "equivalent-in-spite-of-the-test-set",
        "(-margin < narrow[0] and narrow[1] < margin)",
        "(-margin < narrow[0] or narrow[1] < margin)",
        (
            "equivalence_must_survive_the_noise_of_the_test_set",
            "a_test_set_too_small_for_equivalence_may_still_show_a_difference",
        ),
    ),
    Mutant(
        "bleu-brevity",
        "np.exp(1 - np.maximum(reference / length, 1.0))",
        "np.exp(1 - np.maximum(length / reference, 1.0))",
        ("bleu_of_a_hand_computed_case", "bleu_is_sacrebleus"),
    ),
    Mutant(
        "exact-interval",
        "special.betaincinv(count, of - count + 1, outside)",
        "special.betaincinv(count, of - count, outside)",
        ("broken_runs_are_counted_by_the_exact_interval",),
    ),
    # Reports and the command line.
    Mutant(
        "broken-run-counts-as-best",
        "table[place, np.isnan(table[place])] = worst",
        "table[place, np.isnan(table[place])] = -worst",
        ("a_run_that_broke_counts_as_worst",),
    ),
    Mutant(
        "minus-zero",
        'text = text.lstrip("+-")',
        'text = text.lstrip("+")',
        ("numbers_have_a_true_minus_and_no_signed_zero",),
    ),
    Mutant(
        "last-seed-is-lost",
        "range(int(first), int(last or first) + 1)",
        "range(int(first), int(last or first) or 1)",
        ("seeds_are_read",),
    ),
    Mutant(
        "failed-study-exits-with-zero",
        "if sum(counts.values()) == len(ended): sys.exit(<status>)",
        "if sum(counts.values()) == len(ended):\n        sys.exit(0)",
        ("a_study_none_of_whose_runs_could_be_computed_has_no_answer",),
    ),
)


@dataclass(frozen=True)
class Found:
    """What became of a mutant."""

    id: str
    result: str
    """``killed``, ``survived``, ``not found`` or ``no tests``."""
    by: str = ""
    """The test that killed it, or what there was instead."""
    seconds: float = 0.0


class NotFound(LookupError):
    """The code of a mutant is not there, or not once."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plant faults in normscope and see whether its tests find them.")
    parser.add_argument("--only", nargs="+", metavar="ID", default=[mutant.id for mutant in MUTANTS])
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results, and go on from those in it")
    parser.add_argument("--tests", type=Path, default=HERE, metavar="DIR", help="where the tests are")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument("--seconds", type=float, default=300, help="the most that the tests of one may take")
    parser.add_argument("--places", action="store_true", help="say where each mutant's code is, and run nothing")
    given = parser.parse_args(arguments)
    known = {mutant.id: mutant for mutant in MUTANTS}
    if strange := [name for name in given.only if name not in known]:
        parser.error(f"no mutant {strange[0]!r}; there are {', '.join(known)}")
    wanted = [known[name] for name in given.only]
    if given.places:
        return places(wanted)
    told = read(given.json)
    wanted = [mutant for mutant in wanted if mutant.id not in told]
    if wanted:
        collected = collect(given.tests.resolve())
        # Threads, for the work is in other processes; each has a tree of its own.
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(given.jobs) as pool:
            trees: SimpleQueue[Path] = SimpleQueue()
            for _ in range(given.jobs):
                trees.put(stack.enter_context(copied()))
            unmutated(wanted, collected, trees, given.seconds * len(wanted))
            for found in pool.map(lambda one: tried(one, collected, trees, given.seconds), wanted):
                told[found.id] = found
                print(f"{found.result:<10}{found.id}  {found.by}  {found.seconds:.0f} s", flush=True)
                write(given.json, told)
    asked = [told[name] for name in given.only]
    left = [found for found in asked if found.result != "killed"]
    for one in left:
        print(f"{one.result}: {one.id}")
    print(f"{len(asked) - len(left)} of {len(asked)} mutants killed")
    return 1 if left else 0


def places(mutants: Sequence[Mutant]) -> int:
    """Say where the code of each mutant is."""
    lost = 0
    for mutant in mutants:
        try:
            path, text, match = locate(mutant, ROOT / "src")
            print(f"{mutant.id}: {path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}")
        except NotFound as error:
            lost += 1
            print(f"{mutant.id}: {error}")
    return 1 if lost else 0


def pattern_of(code: str) -> re.Pattern[str]:
    """Match code whatever its white space, its line breaks and the commas that a formatter puts before a bracket."""
    pieces, names, before = [], set(), ""
    for token in re.findall(r"<[a-z]\w*>|\w+|[^\w\s]", code):
        if re.fullmatch(r"<\w+>", token):
            name = token[1:-1]
            piece = f"(?P={name})" if name in names else f"(?P<{name}>[A-Za-z_][\\w.]*)"
            names.add(name)
        else:
            piece = re.escape(token)
        is_word = re.fullmatch(r"<?\w+>?", token) is not None
        gap = r"[\s\\]+" if is_word and before == "word" else r"[\s\\]*,?[\s\\]*" if token in ")]}" else r"[\s\\]*"
        pieces += [gap if pieces else (r"(?<!\w)" if is_word else ""), piece]
        before = "word" if is_word else "sign"
    return re.compile("".join(pieces) + (r"(?!\w)" if before == "word" else ""))


def locate(mutant: Mutant, src: Path) -> tuple[Path, str, re.Match[str]]:
    """Find the file, its text and the place in it.

    Raises:
        NotFound: If the code is not there once.
    """
    pattern = pattern_of(mutant.old)
    hits = []
    for path in sorted((src / "normscope").rglob("*")):
        if path.is_file() and path.suffix in {".py", *COMPILED}:
            text = path.read_text(encoding="utf-8")
            hits += [(path, text, match) for match in pattern.finditer(text)]
    if len(hits) != 1:
        there = ", ".join(str(path.relative_to(src)) for path, _, _ in hits)
        raise NotFound(f"its code occurs {len(hits)} times{': ' if there else ''}{there}")
    return hits[0]


def collect(tests: Path) -> dict[str, list[str]]:
    """Map the name of every test function to where it stands."""
    command = [sys.executable, "-m", "pytest", str(tests), "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tests.parent, env=environment(ROOT / "src"), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mutants: the tests cannot be collected:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found: dict[str, dict[str, None]] = {}
    for line in done.stdout.splitlines():
        where, colons, name = line.partition("[")[0].rpartition("::")
        if colons and name.startswith("test_"):
            found.setdefault(name.removeprefix("test_"), {})[str(tests.parent / f"{where}::{name}")] = None
    return {name: list(nodes) for name, nodes in found.items()}


def nodes_of(mutant: Mutant, collected: dict[str, list[str]]) -> list[str]:
    return [node for name in mutant.tests for node in collected.get(name, ())]


def unmutated(
    mutants: Sequence[Mutant], collected: dict[str, list[str]], trees: SimpleQueue[Path], limit: float
) -> None:
    """See that the tests pass where nothing is mutated, and are those of the copied source; end the program if not."""
    nodes = list(dict.fromkeys(node for mutant in mutants for node in nodes_of(mutant, collected)))
    src = trees.get()
    program = "import normscope; print(normscope.__file__)"
    command = [sys.executable, "-c", program]
    there = subprocess.run(command, env=environment(src), capture_output=True, text=True, check=True).stdout.strip()
    if not there.startswith(str(src)):
        sys.exit(f"mutants: the tests would be of {there}, and not of the copy in {src}")
    started = time.monotonic()
    code, said = pytest(nodes, src, limit, "-rsf", stop=False) if nodes else (0, "")
    trees.put(src)
    if code:
        sys.exit(f"mutants: without any mutant the tests do not pass:\n{said[-4000:]}")
    last = said.strip().splitlines()[-1] if said.strip() else "no tests"
    print(f"without a mutant: {last.strip('= ')}; {time.monotonic() - started:.0f} s", flush=True)


def tried(mutant: Mutant, collected: dict[str, list[str]], trees: SimpleQueue[Path], limit: float) -> Found:
    """Plant one fault and run its tests."""
    nodes = nodes_of(mutant, collected)
    if not nodes:
        return Found(mutant.id, "no tests", f"there is none named {', '.join(mutant.tests)}")
    src = trees.get()
    started = time.monotonic()
    try:
        with planted(mutant, src) as path, contextlib.ExitStack() as stack:
            cache = stack.enter_context(own_cache()) if path.suffix in COMPILED else None
            code, said = pytest(nodes, src, limit, cache=cache)
    except NotFound as error:
        return Found(mutant.id, "not found", str(error))
    finally:
        trees.put(src)
    seconds = round(time.monotonic() - started, 1)
    if code == 0:
        return Found(mutant.id, "survived", said.strip().splitlines()[-1].strip("= "), seconds)
    if code == 5:
        return Found(mutant.id, "no tests", "none of them could be run", seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    by = failed[1].partition("[")[0] if failed else "the time limit" if code is None else f"pytest's exit status {code}"
    return Found(mutant.id, "killed", by, seconds)


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """Copy the source; compiled Python stays beside it, so that a mutant costs one module."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        src = Path(folder) / "src"
        shutil.copytree(ROOT / "src", src, ignore=shutil.ignore_patterns("__pycache__"))
        yield src


@contextlib.contextmanager
def own_cache() -> Iterator[str]:
    """Have a cache for what is compiled of a mutant; what it does not change is there already."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "normscope" / "kernels"
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        if usual.is_dir():
            shutil.copytree(usual, Path(folder) / "normscope" / "kernels")
        yield folder


@contextlib.contextmanager
def planted(mutant: Mutant, src: Path) -> Iterator[Path]:
    """Have a fault in a copy of the source.

    Yields:
        The file that has it.

    Raises:
        NotFound: If its code is not there once.
    """
    path, text, match = locate(mutant, src)
    new = re.sub(r"<([a-z]\w*)>", lambda name: match[name[1]], mutant.new)
    changed = text[: match.start()] + new + text[match.end() :]
    if path.suffix == ".py":
        compile(changed, str(path), "exec")
    before = path.stat().st_mtime_ns
    try:
        path.write_text(changed, encoding="utf-8")
        # Compiled Python is known by whole seconds and length; a mutant may share both with the original.
        os.utime(path, ns=(before, before + 10**12))
        yield path
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(before, before))


def environment(src: Path, cache: str | None = None) -> dict[str, str]:
    """Give the environment of tests of the source in ``src``."""
    path = os.pathsep.join([str(src), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"XDG_CACHE_HOME": cache} if cache else {}
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **own}


def pytest(
    nodes: Sequence[str], src: Path, limit: float, *more: str, stop: bool = True, cache: str | None = None
) -> tuple[int | None, str]:
    """Run tests; give pytest's exit status, None where they took too long, and what it said."""
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--tb=short", "-rfE", *(["-x"] if stop else []), *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *nodes],
        cwd=ROOT,
        env=environment(src, cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # It and what it started.
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, said


def read(path: Path | None) -> dict[str, Found]:
    if path is None or not path.exists():
        return {}
    return {row["id"]: Found(**row) for row in json.loads(path.read_text())}


def write(path: Path | None, told: dict[str, Found]) -> None:
    """Keep the results so far."""
    if path is not None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps([asdict(found) for found in told.values()], indent=1) + "\n")
        os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
