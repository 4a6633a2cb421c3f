"""Lead time of `UpdateMonitor`: steps from its first warning until the loss moves, in a run that ends in overflow.

    python benchmarks/monitor_lead_time.py             train, write results/cached/benchmarks/, renew the table
    python benchmarks/monitor_lead_time.py --table     renew the table in docs/monitor.md from what is there
    python benchmarks/monitor_lead_time.py --check     exit 1 if that table is not what the results say

The run is the long run of claim L1 at the outermost point of the normal curve, C = −0.049: word tokens that are read once,
ε = 0, float64 state. The same model with the stable pair of L1 is the control.
"""

import csv
import functools
import itertools
import json
import math
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from step_time import RESULTS, ROOT, main, save
from step_time import page_with as page_with

PAGE = ROOT / "docs" / "monitor.md"
MARKS = "<!-- table of benchmarks/monitor_lead_time.py -->", "<!-- end of the table of lead times -->"
FIELDS = [
    "point",
    "C",
    "seed",
    "step",
    "train_loss",
    "test_loss",
    "grad_norm",
    "update_max",
    "ratio_to_bound",
    "warnings",
]
#: Points of the normal curve: the stable one of claim L1, and the outermost one.
POINTS = (8, 63)
#: Steps between test losses, and between samples of the monitor.
TEST_EVERY, SAMPLE_EVERY = 20, 50
#: Steps of the control, which stays finite.
CONTROL_STEPS = 1000
#: The loss has moved when the test loss is so many nats above its smallest value so far.
MOVED = 0.5
#: The gradient has moved when its norm is so many times its largest value in the first 100 steps.
GRADIENT_FACTOR = 10


@functools.cache
def problem():
    """Return the settings of the practice experiment at laptop scale, and the task of its long runs."""
    import torch

    from ctadam.artifact import config
    from ctadam.experiments.practice.config import Config
    from ctadam.experiments.practice.runs import _learning

    torch.set_num_threads(1)
    settings = Config.model_validate(config.resolve("laptop")["practice"])
    return settings, _learning(settings, long=True, device=torch.device("cpu"))[1]


def train(point, seed, steps):
    """Yield one row (see FIELDS) per tested step, up to the first loss that is not finite."""
    import torch

    from ctadam import KAdam, UpdateMonitor
    from ctadam.monitor import UpdateWarning
    from ctadam.theory.stability import normal_curve_points, stability_coefficient
    from ctadam.training.ensemble import generators

    settings, task = problem()
    beta1, beta2 = normal_curve_points(count=settings.long.n_points, through=settings.long.through.model_dump())
    pair = float(beta1[point]), float(beta2[point])
    c = float(stability_coefficient(beta1=pair[0], beta2=pair[1]))
    weights, batches = generators(seed)
    model = task.build(weights)
    indices = task.draw(steps, batches)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = KAdam(
            model.named_parameters(), settings.lr, pair, eps=0.0, k=1, foreach=True, state_dtype=torch.float64
        )
    monitor = UpdateMonitor(optimizer, every=SAMPLE_EVERY)
    warned = 0
    for step in range(1, steps + 1):
        inputs, targets = task.read(indices[step - 1])
        optimizer.zero_grad()
        loss = task.loss(model(inputs), targets)
        loss.backward()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            optimizer.step()
        warned += sum(issubclass(warning.category, UpdateWarning) for warning in caught)
        if step % TEST_EVERY and math.isfinite(loss.item()):
            continue
        with torch.no_grad():
            test = torch.stack([task.loss(model(x), y) for x, y in zip(*task.test, strict=True)]).mean().item()
            norm = torch.linalg.vector_norm(torch.stack([param.grad.norm() for param in model.parameters()])).item()
        sample = monitor.last
        numbers = (math.nan, math.nan) if sample is None else (sample.top[0].value, sample.ratio_to_bound)
        if step % 500 == 0:
            print(f"C = {c:.3f}, seed {seed}, step {step}", file=sys.stderr, flush=True)
        yield [point, f"{c:.4f}", seed, step, *(f"{x:.6g}" for x in (loss.item(), test, norm, *numbers)), warned]
        if not (math.isfinite(loss.item()) and math.isfinite(test)):
            return


def run(args):
    steps = {POINTS[0]: min(args.steps, CONTROL_STEPS), POINTS[1]: args.steps}
    rows = (row for seed in args.seeds for point in POINTS for row in train(point, seed, steps[point]))
    save("monitor_lead_time", FIELDS, rows, args)


def load(path):
    """{(point, C, seed): rows as dicts of numbers}"""
    runs = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = {name: float(value) for name, value in row.items()}
            runs.setdefault((int(row["point"]), float(row["C"]), int(row["seed"])), []).append(numbers)
    return runs


def first(rows, condition):
    """The step of the first row that meets a condition, or None."""
    return next((int(row["step"]) for row in rows if condition(row)), None)


def summary(rows):
    """Steps at which the monitor warns, the loss moves, the gradient moves, and the run is not finite; None if never."""
    smallest = itertools.accumulate((row["test_loss"] for row in rows), min)
    moved = {row["step"] for row, low in zip(rows, smallest, strict=True) if not row["test_loss"] <= low + MOVED}
    usual = max(row["grad_norm"] for row in rows if row["step"] <= 100)
    return (
        first(rows, lambda row: row["warnings"] > 0),
        first(rows, lambda row: row["step"] in moved),
        first(rows, lambda row: not row["grad_norm"] <= GRADIENT_FACTOR * usual),
        first(rows, lambda row: not (math.isfinite(row["test_loss"]) and math.isfinite(row["train_loss"]))),
    )


def table(results=RESULTS):
    """The text between the markers of the page, made from the results alone."""
    lines = []
    for path in sorted(results.glob("monitor_lead_time_*.csv")):
        provenance = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        lines += [
            f"{provenance['processor']}; torch {provenance['torch']}.",
            "",
            "| C | seed | first warning | loss moves | gradient moves | not finite | lead time (steps) |",
            "|---|---|---|---|---|---|---|",
        ]
        for (_, c, seed), rows in sorted(load(path).items()):
            warned, moved, gradient, ended = summary(rows)
            lead = "" if warned is None or moved is None else moved - warned
            cells = ["never" if step is None else step for step in (warned, moved, gradient, ended)]
            lines.append("| " + " | ".join(map(str, [f"{c:.3f}".replace("-", "−"), seed, *cells, lead])) + " |")
        lines.append("")
    return "\n".join(lines)


def _arguments(parser):
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    parser.add_argument("--steps", type=int, default=3000, help="largest number of steps of a run")


if __name__ == "__main__":
    main(__file__, __doc__, run=run, table=table, page=PAGE, marks=MARKS, repetitions=9, arguments=_arguments)
