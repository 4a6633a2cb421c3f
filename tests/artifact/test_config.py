"""The configuration: all scales valid, and every mistake one line that names key, value and what is allowed."""

import copy
import itertools
import math
import re
import shlex
import subprocess
import sys

import pytest

from ctadam import cli
from ctadam.artifact import config
from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS, load


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_scale_is_valid_and_says_its_name(scale):
    assert config.resolve(scale)["scale"] == scale


def test_scales_share_one_structure():
    def keys(node, path=""):
        if isinstance(node, dict):
            return {k for key, value in node.items() for k in keys(value, f"{path}.{key}")}
        return {path}

    laptop = keys(config.read("laptop"))
    assert keys(config.read("smoke")) == laptop
    # The image task of `generalization` is the digits at some scales, and CIFAR-10 at others.
    for scale in ("desk", "paper"):
        assert {key for key in keys(config.read(scale)) ^ laptop if not key.startswith(".generalization.")} == set()


@pytest.mark.parametrize("scale", config.SCALES)
def test_the_models_keep_values_and_their_types(scale):
    resolved = config.resolve(scale, {"k_sweep": {"lr": 1}})
    for name in EXPERIMENTS:
        dumped = load(name, "config").Config.model_validate(resolved[name]).model_dump(exclude_unset=True)
        assert dumped == resolved[name]
        assert [*map(type, sorted_leaves(dumped))] == [*map(type, sorted_leaves(resolved[name]))]


def sorted_leaves(node):
    """Every single value, in the order of the sorted keys."""
    if isinstance(node, dict):
        node = [node[key] for key in sorted(node)]
    return [leaf for part in node for leaf in sorted_leaves(part)] if isinstance(node, list) else [node]


def test_the_file_of_a_scale_says_only_what_differs(root):
    def repeated(node, base, path=()):
        for key, value in node.items():
            if isinstance(value, dict) and isinstance(base.get(key), dict):
                yield from repeated(value, base[key], (*path, key))
            elif key in base and value == base[key]:
                yield (*path, key)

    for scale, base in config.BASES.items():
        own = config.read_yaml(root / f"workflow/config/{scale}.yaml")
        assert not [*repeated(own, config.read(base))], scale


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A function that writes the complete file and that of the smoke scale, and reads the latter."""
    monkeypatch.setattr(config, "root", lambda: tmp_path)
    (tmp_path / "workflow/config").mkdir(parents=True)

    def read(complete, smoke):
        (tmp_path / "workflow/config/laptop.yaml").write_text(complete)
        (tmp_path / "workflow/config/smoke.yaml").write_text(smoke)
        return config.read("smoke")

    return read


def test_mappings_are_merged_lists_are_replaced_and_null_removes(checkout):
    complete = "scale: laptop\ngrowth: {seeds: [0, 1], model: {width: 8, heads: 2}, long: {steps: 3}, lr: 0.1}\n"
    merged = checkout(complete, "scale: smoke\ngrowth: {seeds: [2], model: {width: 4}, long: null}\n")
    assert merged == {"scale": "smoke", "growth": {"seeds": [2], "model": {"width": 4, "heads": 2}, "lr": 0.1}}


def test_the_user_cannot_remove_a_key():
    message = "growth.lr: None is not allowed (allowed: number in (0, inf))"
    assert refusal(config.parse_assignments(["growth.lr=null"])) == message


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"growth": {"sedes": [1]}}, "growth.sedes: [1] is not allowed (unknown key; known: shards"),
        ({"grwth": {}}, "grwth: {} is not allowed (unknown key; known: scale, device, trajectory"),
        ({"growth": {"lr": 1e30}}, "growth.lr: 1e+30 is not allowed (allowed: 0, or a size from 1e-18 to 1e+18)"),
        ({"growth": {"lr": 0}}, "growth.lr: 0 is not allowed (allowed: number in (0, inf))"),
        ({"growth": {"lr": "1e-3"}}, "write 1.0e-3"),
        ({"growth": {"steps": 10.5}}, "growth.steps: 10.5 is not allowed (allowed: integer in [10, inf))"),
        ({"growth": {"through": {"beta1": 1}}}, "growth.through.beta1: 1 is not allowed (allowed: number in [0, 1))"),
        ({"practice": {"pair": {"beta2": -0.1}}}, "practice.pair.beta2: -0.1 is not allowed (allowed: number in [0, 1))"),
        ({"practice": {"state_dtypes": ["half"]}}, "'half' is not allowed (allowed: float32, float64)"),
        ({"growth": {"seeds": []}}, "growth.seeds: [] is not allowed (allowed: a list of at least 1: each integer in [0, inf))"),
        ({"growth": 3}, "growth: 3 is not allowed (allowed: a mapping)"),
        ({"scale": "tiny"}, "scale: 'tiny' is not allowed (allowed: smoke, laptop, desk, paper)"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(changes, message):
    with pytest.raises(ArtifactError) as error:
        config.resolve("smoke", changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_key_is_named():
    resolved = copy.deepcopy(config.resolve("smoke"))
    del resolved["growth"]["batch"]
    with pytest.raises(ArtifactError, match=r"growth.batch: missing \(allowed: integer in \[1, inf\)\)"):
        config.check(resolved)


def test_a_task_of_the_baselines_is_described_where_it_has_steps():
    resolved = copy.deepcopy(config.resolve("smoke"))
    del resolved["baselines"]["text"], resolved["baselines"]["steps"]["text"]
    config.check(resolved)
    resolved["baselines"]["steps"]["text"] = 5
    with pytest.raises(ArtifactError, match=r"baselines.text: missing \(allowed: a mapping\)"):
        config.check(resolved)


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_scale_has_every_experiment(scale):
    resolved = config.resolve(scale)
    assert set(EXPERIMENTS) <= set(resolved)
    del resolved["k_sweep"]
    with pytest.raises(ArtifactError, match=r"k_sweep: missing \(allowed: a mapping\)"):
        config.check(resolved)


def test_unknown_scale():
    with pytest.raises(ArtifactError, match="'huge' is not allowed"):
        config.resolve("huge")


def test_assignments_say_changes_again():
    changes = {
        "practice": {"lr": 0.01, "long": {"steps": 20}, "eps": [0.0, 1e-6], "text": {"source": "a file's name.txt"}}
    }
    resolved = config.resolve("smoke", changes)
    words = config.assignments("smoke", resolved, "practice")
    assert config.parse_assignments(words) == changes
    assert config.resolve("smoke", config.parse_assignments(words)) == resolved
    assert config.assignments("smoke", resolved, "tightness") == []


SMOKE = config.read("smoke")


def refusal(changes):
    """The one line with which a change of the smoke configuration is refused."""
    with pytest.raises(ArtifactError) as error:
        config.resolve("smoke", changes)
    assert "\n" not in str(error.value)
    return str(error.value)


def leaves(node, path=()):
    """Every single value of a configuration, with its path."""
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def with_value(path, value):
    """The smoke configuration with another value at a path."""
    changed = copy.deepcopy(SMOKE)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


@pytest.mark.parametrize("experiment", [key for key in SMOKE if key not in ("scale", "device")])
def test_every_number_must_be_finite_and_of_its_kind(experiment):
    numbers = [(p, v) for p, v in leaves(SMOKE) if p[0] == experiment and type(v) in (int, float)]
    assert len(numbers) > 5
    for path, value in numbers:
        wrong = [(bad, ")") for bad in (math.nan, math.inf, True)]
        wrong.append(("7", "; this is text: write 7 without quotes)"))
        if type(value) is int:
            wrong.append((float(value), f"; write {value})"))
        for bad, end in wrong:
            with pytest.raises(ArtifactError) as error:
                config.check(with_value(path, bad))
            message = str(error.value)
            assert message.startswith(f"{'.'.join(map(str, path))}: {bad!r} is not allowed (allowed: ")
            assert message.endswith(end) and message.count(";") == end.count(";")


@pytest.mark.parametrize(
    "word, message",
    [
        ("quadratic.condition=.inf", "quadratic.condition: inf is not allowed (allowed: number in [1, inf))"),
        ("growth.characters_below=-.inf", "growth.characters_below: -inf is not allowed"),
        ("growth.lr=.NaN", "growth.lr: nan is not allowed"),
        ("growth.lr=1.0e+999", "growth.lr: inf is not allowed"),
        ("growth.lr=1e999", "growth.lr: '1e999' is not allowed (allowed: number in (0, inf))"),
        ("trajectory.lrs=[1.0e-3, .inf]", "trajectory.lrs.1: inf is not allowed"),
        ("generalization.text.lrs=[1.0e-3, .nan]", "generalization.text.lrs.1: nan is not allowed"),
        ("growth={through: {beta1: .nan}}", "growth.through.beta1: nan is not allowed"),
        (f"growth.lr=1{'0' * 400}", "is not allowed (allowed: number in (0, inf))"),
        (f"growth.seeds=[{2**63}]", f"growth.seeds.0: {2**63} is not allowed (allowed: an integer below 2^63)"),
        ("growth.shards=2.0", "growth.shards: 2.0 is not allowed (allowed: integer in [1, inf); write 2)"),
        ("growth.seeds=[0.0]", "growth.seeds.0: 0.0 is not allowed (allowed: integer in [0, inf); write 0)"),
        ("k_sweep.network.channels=[8.0]", "allowed: integer in [8, inf), a multiple of 8; write 8)"),
        ("growth.lr=true", "growth.lr: True is not allowed (allowed: number in (0, inf))"),
        ("k_sweep.network.flip=0", "k_sweep.network.flip: 0 is not allowed (allowed: true or false)"),
        ("k_sweep.network.flip=1", "k_sweep.network.flip: 1 is not allowed (allowed: true or false)"),
        ("k_sweep.normalized.ks=[1, 3]", "k_sweep.normalized.ks: [1, 3] is not allowed (allowed: numbers that include 1 and 2)"),
        ('growth.lr="0.01"', "growth.lr: '0.01' is not allowed (allowed: number in (0, inf); "
         "this is text: write 0.01 without quotes)"),
        ("growth.lr=1e-3", "YAML reads this as text: write 1.0e-3, not 1e-3"),
        ("growth.text.source=123", "growth.text.source: 123 is not allowed (allowed: text)"),
        ("growth.seeds=[3, 3]", "growth.seeds: [3, 3] is not allowed (allowed: a list of at least 1: "
         "each integer in [0, inf); no two equal)"),
        ("trajectory.mlp.substeps=[2]", "allowed: a list of 2: each integer in [2, inf), a multiple of 2)"),
        ("trajectory.relabel.p=[0]", "trajectory.relabel.p.0: 0 is not allowed (allowed: number in (-inf, inf), not 0)"),
        ("scale=paper", "scale: 'paper' is not allowed (allowed: smoke, which was asked for)"),
        ("scale=[smoke]", "scale: ['smoke'] is not allowed (allowed: smoke, laptop, desk, paper)"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_named_with_what_is_allowed(word, message):
    assert message in refusal(config.parse_assignments([word]))


@pytest.mark.parametrize(
    "words, message",
    [
        (["growth.model.heads=3"], "growth.model.heads: 3 is not allowed (allowed: a divisor of width, 8)"),
        (["growth.model.width=9"], "growth.model.heads: 2 is not allowed (allowed: a divisor of width, 9)"),
        (["practice.model.heads=3"], "practice.model.heads: 3"),
        (["generalization.text.model.heads=3"], "generalization.text.model.heads: 3"),
        (["trajectory.transformer.model.heads=3"], "trajectory.transformer.model.heads: 3"),
        (["scale_invariance.models.transformer.model.heads=3"], "scale_invariance.models.transformer.model.heads: 3"),
        (["baselines.text.model.heads=3"], "baselines.text.model.heads: 3"),
        (["growth.through.beta1=0"], "growth.through.beta1: 0 is not allowed (allowed: number in [1e-06, 0.999999]"),
        (["generalization.through.beta2=0.0"], "generalization.through.beta2: 0.0"),
        (["practice.long.through.beta2=0.99999999999"], "practice.long.through.beta2: 0.99999999999"),
        (["practice.long.n_points=9"], "practice.long.points.1: 63 is not allowed (allowed: integer below long.n_points, 9)"),
        (["practice.pair.beta2=0"], "practice.pair.beta2: 0 is not allowed (allowed: number in (0, 1)"),
        (["generalization.level.beta2=0.9995"],
         "generalization.level.beta2: 0.9995 is not allowed (allowed: number below through.beta2, 0.999)"),
        (["trajectory.picture.lr=0.5"], "trajectory.picture.lr: 0.5 is not allowed (allowed: one of lrs"),
        (["trajectory.relabel.p=[1, -1000]"], "trajectory.relabel.p.1: -1000 is not allowed (allowed: number in [-33.3, 33.3]"),
        (["scale_invariance.steady.weight_decay=400"],
         "scale_invariance.steady.weight_decay: 400 is not allowed (allowed: number in (0, 333.333)"),
        (["scale_invariance.fixed_norm.weight_decays=[1, 100]"], "scale_invariance.fixed_norm.weight_decays.1: 100"),
        (["scale_invariance.fixed_norm.weight_decays=[0]"], "scale_invariance.fixed_norm.weight_decays.0: 0"),
        (["scale_invariance.cosines.lags=[0, 21]"],
         "scale_invariance.cosines.lags: [0, 21] is not allowed (allowed: a list with a lag from 1 to 20"),
    ],
)  # fmt: skip
def test_values_that_do_not_go_together_are_refused(words, message):
    assert message in refusal(config.parse_assignments(words))


@pytest.mark.parametrize(
    "words",
    [
        ["growth.model.heads=4"],
        ["growth.model={width: 9, heads: 3}"],
        ["growth.lr=1", "growth.weight_decay=0"],  # a float may be written as an integer
        ["growth.text.source='null'"],
        ["growth.through.beta1=0.000001"],
        ["practice.pair={beta1: 0, beta2: 0}"],
        ["trajectory.relabel={lr: 1.0, p: [1000]}"],
        ["scale_invariance.fixed_norm.weight_decays=[99]"],
        ["scale_invariance.cosines.lags=[20]"],
        [f"growth.seeds=[{2**63 - 1}]"],
    ],
)
def test_values_at_the_edge_of_what_is_allowed_are_accepted(words):
    config.resolve("smoke", config.parse_assignments(words))


def test_more_shards_than_runs_are_refused_before_any_run(tmp_path, capsys):
    words = ["run", "k_sweep", "--scale", "smoke", "--set", "k_sweep.shards=99", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    message = "ctadam: k_sweep.shards: 99 is not allowed (allowed: integer in [1, 78], the number of runs)\n"
    assert capsys.readouterr().err == message and not (tmp_path / "out").exists()


def test_betas_may_be_integers():
    from ctadam.experiments import configure, load

    parameters = config.resolve("smoke", {"k_sweep": {"beta1": 0}})["k_sweep"]
    assert (load("k_sweep").grid(configure("k_sweep", parameters))["last_beta1"] == 0).all()


def test_later_assignments_overrule_earlier_ones_key_by_key():
    words = ["growth.batch=4", "growth.model={width: 12, heads: 2}", "growth.model={heads: 3}", "growth.batch=5"]
    assert config.parse_assignments(words) == {"growth": {"batch": 5, "model": {"width": 12, "heads": 3}}}


@pytest.mark.parametrize(
    "text, key, line",
    [
        ("quadratic: {grid: 4}\nscale: smoke\nquadratic: {steps: 30}\n", "quadratic", 3),
        ("growth:\n  model:\n    width: 8\n    heads: 2\n    width: 16\n", "width", 5),
        ("generalization:\n  pairs:\n    - {beta1: 0.9, beta1: 0.8}\n", "beta1", 3),
        ("growth:\n  lr: 0.1\n  'lr': 0.2\n", "lr", 3),
    ],
)
def test_a_key_given_twice_is_an_error_at_any_depth(tmp_path, text, key, line):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ArtifactError) as error:
        config.read_yaml(path)
    assert str(error.value).startswith(f"{path}, line {line}: the key '{key}' is given twice")
    assert "\n" not in str(error.value)


def test_a_key_given_twice_in_an_assignment_is_an_error():
    with pytest.raises(ArtifactError) as error:
        config.parse_assignments(["growth.model={width: 8, width: 16}"])
    assert str(error.value) == "'growth.model={width: 8, width: 16}': the key 'width' is given twice"


def test_merge_keys_may_be_overridden(tmp_path):
    (tmp_path / "merged.yaml").write_text(
        "base: &base {x: 1, y: 1}\nmiddle: &middle {<<: *base, x: 2}\ntop: {<<: [*middle, *base], y: 3}\n"
    )
    assert config.read_yaml(tmp_path / "merged.yaml") == {
        "base": {"x": 1, "y": 1},
        "middle": {"x": 2, "y": 1},
        "top": {"x": 2, "y": 3},
    }


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a: [1\n", "is not YAML"),
        (b"a: 2024-13-45\n", "is not YAML"),
        (b"a: 1\n---\nb: 2\n", "is not YAML"),
        (b"- 1\n", "is not a mapping"),
        (b"", "is not a mapping"),
        (b"a: caf\xe9\n", "is not UTF-8 (byte 6)"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as error:
        config.read_yaml(path)
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_a_directory_or_no_file_is_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(ArtifactError, match="cannot read the configuration"):
            config.read_yaml(path)


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "mine.yaml").write_bytes("scale: smoke\n".encode("utf-8-sig"))
    assert config.read_yaml(tmp_path / "mine.yaml") == {"scale": "smoke"}


def snakemake(root, *words):
    """Exit status and output of a dry run in the checkout that asks for one shard of the growth experiment."""
    options = ["--workflow-profile", "none", "--cores", "1", "--nolock", "-n", "-p"]
    shard = "results/fresh/smoke/growth/shard-1-of-2.parquet"
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *options, "-f", shard, *words],
        cwd=root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def test_snakemake_passes_text_on_as_text_and_numbers_as_numbers(root, tmp_path):
    """From a file and from the command line, which overrules it; Snakemake's own parser would drop the quotes."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("scale: smoke\ngrowth: {text: {source: 'null'}, batch: 6, lr: 0.5}\n")
    status, output = snakemake(
        root,
        "--configfile",
        str(mine),
        "--config",
        "device=cpu",
        "growth={lr: 0.25, text: {source: '123'}, model: {heads: 4}}",
    )
    assert status == 0, output
    command = shlex.split(re.search(r"python -m ctadam .* run growth .*", output)[0])
    words = [word for flag, word in itertools.pairwise(command) if flag == "--set"]
    assert config.parse_assignments(words) == {
        "growth": {"text": {"source": "123"}, "batch": 6, "lr": 0.25, "model": {"heads": 4}}
    }
    assert command[command.index("--device") + 1] == "cpu"


def test_snakemake_refuses_a_key_given_twice_in_a_configuration_file(root, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("scale: smoke\ngrowth: {batch: 6}\ngrowth: {lr: 0.5}\n")
    status, output = snakemake(root, "--configfile", str(mine))
    assert status != 0 and f"{mine}, line 3: the key 'growth' is given twice" in output


def test_snakemake_refuses_text_for_a_number(root):
    status, output = snakemake(root, "--config", "scale=smoke", 'growth={"lr": "0.5"}')
    assert status != 0 and "growth.lr: '0.5' is not allowed (allowed: number in (0, inf); this is text" in output
