"""Cost of `UpdateMonitor`: time of a training step with the monitor over the time without it.

    python benchmarks/monitor_cost.py             measure, write results/cached/benchmarks/, renew the table
    python benchmarks/monitor_cost.py --table     renew the table in docs/monitor.md from what is there
    python benchmarks/monitor_cost.py --check     exit 1 if that table is not what the results say

A small transformer is trained in blocks of steps, alternately without the monitor and with one that samples once per block.
The order changes from one repetition to the next. On a CPU, times are the process's own, which other processes affect less.
"""

import csv
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from step_time import RESULTS, ROOT, _ratio, main, save
from step_time import page_with as page_with

PAGE = ROOT / "docs" / "monitor.md"
MARKS = "<!-- table of benchmarks/monitor_cost.py -->", "<!-- end of the table of costs -->"
FIELDS = ["device", "contender", "every", "weights", "tensors", "repetition", "without_s", "with_s"]
#: Steps between two samples.
EVERY = (50,)
#: Steps per block.
BLOCK = 50
SHAPE = {"vocabulary": 1000, "width": 64, "depth": 2, "heads": 4, "context": 32}
BATCH = 8


def contenders():
    """{name: function of the parameters that returns an optimizer}"""
    import torch

    from ctadam import KAdam

    return {
        "AdamW": torch.optim.AdamW,
        "AdamW fused": lambda params: torch.optim.AdamW(params, fused=True),
        "KAdam": KAdam,
        "KAdam fused": lambda params: KAdam(params, fused=True),
    }


def measure(args):
    """Yield one row (see FIELDS) per contender, interval and repetition."""
    import torch

    from ctadam import UpdateMonitor
    from ctadam.models.transformer import Transformer

    torch.set_num_threads(1)
    device = torch.device(args.device)
    tokens = torch.randint(SHAPE["vocabulary"], (BATCH, SHAPE["context"] + 1), device=device)

    def block(model, optimizer):
        began = clock(device)
        for _ in range(BLOCK):
            optimizer.zero_grad()
            logits = model(tokens[:, :-1])
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizer.step()
        return began

    for name, make in contenders().items():
        model = Transformer(**SHAPE, generator=torch.Generator().manual_seed(0)).to(device)
        optimizer = make([*model.parameters()])
        block(model, optimizer)
        weights, tensors = sum(p.numel() for p in model.parameters()), len([*model.parameters()])

        def once(every, model=model, optimizer=optimizer):
            if not every:
                began = block(model, optimizer)
                return clock(device) - began
            with UpdateMonitor(optimizer, every=every):
                began = block(model, optimizer)
            return clock(device) - began  # with the report of the last sample

        for every in EVERY:
            once(every)
            for repetition in range(args.repetitions):
                order = (0, every) if repetition % 2 else (every, 0)
                seconds = {key: once(key) / BLOCK for key in order}
                times = (f"{seconds[key]:.4e}" for key in (0, every))
                yield [args.device, name, every, weights, tensors, repetition, *times]
        print(name, file=sys.stderr, flush=True)


def clock(device):
    """Return seconds; on a GPU after all its work."""
    import torch

    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def run(args):
    save("monitor_cost", FIELDS, measure(args), args)


def load(path):
    """{(contender, every, weights, tensors): [(seconds without, seconds with) of each repetition]}"""
    cases = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = row["contender"], int(row["every"]), int(row["weights"]), int(row["tensors"])
            cases.setdefault(key, []).append((float(row["without_s"]), float(row["with_s"])))
    return cases


def table(results=RESULTS):
    """The text between the markers of the page, made from the results alone."""
    lines = []
    for path in sorted(results.glob("monitor_cost_*.csv")):
        provenance = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        cases = load(path)
        _, _, weights, tensors = next(iter(cases))
        lines += [
            f"{provenance['processor']}; 1 thread; torch {provenance['torch']}; transformer with {weights:,} weights in "
            f"{tensors} tensors; {provenance['repetitions']} interleaved repetitions. Time of a step with the monitor over "
            "without, median and quartiles.",
            "",
            "| optimizer |" + "".join(f" every={every} |" for every in EVERY),
            "|---|" + "---|" * len(EVERY),
        ]
        for name in dict.fromkeys(key[0] for key in cases):
            cells = [_ratio(*reversed([*zip(*cases[name, every, weights, tensors], strict=True)])) for every in EVERY]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main(__file__, __doc__, run=run, table=table, page=PAGE, marks=MARKS, repetitions=5)
