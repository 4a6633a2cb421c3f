"""The configuration: all scales valid, and every mistake one line that names key, value and what is allowed."""

import copy

import pytest

from ctadam import config
from ctadam.errors import ArtifactError


@pytest.mark.parametrize("scale", config.SCALES)
def test_every_scale_is_valid_and_says_its_name(scale):
    assert config.resolve(scale)["scale"] == scale


def test_scales_share_one_structure():
    def keys(node, path=""):
        if isinstance(node, dict):
            return {k for key, value in node.items() for k in keys(value, f"{path}.{key}")}
        return {path}

    assert keys(config.read("smoke")) == keys(config.read("laptop")) == keys(config.read("paper"))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"growth": {"sedes": [1]}}, "growth.sedes: [1] is not allowed (unknown key; known: shards"),
        ({"grwth": {}}, "grwth: {} is not allowed (unknown key; known: scale, device, trajectory"),
        ({"growth": {"lr": 0}}, "growth.lr: 0 is not allowed (allowed: number in (0, inf))"),
        ({"growth": {"lr": "1e-3"}}, "write 1.0e-3"),
        ({"growth": {"steps": 10.5}}, "growth.steps: 10.5 is not allowed (allowed: integer in [10, inf))"),
        ({"growth": {"through": {"beta1": 1}}}, "growth.through.beta1: 1 is not allowed (allowed: number in [0, 1))"),
        ({"practice": {"pair": {"beta2": -0.1}}}, "practice.pair.beta2: -0.1 is not allowed (allowed: number in [0, 1))"),
        ({"practice": {"state_dtypes": ["half"]}}, "'half' is not allowed (allowed: float32, float64)"),
        ({"growth": {"seeds": []}}, "growth.seeds: [] is not allowed (allowed: a list of at least 1: each integer in [0, inf))"),
        ({"growth": 3}, "growth: 3 is not allowed (allowed: a mapping)"),
        ({"scale": "tiny"}, "scale: 'tiny' is not allowed (allowed: smoke, laptop, paper, cifar_subset)"),
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
    resolved = config.resolve("cifar_subset")
    assert "text" not in resolved["baselines"]
    resolved["baselines"]["steps"]["text"] = 5
    with pytest.raises(ArtifactError, match=r"baselines.text: missing \(allowed: a mapping\)"):
        config.check(resolved)


def test_a_scale_may_hold_some_experiments_but_must_hold_those():
    resolved = config.resolve("cifar_subset")
    assert set(resolved) == {"scale", "device", *config.PARTIAL["cifar_subset"]}
    del resolved["stages"]
    with pytest.raises(ArtifactError, match=r"stages: missing \(allowed: a mapping\)"):
        config.check(resolved)


def test_unknown_scale():
    with pytest.raises(ArtifactError, match="'huge' is not allowed"):
        config.resolve("huge")


def test_assignments_say_changes_again():
    changes = {"practice": {"lr": 0.01, "long": {"steps": 20}, "eps": [0.0, 1e-6], "text": "a file's name.txt"}}
    resolved = config.resolve("smoke", changes)
    words = config.assignments("smoke", resolved, "practice")
    assert config.parse_assignments(words) == changes
    assert config.resolve("smoke", config.parse_assignments(words)) == resolved
    assert config.assignments("smoke", resolved, "tightness") == []


def test_nested_texts_become_values():
    given = {"a": {"b": "0.5", "c": ["1", "x"]}, "d": 2, "e": ""}
    assert config.parse_texts(given) == {"a": {"b": 0.5, "c": [1, "x"]}, "d": 2, "e": ""}


def test_yaml_that_cannot_be_read(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    for name, message in (("broken.yaml", "is not YAML"), ("list.yaml", "not a mapping"), ("none.yaml", "cannot read")):
        with pytest.raises(ArtifactError, match=message):
            config.read_yaml(tmp_path / name)
