"""What would make the gradients of many runs cheaper, as ratios: compilation, CUDA graphs, bfloat16, TF32.

    python benchmarks/gradient.py             measure, write results/cached/benchmarks/, renew the table
    python benchmarks/gradient.py --table     renew the table in docs/scales.md from what is there
    python benchmarks/gradient.py --check     exit 1 if that table is not what the results say

Losses and gradients of one chunk of runs with the models of the paper scale, as the trainer takes them, and the same with
one thing changed; one after the other in each repetition, and a ratio is taken within a repetition. Pixels are random: only times
and roundings are of interest. CUDA graphs and TF32 exist on a GPU only.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from step_time import RESULTS, ROOT, _ratio, main, save
from step_time import page_with as page_with

PAGE = ROOT / "docs" / "scales.md"
BEGIN, END = "<!-- table of benchmarks/gradient.py -->", "<!-- end of gradient's table -->"
FIELDS = ["device", "case", "runs", "weights", "contender", "first_s", "difference", "repetition", "seconds"]
PLAIN, COMPILED, GRAPHS, HALF, TF32 = "as it is", "compiled", "compiled, CUDA graphs", "bfloat16", "TF32"
#: The most runs of a chunk on a CPU: there is nothing to fill.
CPU_RUNS = 2


def cases(device):
    """Yields (case, task): the models of the paper scale, and a perceptron of their size."""
    import torch

    from ctadam.artifact import config
    from ctadam.data.images import Images
    from ctadam.data.text import load_corpus
    from ctadam.models.mlp import MLP
    from ctadam.training import classification, images, language

    paper = config.resolve("paper")

    text = paper["generalization"]["text"]
    for name, parameters, source in (
        ("growth", paper["growth"], paper["growth"]["text"]["source"]),
        ("generalization", text, text["source"]),
    ):
        size, batch = parameters["model"], parameters["batch"]
        corpus = load_corpus(source, tokenization="words", test_fraction=0.1, context=size["context"])
        task = language(corpus, **size, batch=batch, test_batches=1, test_every=10**6, device=device)
        yield f"{name}: transformer", task

    generator = torch.Generator().manual_seed(0)
    digits = torch.rand(1500, 64, generator=generator), torch.randint(10, (1500,), generator=generator)

    def perceptron(generator):
        return MLP(features=64, classes=10, width=256, depth=2, generator=generator)

    options = {"batch": 64, "test_every": 10**6, "device": device}
    yield "generalization: perceptron", classification(digits, digits, build=perceptron, **options)

    shape = (paper["k_sweep"]["network"]["test_batch"], 3, 32, 32)
    pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    part = pixels, torch.randint(10, (len(pixels),), generator=generator)
    data = Images(train=part, test=part, classes=tuple(map(str, range(10))), name="random", sha256="")
    for norm in (False, True):
        task = images(data, norm=norm, **paper["k_sweep"]["network"], test_every=10**6, device=device)
        yield f"k_sweep: convolutions{', normalized' if norm else ''}", task


def contenders(task, runs, device):
    """{name: function of (inputs, targets) that gives the gradients of all runs}"""
    import torch

    from ctadam.training.ensemble import Layout, _Gradient, generators

    models = [task.build(generators(seed)[0]) for seed in range(runs)]
    layout = Layout(models[0].named_parameters())
    params = torch.zeros((runs, layout.width))
    for name, view in layout.views(params).items():
        view.copy_(torch.stack([model.get_parameter(name).detach() for model in models]))
    params = params.to(device)

    def gradient(change=lambda many: many, autocast=None):
        found = _Gradient(task, models[0].to(device), layout, params, torch.zeros_like(params), None, True, autocast)
        many = change(found.many)
        return lambda *batch: many(found.views, *batch)[0]

    functions = {PLAIN: gradient(), COMPILED: gradient(torch.compile), HALF: gradient(autocast=torch.bfloat16)}
    if device.type == "cuda":
        functions[GRAPHS] = gradient(lambda many: torch.compile(many, mode="reduce-overhead"))
        functions[TF32] = _with_tf32(functions[PLAIN])
    return functions


def _with_tf32(function):
    import torch

    def call(*batch):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        try:
            return function(*batch)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    return call


def measure(args):
    """Yields one row (see FIELDS) for each case, contender and repetition."""
    import torch

    from ctadam import determinism
    from ctadam.training import chunk_size

    determinism.pin(threads=1)
    device = torch.device(args.device)
    for case, task in cases(device):
        runs = CPU_RUNS if device.type == "cpu" else max(2, chunk_size(task, device))
        generator = torch.Generator().manual_seed(0)
        draws = torch.randint(task.examples, (args.repetitions + 1, runs, task.batch), generator=generator).to(device)
        # Or what was compiled for the case before would be taken for shapes that vary, and given up after a few of them.
        torch.compiler.reset()
        functions = contenders(task, runs, device)
        facts, reference = {}, None
        for repetition in range(-1, args.repetitions):  # the first is not counted: it compiles
            batch = task.read(draws[repetition + 1])
            for name, function in functions.items():
                began = time.perf_counter()
                found = function(*batch)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - began
                if repetition < 0:
                    reference = reference or {key: value.clone() for key, value in found.items()}
                    facts[name] = f"{seconds:.4e}", f"{_difference(found, reference):.2g}"
                else:
                    yield [args.device, case, runs, task.weights, name, *facts[name], repetition, f"{seconds:.4e}"]
                del found
        print(case, file=sys.stderr, flush=True)


def _difference(found, reference):
    """The largest relative difference of a tensor's gradient, in the 2-norm, over all tensors and runs."""
    import torch

    def norm(x):
        return torch.linalg.vector_norm(x.flatten(1).double(), dim=1)

    return max(float((norm(found[key] - true) / norm(true)).nan_to_num().max()) for key, true in reference.items())


def run(args):
    with tempfile.TemporaryDirectory() as cache:  # an empty one, as on a machine that has not compiled this before
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        save("gradient", FIELDS, measure(args), args)


def table(results=RESULTS):
    """The text between the markers of the page, made from the results alone."""
    import pandas as pd

    lines = []
    for path in sorted(results.glob("gradient_*.csv")):
        provenance = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        rows = pd.read_csv(path)
        names = [name for name in (COMPILED, GRAPHS, HALF, TF32) if (rows["contender"] == name).any()]
        lines += [
            f"{provenance['processor']}; 1 thread; torch {provenance['torch']}; {provenance['repetitions']} interleaved "
            "repetitions. Time as it is over time changed (above 1: a gain), median and quartiles; the largest relative change "
            "of a tensor's gradient; for what is compiled, seconds that its first call took.",
            "",
            "| model | runs | weights |" + "".join(f" {name} |" for name in names),
            "|---|---|---|" + "---|" * len(names),
        ]
        for case, group in rows.groupby("case", sort=False):
            times = {name: part["seconds"].tolist() for name, part in group.groupby("contender")}
            facts = group.drop_duplicates("contender").set_index("contender")
            cells = []
            for name in names:
                cell = f"{_ratio(times[PLAIN], times[name])}; {facts.loc[name, 'difference']:.1g}"
                if name in (COMPILED, GRAPHS):
                    cell += f"; {facts.loc[name, 'first_s']:.0f} s"
                cells.append(cell)
            first = group.iloc[0]
            lines.append(f"| {case} | {first['runs']} | {first['weights']:,} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main(__file__, __doc__, run=run, table=table, page=PAGE, marks=(BEGIN, END), repetitions=5)
