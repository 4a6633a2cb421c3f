"""The paper scale, proven without a GPU: each shard counted at full size, and a few of its runs rehearsed on the CPU.

    python benchmarks/paper_scale.py                        all experiments; write results/cached/benchmarks/, renew the table
    python benchmarks/paper_scale.py growth norms           only these, the others as they are
    python benchmarks/paper_scale.py --set growth.text=FILE with a local copy of the text
    python benchmarks/paper_scale.py --table                renew the table in docs/paper_scale.md from what is there
    python benchmarks/paper_scale.py --check                exit 1 if that table is not what the results say

The last columns hold what was measured, where runs of the paper scale are shipped: their provenance says how long they took.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from step_time import RESULTS, ROOT, processor, renew
from throughput import page_with

PAGE = ROOT / "docs" / "paper_scale.md"
BEGIN, END = "<!-- table of benchmarks/paper_scale.py -->", "<!-- end of table -->"
CARD = "h200"


def measure(experiments, changes):
    """A row (dict) a shard."""
    from ctadam import determinism
    from ctadam.artifact import config
    from ctadam.artifact.estimate import estimate, rehearse

    resolved = config.resolve("paper", changes)
    for experiment in experiments:
        parameters = resolved[experiment]
        determinism.pin(threads=1)
        for shard in range(1, parameters["shards"] + 1):
            began = time.monotonic()
            runs, seconds = rehearse(experiment, parameters, shard, determinism.pick_device("cpu"))
            e = estimate(experiment, parameters, shard, CARD)
            yield {
                "card": e.card, "experiment": experiment, "shard": shard, "shards": e.shards, "runs": e.runs,
                "weights": max(e.weights.values(), default=0), "kernels": round(e.kernels),
                "flops_float64": f"{e.flops.get('float64', 0):.4g}", "flops_float32": f"{e.flops.get('float32', 0):.4g}",
                "moved": f"{e.moved:.4g}", "copied": f"{e.copied:.4g}", "peak": f"{e.peak:.4g}",
                "device_s": f"{e.device_s:.1f}", "host_s": f"{e.host_s:.1f}", "least_s": f"{e.least:.1f}",
                "estimate_s": f"{e.seconds:.1f}", "rehearsed_runs": runs, "rehearsed_s": f"{seconds:.1f}",
            }  # fmt: skip
            took = time.monotonic() - began
            print(f"{experiment} {shard}/{e.shards}: {e.seconds:.0f} s ({took:.0f} s to say so)", file=sys.stderr)


def call_seconds(repetitions=5):
    """What a call costs the host, kernel and all: a step of a model too small to compute much, over the calls it makes."""
    import statistics

    import pandas as pd
    import torch

    from ctadam.data.text import load_corpus
    from ctadam.training import language, train
    from ctadam.training.counting import Counter

    cpu = torch.device("cpu")
    corpus = load_corpus("pydoc", tokenization="characters", test_fraction=0.1, context=8)
    shape = {"width": 8, "depth": 2, "heads": 2, "context": 8, "batch": 1, "test_batches": 1, "test_every": 10**6}
    task = language(corpus, **shape, device=cpu)

    def run(steps):
        points = pd.DataFrame({"run": [0, 1], "seed": [0, 1]})
        same = {"beta1": 0.9, "beta2": 0.99, "lr": 1e-3, "weight_decay": 0.0, "eps": 0.0, "state_dtype": "float64"}
        began = time.perf_counter()
        train(points.assign(**same, steps=steps), task=task, device=cpu, chunk=2)
        return time.perf_counter() - began

    def calls(steps):
        with Counter(kind="cpu") as counter:
            run(steps)
        return counter.kernels

    # Differences: a run also prepares.
    each = statistics.median(run(300) - run(100) for _ in range(repetitions)) / 200
    return each / ((calls(20) - calls(10)) / 10)


def read(results=RESULTS):
    """``(rows, provenance)``; nothing, if nothing has been estimated."""
    import pandas as pd

    path = results / "paper_scale.csv"
    if not path.exists():
        return pd.DataFrame(columns=["experiment"]), {"parameters": {}}
    return pd.read_csv(path), json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def run(args):
    import pandas as pd
    import torch

    from ctadam.artifact import config
    from ctadam.experiments import EXPERIMENTS
    from ctadam.storage.provenance import environment, sha256, write_atomically

    chosen, commit = args.experiments or list(EXPERIMENTS), environment()["commit"]
    kept, before = read()
    asked = config.read("paper")
    made = pd.DataFrame(measure(chosen, config.parse_assignments(args.set)))
    # Without the empty one, which would make numbers of shards floats.
    table = pd.concat([part for part in (kept[~kept["experiment"].isin(chosen)], made) if len(part)])
    # In the order of the experiments, and without those that there are no more.
    table = pd.concat([table[table["experiment"] == name] for name in EXPERIMENTS], ignore_index=True)
    path = RESULTS / "paper_scale.csv"
    write_atomically(path, lambda p: table.to_csv(p, index=False, lineterminator="\n"))
    provenance = {
        "command": "python benchmarks/paper_scale.py " + " ".join(args.experiments),
        "processor": processor("cpu"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
        "call_s": float(f"{call_seconds():.3g}"),
        "sha256": sha256(path),
        "parameters": {n: asked[n] if n in chosen else before["parameters"].get(n) for n in EXPERIMENTS},
    }
    text = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path.with_suffix(".json"), lambda p: Path(p).write_text(text, encoding="utf-8"))


def measured(experiment, shipped):
    """Seconds and bytes of each shard, and the device, from the provenance of shipped runs."""
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((shipped / experiment).glob("shard-*.json"))
    ]
    return [r["wall_s"] for r in records], [r.get("peak_memory") for r in records], {r["device"] for r in records}


def stale(provenance):
    """The experiments that were not estimated with the parameters that the paper scale now has."""
    from ctadam.artifact import config

    return [
        name
        for name, asked in config.read("paper").items()
        if isinstance(asked, dict) and provenance["parameters"].get(name) != asked
    ]


def table(results=RESULTS, shipped=ROOT / "results" / "cached" / "paper"):
    """The text between the markers of the page, made from the results alone."""
    rows, provenance = read(results)
    missing = stale(provenance)
    rows = rows[~rows["experiment"].isin(missing)]
    if rows.empty:
        return "Nothing has been estimated yet.\n"
    lines = [
        f"Estimated for one {rows['card'].iloc[0]}; counted and rehearsed on {provenance['processor']}, torch "
        f"{provenance['torch']}, where a call of the smallest model takes {1e6 * provenance['call_s']:.0f} µs. Times of a "
        "shard are those of the longest one.",
        "",
        "| experiment | shards | runs in each | weights of a model | GPU memory | operations | bytes moved | a shard, at least "
        "| a shard, estimate | all shards, estimate | a shard, measured | all, measured | memory, measured |",
        "|---|" + "---|" * 12,
    ]
    for name, group in rows.groupby("experiment", sort=False):
        seconds, memory, devices = measured(name, shipped)
        on = ", ".join(sorted(devices))
        flops = (group["flops_float64"] + group["flops_float32"]).sum()
        lines.append(
            f"| {name} | {len(group)} | {group['runs'].max():,} | {_weights(group['weights'].max())} "
            f"| {group['peak'].max() / 2**30:.2g} GiB | {f'{flops:.1e}' if flops else '–'} | {group['moved'].sum():.1e} "
            f"| {group['least_s'].max():.0f} s | {group['estimate_s'].max():.0f} s | {group['estimate_s'].sum() / 60:.1f} min "
            f"| {f'{max(seconds):.0f} s ({on})' if seconds else ''} "
            f"| {f'{sum(seconds) / 60:.1f} min' if seconds else ''} "
            f"| {f'{max(memory) / 2**30:.1f} GiB' if seconds and all(memory) else ''} |"
        )
    total = rows["estimate_s"].sum() / 60
    lines += [
        "",
        f"In all {total:.0f} minutes, one shard after the other; at best {rows['least_s'].sum() / 60:.0f}.",
        "",
    ]
    if missing:
        lines += [f"Not estimated yet with the parameters as they stand: {', '.join(missing)}.", ""]
    return "\n".join(lines)


def _weights(count):
    if not count:
        return "–"
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"


def main():
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT")
    parser.add_argument("--table", action="store_true", help="only renew the table in docs/paper_scale.md")
    parser.add_argument("--check", action="store_true", help="only exit 1 if the table is stale")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as growth.text=FILE")
    args = parser.parse_args()
    if not (args.table or args.check):
        run(args)
    renew(PAGE, lambda page: page_with(table(), page, BEGIN, END), Path(__file__).name, args.check)


if __name__ == "__main__":
    main()
