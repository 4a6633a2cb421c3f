"""Time of an optimizer step: KAdam's paths against torch's AdamW, in one process, as ratios.

    python benchmarks/step_time.py             measure, write results/cached/benchmarks/, renew the table
    python benchmarks/step_time.py --table     renew the table in docs/kadam_reference.md from what is there
    python benchmarks/step_time.py --check     exit 1 if that table is not what the results say

All contenders step the same parameters and gradients, one after the other in each repetition, so that whatever else the
machine does meets all of them; a ratio is taken within a repetition. Times of a repetition are means over enough steps
to last `--seconds` (torch.utils.benchmark). The paths of one k share their state, which bounds the memory.
"""

import argparse
import csv
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "cached" / "benchmarks"
PAGE = ROOT / "docs" / "kadam_reference.md"
BEGIN, END = "<!-- table of benchmarks/step_time.py -->", "<!-- end of table -->"
FIELDS = ["device", "threads", "layout", "numel", "tensors", "contender", "k", "repetition", "seconds"]
PATHS = {"plain": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
#: name -> (sizes, number of tensors for a size)
LAYOUTS = {
    "few large": ([10**4, 10**5, 10**6, 10**7, 10**8], lambda numel: 4),
    "many small": ([10**4, 10**5, 10**6, 10**7], lambda numel: numel // 1000),
}


def measure(device, threads, repetitions, seconds, largest):
    """Yields one row (see FIELDS) for each contender, size, layout and repetition."""
    import torch
    from torch.utils.benchmark import Timer

    from ctadam import KAdam

    torch.set_num_threads(threads)
    for layout, (sizes, count) in LAYOUTS.items():
        for numel in (size for size in sizes if size <= largest):
            params = [torch.randn(numel // count(numel), device=device) for _ in range(count(numel))]
            for param in params:
                param.grad = torch.randn_like(param)
            for k in range(1, 5):
                steps = {("copy", 0): _copier(torch.empty(numel, device=device))}
                torch_state, state = None, None
                for path, options in PATHS.items():
                    peer = torch.optim.AdamW(params, lr=1e-6, **options)
                    mine = KAdam(params, lr=1e-6, k=k, **options)
                    # One state for all paths of one optimizer; the first to step creates it.
                    peer.state = torch_state = peer.state if torch_state is None else torch_state
                    mine.state = state = mine.state if state is None else state
                    steps["torch " + path, 1] = peer.step
                    steps["KAdam " + path, k] = mine.step
                number = {}
                for key, step in steps.items():
                    step(), step()
                    once = Timer("step()", globals={"step": step}, num_threads=threads).timeit(1).mean
                    number[key] = max(1, min(10_000, round(seconds / once)))
                for repetition in range(repetitions):
                    for key, step in steps.items():
                        timer = Timer("step()", globals={"step": step}, num_threads=threads)
                        time = timer.timeit(number[key]).mean
                        contender, _ = key
                        # torch's AdamW has one stage whichever k it is compared with; k says which comparison it is.
                        yield [device, threads, layout, numel, len(params), contender, k, repetition, f"{time:.4e}"]
                print(f"{device}, {threads} threads, {layout}, {numel:.0e}, k={k}", file=sys.stderr, flush=True)
                del steps, torch_state, state


def _copier(source):
    target = source.clone()
    return lambda: target.copy_(source)


COMPILE = """
import time, torch, torch._inductor.compile_fx
from ctadam import KAdam
param = torch.randn(10**6); param.grad = torch.randn(10**6)
for k in (1, 2):
    optimizer = KAdam([param], k=k, fused=True)
    start = time.perf_counter(); optimizer.step(); first = time.perf_counter() - start
    start = time.perf_counter(); optimizer.step(); print(first - (time.perf_counter() - start))
"""


def compile_seconds():
    """Seconds that the first fused step takes longer than the second: with an empty and a filled disk cache."""
    with tempfile.TemporaryDirectory() as cache:
        seconds = {}
        for name in ("empty cache", "filled cache"):
            run = subprocess.run(
                [sys.executable, "-c", COMPILE],
                env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
                capture_output=True,
                text=True,
                check=True,
            )
            first, second = (round(float(line), 2) for line in run.stdout.split())
            seconds[name] = {"first kernel of a process": first, "next kernel": second}
    return seconds


def processor(device):
    import torch

    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        names = [
            line
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        return f"{names[0].split(':')[1].strip()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    except (OSError, IndexError):
        return platform.processor()


def save(name, fields, rows, args, **more):
    """Write measured rows to `RESULTS`, with what they were measured on beside them."""
    import torch

    from ctadam.storage.provenance import environment, sha256, write_atomically

    path, commit = RESULTS / f"{name}_{args.device}.csv", environment()["commit"]

    def write(temporary):
        with Path(temporary).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(itertools.chain([fields], rows))

    write_atomically(path, write)
    provenance = {
        "command": f"python benchmarks/{name}.py {' '.join(sys.argv[1:])}",
        "repetitions": args.repetitions,
        "processor": processor(args.device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
        **more,
        "sha256": sha256(path),
    }
    text = json.dumps(provenance, indent=2) + "\n"
    write_atomically(path.with_suffix(".json"), lambda p: Path(p).write_text(text, encoding="utf-8"))


def run(args):
    rows = (
        row
        for threads in args.threads
        for row in measure(args.device, threads, args.repetitions, args.seconds, args.largest)
    )
    save("step_time", FIELDS, rows, args, compile_seconds=compile_seconds())


def load(path):
    """{(threads, layout, numel, k): {contender: seconds of each repetition}}"""
    cases = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = int(row["threads"]), row["layout"], int(row["numel"]), int(row["k"])
            cases.setdefault(key, {}).setdefault(row["contender"], []).append(float(row["seconds"]))
    return cases


def _ratio(ours, theirs):
    """median (lower quartile–upper quartile) of the repetitions' ratios"""
    low, median, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    return f"{median:.2f} ({low:.2f}–{high:.2f})"


#: (what is aimed at, KAdam's path, torch's path, k, largest ratio, layouts, smallest and largest size)
AIMS = [
    ("fused, k = 1: torch's own kernel (1.1 allows for noise)", "fused", "fused", 1, 1.1, LAYOUTS, (0, 10**9)),
    (
        "fused, k = 2, few large tensors of 10^6 and more, within 1.65",
        "fused",
        "fused",
        2,
        1.65,
        ["few large"],
        (10**6, 10**9),
    ),
    ("fused, k = 2, few large tensors below 10^6, within 1.8", "fused", "fused", 2, 1.8, ["few large"], (0, 10**6 - 1)),
    ("fused, k = 2, many small tensors, within 0.9", "fused", "fused", 2, 0.9, ["many small"], (0, 10**9)),
    ("foreach, k = 2, within 2 of torch's foreach", "foreach", "foreach", 2, 2.0, LAYOUTS, (0, 10**9)),
]


def _aims(cases):
    """One line for each aim: the cases that meet it and those that miss it, with their ratios."""
    for name, ours, theirs, k, limit, layouts, (least, most) in AIMS:
        met, missed = [], []
        for (_, layout, numel, stages), times in cases.items():
            if stages == k and layout in layouts and least <= numel <= most:
                pairs = zip(times[f"KAdam {ours}"], times[f"torch {theirs}"], strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                (met if ratio <= limit else missed).append(f"{layout} 10^{len(str(numel)) - 1} ({ratio:.2f})")
        yield f"| {name} | {', '.join(met) or 'nowhere'} | {', '.join(missed) or 'nowhere'} |"


def table(results=RESULTS):
    """The text between the markers of the page, made from the results alone."""
    lines = []
    for path in sorted(results.glob("step_time_*.csv")):
        provenance = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        cases = load(path)
        for threads, rows in itertools.groupby(sorted(cases), key=lambda key: key[0]):
            lines += [
                f"{provenance['processor']}; {threads} thread{'s' if threads > 1 else ''}; torch {provenance['torch']}; "
                f"medians of {provenance['repetitions']} interleaved repetitions, quartiles in brackets.",
                "",
                "| layout | parameters | k | plain / torch plain | foreach / torch foreach | fused / torch fused "
                "| fused: bandwidth / copy |",
                "|---|---|---|---|---|---|---|",
            ]
            for key in rows:
                _, layout, numel, k = key
                times = cases[key]
                ratios = [_ratio(times[f"KAdam {p}"], times[f"torch {p}"]) for p in PATHS]
                # Bytes over time, against a copy's 8 bytes an element.
                share = [t * 8 / (12 + 16 * k) for t in times["KAdam fused"]]
                ratios.append(_ratio(times["copy"], share))
                size = f"10^{len(str(numel)) - 1}"
                lines.append(f"| {layout} | {size} | {k} | " + " | ".join(ratios) + " |")
            lines += ["", "| aim | met | missed |", "|---|---|---|"]
            lines += [*_aims({key: times for key, times in cases.items() if key[0] == threads}), ""]
        lines += ["Compiling the fused kernel (seconds, on the same machine):", ""]
        lines += ["| disk cache | first kernel of a process | next kernel |", "|---|---|---|"]
        for name, cost in provenance["compile_seconds"].items():
            lines.append(f"| {name} | {cost['first kernel of a process']} | {cost['next kernel']} |")
        lines.append("")
    return "\n".join(lines)


def page_with(text, page, begin=BEGIN, end=END):
    """Return `page` with `text` between the markers."""
    from ctadam.artifact.report import with_table

    return with_table(page, text, begin, end)


def renew(path, change, script, check):
    """Put the page with its table into place; if only to ``check``, leave with 1 where that would change it."""
    page = path.read_text(encoding="utf-8")
    renewed = change(page)
    if not check:
        path.write_text(renewed, encoding="utf-8")
    elif renewed != page:
        sys.exit(f"the table in {path.relative_to(ROOT)} is stale: run python benchmarks/{script} --table")


def main(script, doc, *, run, table, page, marks, repetitions, arguments=lambda parser: None):
    """The command line that the benchmarks share: measure unless told not to, then renew or check the table in the page."""
    parser = argparse.ArgumentParser(description=doc and doc.splitlines()[0])
    parser.add_argument("--table", action="store_true", help=f"only renew the table in {page.relative_to(ROOT)}")
    parser.add_argument("--check", action="store_true", help="only exit 1 if the table is stale")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repetitions", type=int, default=repetitions)
    arguments(parser)
    args = parser.parse_args()
    if args.repetitions < 2:
        parser.error("a spread needs at least 2 repetitions")
    if not (args.table or args.check):
        run(args)
    renew(page, lambda text: page_with(table(), text, *marks), Path(script).name, args.check)


def _arguments(parser):
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="CPU threads, one table for each")
    parser.add_argument("--seconds", type=float, default=0.05, help="time of one contender in one repetition")
    parser.add_argument("--largest", type=float, default=1e8, help="leave out larger sizes")


if __name__ == "__main__":
    main(__file__, __doc__, run=run, table=table, page=PAGE, marks=(BEGIN, END), repetitions=9, arguments=_arguments)
