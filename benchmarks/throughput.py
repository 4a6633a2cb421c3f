"""Time of many small training runs: the ensemble trainer against a loop of torch.optim.Adam, in one process, as ratios.

    python benchmarks/throughput.py             measure, write results/cached/benchmarks/, renew the table
    python benchmarks/throughput.py --table     renew the table in docs/ensemble.md from what is there
    python benchmarks/throughput.py --check     exit 1 if that table is not what the results say

All contenders of a case do the same training, one after the other in each repetition, so that whatever else the machine
does meets all of them; a ratio is taken within a repetition. The loop keeps no records and takes no test loss, the trainer does.
"""

import csv
import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from step_time import RESULTS, ROOT, _ratio, main, save
from step_time import page_with as page_with

PAGE = ROOT / "docs" / "ensemble.md"
BEGIN, END = "<!-- table of benchmarks/throughput.py -->", "<!-- end of table -->"
FIELDS = ["device", "threads", "case", "contender", "chosen", "runs", "steps", "repetition", "seconds"]
LOOP, BARE = "loop of torch.optim.Adam", "chosen, without records"
#: Smallest gain over the loop that is aimed at on a CPU.
AIMS = {"quadratic": 300, "64 perceptrons": 3, "64 transformers, characters": 1.2}


def cases(device):
    """Yields (case, {contender: (chosen, runs, steps, function)})."""
    import torch
    from torch import nn

    from ctadam.artifact import config
    from ctadam.data.text import load_corpus
    from ctadam.experiments import configure
    from ctadam.experiments.quadratic import runs as quadratic
    from ctadam.training import chunk_size, classification, language

    settings = configure("quadratic", config.resolve("laptop")["quadratic"] | {"steps": 50})
    table = quadratic.grid(settings).iloc[: 4 * quadratic.CPU_CHUNK]
    yield (
        "quadratic",
        {
            LOOP: (False, 4, 50, lambda: loop_of_quadratics(table.iloc[:4], settings, device)),
            "all at once": (
                True,
                len(table),
                50,
                lambda: quadratic.run(table, settings, device=device, progress=lambda amount: None),
            ),
        },
    )

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1500, 64, generator=generator), torch.randint(10, (1500,), generator=generator)
    small = {"batch": 32, "test_every": 1000, "device": device}

    def perceptron(generator):
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

    def convolutions(generator):
        layers = nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten()
        return nn.Sequential(*layers, nn.Linear(128, 10))

    model = config.resolve("laptop")["growth"]["model"]
    text = {"batch": 8, "test_batches": 1, "test_every": 1000, "device": device}

    def words(tokenization):
        corpus = load_corpus("pydoc", tokenization=tokenization, test_fraction=0.1, context=model["context"])
        return language(corpus, **model, **text)

    for case, task, runs, steps in (
        ("64 perceptrons", classification(images, images, build=perceptron, **small), 64, 40),
        ("64 convolutional networks", classification(images, images, build=convolutions, **small), 64, 15),
        ("64 transformers, characters", words("characters"), 64, 8),
        ("8 transformers, words", words("words"), 8, 8),
    ):
        chosen = chunk_size(task, device)
        functions = {LOOP: (False, runs, steps, lambda t=task, r=runs, s=steps: loop(t, r, s, device))}
        for chunk in sorted({1, 8, chosen}):
            name = f"chunks of {chunk}" if chunk > 1 else "one by one"
            functions[name] = (
                chunk == chosen,
                runs,
                steps,
                lambda t=task, r=runs, s=steps, c=chunk: many(t, r, s, c, device),
            )
        functions[BARE] = (False, runs, steps, lambda t=task, r=runs, s=steps, c=chosen: bare(t, r, s, c, device))
        yield case, functions


def loop_of_quadratics(runs, settings, device):
    """What a user would write, with the gradient given instead of found by autograd."""
    import torch

    from ctadam.experiments.quadratic.runs import hessian_product

    for row in runs.itertuples():
        theta = torch.nn.Parameter(torch.ones(settings.dimension, dtype=torch.float64, device=device))
        optimizer = torch.optim.Adam([theta], lr=row.lr, betas=(row.beta1, row.beta2))
        for _ in range(settings.steps):
            theta.grad = hessian_product(theta.detach(), condition=settings.condition)
            optimizer.step()


def loop(task, runs, steps, device):
    """Run after run, as in any tutorial."""
    import torch

    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        model = task.build(generator).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for numbers in torch.randint(task.examples, (steps, task.batch), generator=generator).to(device):
            inputs, targets = task.read(numbers)
            optimizer.zero_grad()
            task.loss(model(inputs), targets).backward()
            optimizer.step()


def many(task, runs, steps, chunk, device):
    """The same with the trainer."""
    import pandas as pd

    from ctadam.training import train

    points = pd.DataFrame({"run": range(runs), "seed": range(runs)}).assign(
        beta1=0.9, beta2=0.999, lr=1e-3, weight_decay=0.0, eps=1e-8, state_dtype="float32", steps=steps
    )
    train(points, task=task, device=device, chunk=chunk)


@contextmanager
def _without_records():
    from ctadam.training.ensemble import _Recorder

    kept = _Recorder.after_step
    _Recorder.after_step = lambda *_: None
    try:
        yield
    finally:
        _Recorder.after_step = kept


def bare(task, runs, steps, chunk, device):
    """The trainer without the recorder's work in a step."""
    with _without_records():
        many(task, runs, steps, chunk, device)


def measure(args):
    """Yields one row (see FIELDS) for each contender, case and repetition."""
    import torch

    torch.set_num_threads(1)
    device = torch.device(args.device)
    for case, functions in cases(device):
        for repetition in range(-1, args.repetitions):  # the first is not counted: it warms up
            for contender, (chosen, runs, steps, function) in functions.items():
                start = time.perf_counter()
                function()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - start
                if repetition >= 0:
                    yield [args.device, 1, case, contender, int(chosen), runs, steps, repetition, f"{seconds:.4e}"]
        print(case, file=sys.stderr, flush=True)


def load(path):
    """{case: {contender: (chosen, [seconds of one run's step in each repetition])}}"""
    found = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            _, times = found.setdefault(row["case"], {}).setdefault(row["contender"], (row["chosen"] == "1", []))
            times.append(float(row["seconds"]) / int(row["runs"]) / int(row["steps"]))
    return found


def table(results=RESULTS):
    """The text between the markers of the page, made from the results alone."""
    lines = []
    for path in sorted(results.glob("throughput_*.csv")):
        provenance = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        lines += [
            f"{provenance['processor']}; 1 thread; torch {provenance['torch']}; medians of {provenance['repetitions']} "
            "interleaved repetitions, quartiles in brackets.",
            "",
            "| case | trained | loop's time / ours | aim | cost of the records |",
            "|---|---|---|---|---|",
        ]
        for case, contenders in load(path).items():
            peer = contenders[LOOP][1]
            for name, (chosen, times) in contenders.items():
                if name in (LOOP, BARE):
                    continue
                aim = f"≥ {AIMS[case]:g}" if chosen and case in AIMS else ""
                cost = ""
                if chosen and BARE in contenders:
                    cost = _percent(times, contenders[BARE][1])
                lines.append(
                    f"| {case} | {name}{' (chosen)' if chosen else ''} | {_ratio(peer, times)} | {aim} | {cost} |"
                )
        lines.append("")
    return "\n".join(lines)


def _percent(times, without):
    import statistics

    low, median, high = statistics.quantiles([100 * (a / b - 1) for a, b in zip(times, without, strict=True)], n=4)
    return f"{median:.0f} % ({low:.0f}–{high:.0f})"


def run(args):
    save("throughput", FIELDS, measure(args), args)


if __name__ == "__main__":
    main(__file__, __doc__, run=run, table=table, page=PAGE, marks=(BEGIN, END), repetitions=7)
