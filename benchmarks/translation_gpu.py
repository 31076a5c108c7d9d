"""The translation tasks at the paper's model size on one GPU: ``./run --here bench translation_gpu``.

Multi30k, the sample of IWSLT'14 and EVBNews with the ``full`` preset (6+6 layers, width 512), bfloat16, compiled, norms
side by side. A call ends after ``--seconds`` with what is done on disk, and the next call goes on where it was: call it
until it says that everything is done. It needs sentencepiece and sacrebleu; on a machine that reaches no registry bring
them along: ``pip install --target vendor sentencepiece sacrebleu``, and ``PYTHONPATH=vendor`` there.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

from normscope.cli.tables import open_console, verdict_table
from normscope.results.store import StudyFolder, write_json
from normscope.results.summary import summarize
from normscope.studies.plan import plan, record
from normscope.studies.run import execute
from normscope.studies.spec import StudySpec, make_study

TASKS = ("multi30k_de_en", "iwslt14_de_en_sample", "evbnews_en_vi")
NORMS = ("none", "layer_norm", "layer_norm_simple", "detach_norm", "ada_norm", "layer_norm+ada_norm:final")
"""The five of Xu et al. (2019), and what their released code ran."""
AGAIN = 75
"""Exit status of a call that ran out of time: call again."""


def card(task: str, options: argparse.Namespace) -> StudySpec:
    """Write the question of one task."""
    return make_study(
        task,
        norms=NORMS,
        seeds=range(options.seeds),
        steps=options.steps,
        preset="full",
        precision="bfloat16",
        device=options.device,
        compile=not options.eager,
    )


def work(study: StudyFolder, question: StudySpec, deadline: float, command: str) -> bool:
    """Compute runs until all are done or time is up; tell which."""
    study.path.mkdir(parents=True, exist_ok=True)
    write_json(study.card, record(question, command=command, tuned=None, tuning=None))
    for spec in plan(question):
        if study.run(spec.id).finished():
            continue
        begin, told = time.monotonic(), 0.0

        def watch(step: int, loss: float, spec=spec, begin=begin) -> bool:
            nonlocal told
            now = time.monotonic()
            if now - told > 30:
                told = now
                print(f"{spec.task} {spec.label} seed {spec.seed}: {step} of {spec.recipe.steps}, loss {loss:.3f}")
            return now > deadline

        state = execute(spec, study, watch)
        print(f"{spec.task} {spec.label} seed {spec.seed}: {state} after {time.monotonic() - begin:.0f} s", flush=True)
        if state == "interrupted":
            return False
    return True


def main() -> int:
    """Work on every task in turn, and print what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/translation_gpu"), help="where studies are kept")
    parser.add_argument("--seconds", type=float, default=540, help="of this call")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000, help="updates of every run")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("translation_gpu: there is no GPU here: nothing was measured", file=sys.stderr)
        return 1
    deadline = time.monotonic() + options.seconds
    command = " ".join(["./run --here bench translation_gpu", *sys.argv[1:]])
    console, whole = open_console(), True
    for task in options.tasks:
        study = StudyFolder(options.out / task)
        whole = whole and work(study, card(task, options), deadline, command)
        if study.card.exists():
            summary = summarize(study.path)
            summary.write(study.path)
            console.print(verdict_table(summary, summary.arms, task, width=console.width))
    print("everything is done" if whole else "time is up: call again, and it goes on here")
    return 0 if whole else AGAIN


if __name__ == "__main__":
    sys.exit(main())
