"""Time and memory on a GPU, said without one: counts that are those of the run itself, and a table that is not stale."""

import functools
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from ctadam import cli
from ctadam.artifact import config
from ctadam.artifact.estimate import estimate, few_steps, host_per_report, rehearse, shorten
from ctadam.data.text import load_corpus
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS, load
from ctadam.storage.provenance import sha256
from ctadam.training import classification, language, train
from ctadam.training.counting import CARDS, META, Card, Counter
from ctadam.training.ensemble import chunk_size

CPU = torch.device("cpu")
COUNTS = ("kernels", "flops", "moved")


@pytest.fixture(scope="module")
def growth():
    """The smoke scale's parameters, with a test in the middle."""
    parameters = config.resolve("smoke")["growth"]
    return parameters | {"steps": 12, "test_every": 6, "points": 4, "shards": 1}


def task(device, **settings):
    shape = {"width": 8, "depth": 1, "heads": 2, "context": 8, "batch": 4, "test_batches": 2, "test_every": 10}
    corpus = load_corpus("pydoc", tokenization="words", test_fraction=0.1, context=8)
    return language(corpus, **shape | settings, device=device)


def points(count, steps):
    return pd.DataFrame({"run": range(count), "seed": range(count)}).assign(
        beta1=0.9, beta2=0.99, lr=1e-3, weight_decay=0.0, eps=0.0, state_dtype="float64", steps=steps
    )


def test_a_product_and_what_it_holds():
    with Counter(CARDS["h200"]) as counter:
        a, b = torch.zeros(8, 4, device=META), torch.zeros(4, 2, device=META, dtype=torch.float32)
        c = a @ b
        assert counter.flops == {"float32": 2 * 8 * 4 * 2}
        assert counter.live == 4 * (32 + 8 + 16)
        c.add_(1)
        view = c.view(4, 4)
        del a, b
        assert counter.live == 4 * 16 and counter.peak == 4 * (32 + 8 + 16)
        assert view.cpu().tolist() == [[1.0] * 4] * 4 and counter.waits == 1
    # Two zeros written, the product's operands and result once each, the addition's read and written.
    assert counter.kernels == 4 and counter.moved == 4 * (32 + 8) + 4 * (32 + 8 + 16) + 4 * 32
    assert counter.copied == 64


def test_operations_bytes_and_short_kernels_take_their_time():
    card = Card("slow", memory=1e9, bandwidth=1e6, flops={"float32": 1e6})
    with Counter(card) as counter:
        torch.empty(1000, device=META).fill_(1)
        first = counter.device_s
        torch.empty(100, 100, device=META) @ torch.empty(100, 100, device=META)
    assert first == pytest.approx(4000 / (0.75 * 1e6))
    assert counter.device_s - first == pytest.approx(2 * 100**3 / (0.5 * 1e6))


def test_convolutions_of_many_runs_are_as_many_operations():
    """Batched, they are one convolution in groups, whose gradients torch's own formula counts once a group."""

    def loss(weight, images):
        return torch.nn.functional.conv2d(images, weight, stride=2, padding=1).square().sum()

    weight, images = torch.zeros(5, 8, 3, 3, 3, device=META), torch.zeros(5, 2, 3, 16, 16, device=META)
    with Counter() as one:
        torch.func.grad(loss)(weight[0], images[0])
    with Counter() as many:
        torch.func.vmap(torch.func.grad(loss))(weight, images)
    forward = 2 * (2 * 8 * 8 * 8) * (3 * 3 * 3)
    assert one.flops == {"float32": 2 * forward}  # nobody asks for the images' gradient
    assert many.flops == {"float32": 5 * one.flops["float32"]}


@pytest.mark.parametrize("chunk", [1, 2])
def test_what_is_counted_on_meta_is_what_runs(chunk):
    """The same calls, of the same sizes, as in a run that computes: batched and one by one."""
    found = []
    for kind, device in (("cpu", CPU), ("meta", META)):
        chosen, counters = task(device), []
        for steps in (3, 6):
            with Counter(CARDS["h200"], kind=kind) as counter:
                assert len(train(points(2, steps), task=chosen, device=device, chunk=chunk)) == 2 * steps
            counters.append(counter)
        # The difference, because before its first step a run also works on the host, which here is the device as well.
        found.append([_get(counters[1], name) - _get(counters[0], name) for name in COUNTS])
    # The numbers of a step's examples are copied to a device, and not on a CPU: some bytes of many.
    assert found[0][:2] == found[1][:2] and found[0][2] == pytest.approx(found[1][2], rel=1e-4) and min(found[0]) > 0


def _get(counter, name):
    return counter.flops["float32"] if name == "flops" else getattr(counter, name)


def test_a_few_steps_tell_of_all(growth):
    """The estimate from runs of four and eight steps is the count of the whole run."""
    from ctadam.experiments.growth import runs as module

    guess = estimate("growth", growth, 1, "h200")
    table = module.points(growth)
    with Counter(CARDS["h200"]) as counter:
        module.run(table, growth, device=META, progress=lambda amount: None)
    for name in ("kernels", "moved"):
        assert getattr(guess, name) == pytest.approx(getattr(counter, name), rel=1e-3), name
    assert guess.flops == pytest.approx(dict(counter.flops), rel=1e-3)
    assert guess.device_s == pytest.approx(counter.device_s, rel=0.05)
    assert counter.peak <= guess.peak * 1.01 and guess.runs == len(table)
    assert guess.weights["words"] > guess.weights["characters"] > 0
    assert guess.least <= guess.seconds < math.inf


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["scale_invariance", "practice"])
def test_runs_of_different_lengths_are_counted_in_proportion(experiment):
    # Without those that add kinds of runs and no length.
    few = {"practice": {"protection": {"pairs": [], "precisions": []}, "eps": [0.0]}}.get(experiment, {})
    parameters = config.resolve("smoke", {experiment: few | {"shards": 1}})[experiment]
    guess, module = estimate(experiment, parameters, 1, "h200"), load(experiment)
    with Counter(CARDS["h200"]) as counter:
        module.run(module.points(parameters), parameters, device=META, progress=lambda amount: None)
    for name in ("kernels", "moved", "device_s"):
        assert getattr(guess, name) == pytest.approx(getattr(counter, name), rel=0.02), name
    assert counter.peak <= guess.peak * 1.01


def test_the_chosen_chunk_fits_the_memory():
    card = Card("small", memory=512 * 2**20, bandwidth=1e12, flops={"float32": 1e12})
    with Counter(card) as counter:
        chosen = task(META, width=16)
        chunk = chunk_size(chosen, META)
        train(points(chunk, 2), task=chosen, device=META, chunk=chunk)
    assert 1 < chunk < 64 and card.memory / 10 < counter.peak < card.memory


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("quadratic", "k_sweep"))) for name in EXPERIMENTS],
)
def test_every_experiment_can_be_estimated_and_rehearsed(experiment):
    parameters = config.resolve("smoke")[experiment]
    runs, _ = rehearse(experiment, parameters, 1, CPU)
    guess = estimate(experiment, parameters, 1, "h200")
    assert 0 < runs <= guess.runs and guess.kernels > 100 and guess.moved > 0 and guess.peak > 0


#: Operations that torch refuses on a GPU when it is asked for deterministic algorithms (its documentation of
#: `torch.use_deterministic_algorithms`), by the beginnings of their names.
REFUSED = (
    "nll_loss2d", "cumsum", "histc", "bincount", "kthvalue", "median", "put_", "scatter_reduce", "grid_sampler", "upsample",
    "max_pool3d", "adaptive_max_pool", "fractional_max_pool", "max_unpool", "adaptive_avg_pool", "avg_pool3d",
    "reflection_pad", "replication_pad", "_ctc_loss", "_embedding_bag",
)  # fmt: skip


class Names(Counter):
    """The operations on the device that is counted for."""

    def __init__(self, card):
        super().__init__(card)
        self.names = set()

    def _count(self, func, *arguments):
        self.names.add(func._schema.name.removeprefix("aten::"))
        super()._count(func, *arguments)


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=[pytest.mark.slow] * (name == "trajectory")) for name in EXPERIMENTS]
)
def test_nothing_that_a_gpu_refuses_to_do_deterministically(experiment):
    parameters = config.resolve("smoke")[experiment]
    short, module = shorten(parameters, few_steps(parameters)), load(experiment)
    with Names(CARDS["h200"]) as counter:
        module.run(module.points(short), short, device=META, progress=lambda amount: None)
    assert "lerp_" in counter.names or experiment == "quadratic"
    assert not [name for name in counter.names if name.startswith(REFUSED)]


def test_steps_keep_their_proportions():
    parameters = {"steps": 100, "test_every": 5, "more": {"steps": 200, "name": "x"}}
    short = shorten(parameters, 4)
    assert (short["steps"], short["more"]["steps"]) == (2, 4) and short["test_every"] > 100
    assert parameters["steps"] == 100
    short = shorten({"steps": 100, "cosines": {"times": 3}}, 4)
    assert short == {"steps": 4, "cosines": {"times": 0}}  # what is done so many times is counted by itself
    assert [few_steps({"steps": 1000, "other": {"steps": n}}) for n in (1000, 500, 1500, 600, 999)] == [4, 4, 6, 5, 4]
    with pytest.raises(ArtifactError, match="name no steps"):
        few_steps({"grid": 3})


def test_the_host_works_otherwise_in_each_part():
    """Its preparations between the parts, and slow first steps, are not what a step takes."""
    assert host_per_report(np.array([5, 1, 1, 90, 2, 2, 2, 80, 7, 3, 3, 3]), 3) == 2
    assert host_per_report(np.array([9, 1, 1, 1]), 1) == 1


def test_the_command(capsys):
    words = ["estimate", "tightness", "--scale", "smoke", "--card", "h100", "--rehearse", "--device", "cpu"]
    assert cli.main(words) == 0
    output = capsys.readouterr()
    assert "tightness 1/1" in output.out and "H100: " in output.out and "runs rehearsed" in output.err


HOLD = """
import sys, time
from ctadam.determinism import first_free
print(first_free(["a", "b"], sys.argv[1], every=0.05), flush=True)
time.sleep(60)
"""


def test_jobs_side_by_side_take_different_gpus(tmp_path):
    """Each the first that is free; the third waits until one ends, however it ends."""
    jobs = []
    try:
        for expected in ("0", "1", None):
            jobs.append(subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True))
            if expected is not None:
                assert jobs[-1].stdout.readline().strip() == expected
        with pytest.raises(subprocess.TimeoutExpired):
            jobs[2].wait(timeout=0.5)
        jobs[0].kill()
        assert jobs[2].stdout.readline().strip() == "0"
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def test_one_gpu_or_a_named_one_is_left_alone(monkeypatch):
    from ctadam import determinism

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in (CPU, torch.device("cuda"), torch.device("cuda", 1)):
        assert determinism.claim_gpu(device) == device


def test_of_two_gpus_the_first_free_one_is_taken(monkeypatch, tmp_path):
    from ctadam import determinism

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(uuid=f"GPU-{i}"))
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    monkeypatch.setattr(determinism.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(determinism, "_held", [])
    # A process keeps what it has, however often it asks: a rehearsal asks for every shard.
    for _ in range(3):
        assert determinism.claim_gpu(torch.device("cuda")) == torch.device("cuda", 0)
    # Locks of one process exclude each other, too: with none in hand it is a job beside the first.
    first = determinism._held
    monkeypatch.setattr(determinism, "_held", [])
    assert determinism.claim_gpu(torch.device("cuda")) == torch.device("cuda", 1)
    assert chosen == [0, 1] and len(first) == 1


def test_a_shard_runs_alone_with_what_a_gpu_machine_has(root, tmp_path):
    """No Snakemake, nothing that downloads or draws, and no pydantic; the text from a path."""
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat, and the dog by the door. " * 200)
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'snakemake', 'pooch', 'pydantic', 'matplotlib', 'seaborn', 'torchvision'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from ctadam.cli import main\n"
        f"sys.exit(main(['run', 'growth', '--scale', 'smoke', '--shard', '2/40', '--device', 'cpu', '--out', {str(tmp_path)!r},\n"
        f"    '--set', 'growth.text={text}', '--set', 'growth.steps=10']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pydantic is not installed: the configuration is not checked" in done.stderr
    record = json.loads((tmp_path / "growth" / "shard-2-of-40.json").read_text())
    assert list(record["data"]) == [str(text)] and record["weights"]


@pytest.fixture
def paper_scale(benchmark_script):
    return benchmark_script("paper_scale")


def test_the_table_is_not_stale(root, paper_scale):
    page = (root / "docs" / "paper_scale.md").read_text(encoding="utf-8")
    renewed = paper_scale.page_with(paper_scale.table(), page, paper_scale.BEGIN, paper_scale.END)
    assert renewed == page, "run python benchmarks/paper_scale.py --table"


def test_the_estimate_is_of_the_paper_scale_as_it_stands(paper_scale):
    rows, provenance = paper_scale.read()
    assert provenance["sha256"] == sha256(paper_scale.RESULTS / "paper_scale.csv")
    asked = config.read("paper")
    assert not paper_scale.stale(provenance), "python benchmarks/paper_scale.py with the names above"
    shards = rows.groupby("experiment")["shard"].apply(list).to_dict()
    assert shards == {name: list(range(1, asked[name]["shards"] + 1)) for name in EXPERIMENTS}
    assert (rows["rehearsed_runs"] > 0).all()


def test_what_is_not_estimated_is_not_shown_and_said(paper_scale, monkeypatch):
    monkeypatch.setattr(paper_scale, "stale", lambda provenance: ["growth"])
    table = paper_scale.table()
    assert "Not estimated yet with the parameters as they stand: growth." in table and "| growth" not in table
    assert "| scale_invariance" in table


def test_a_shard_takes_at_most_eight_minutes_and_fits_the_smaller_card(paper_scale):
    rows, _ = paper_scale.read()
    assert rows["estimate_s"].max() < 480 and rows["estimate_s"].sum() < 3600
    assert rows["peak"].max() < CARDS["h100"].memory


def test_measured_times_come_from_the_provenance_of_shipped_runs(paper_scale, tmp_path):
    (tmp_path / "trajectory").mkdir()
    for shard, seconds in ((1, 100.4), (2, 200.2)):
        record = {"wall_s": seconds, "peak_memory": 2**31, "device": "NVIDIA H200"}
        (tmp_path / "trajectory" / f"shard-{shard}-of-2.json").write_text(json.dumps(record))
    (line,) = [x for x in paper_scale.table(shipped=tmp_path).splitlines() if x.startswith("| trajectory")]
    assert line.endswith("| 200 s (NVIDIA H200) | 5.0 min | 2.0 GiB |")
    assert "H200)" not in paper_scale.table(shipped=tmp_path / "nothing")


@pytest.fixture
def gradient(benchmark_script):
    return benchmark_script("gradient")


def test_the_table_of_gradients_is_the_one_that_was_measured(root, gradient, tmp_path):
    page = (root / "docs" / "paper_scale.md").read_text(encoding="utf-8")
    assert gradient.page_with(gradient.table(), page, gradient.BEGIN, gradient.END) == page, "gradient.py --table"
    files = sorted(gradient.RESULTS.glob("gradient_*.csv"))
    assert files
    for file in files:
        assert json.loads(file.with_suffix(".json").read_text())["sha256"] == sha256(file)
        (tmp_path / file.name).write_text(file.read_text().replace("e-", "e+"))
        (tmp_path / file.with_suffix(".json").name).write_text(file.with_suffix(".json").read_text())
    assert gradient.table(tmp_path) != gradient.table()


def test_changed_gradients_are_compared_with_the_trainers(gradient, monkeypatch):
    """A case of the benchmark, really measured: compiled the same to rounding, in bfloat16 to three digits.

    Traced only: what the compiler makes of it is the benchmark's own question, and takes a quarter of a minute.
    """
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    inputs, labels = torch.arange(40.0).view(10, 4).sin(), torch.arange(10) % 3

    def build(generator):
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, generator=generator)
        return model

    case = classification((inputs, labels), (inputs, labels), build=build, batch=8, test_every=9, device=CPU)
    monkeypatch.setattr(gradient, "cases", lambda device: [("perceptron", case)])
    rows = pd.DataFrame(gradient.measure(SimpleNamespace(device="cpu", repetitions=2)), columns=gradient.FIELDS)
    assert rows["contender"].tolist() == 2 * [gradient.PLAIN, gradient.COMPILED, gradient.HALF]
    differences = rows.drop_duplicates("contender")["difference"].astype(float).tolist()
    assert differences[0] == 0 <= differences[1] < 1e-4 < differences[2] < 0.1
    assert (rows["seconds"].astype(float) > 0).all()
