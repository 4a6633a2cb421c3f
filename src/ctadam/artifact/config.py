"""The configuration of a scale: found, merged with what the user changed, and checked against the schema.

Snakemake and the command line read it through the same functions, so a parameter means the same in both.
"""

import copy
import json
import logging
import math
from functools import cache
from pathlib import Path

from ctadam.errors import ArtifactError
from ctadam.storage.manifest import root

log = logging.getLogger("ctadam")

SCALES = ("smoke", "laptop", "paper", "cifar_subset")
#: Numbers that are larger, or whose inverse is, mean nothing in any setting, and their powers leave float32.
LARGEST = 1e18
#: Scales that hold some of the experiments only.
PARTIAL = {"cifar_subset": ("k_sweep", "baselines")}


@cache
def _schema(directory):
    return json.loads((directory / "workflow" / "schemas" / "config.schema.json").read_text(encoding="utf-8"))


def _merge(base, changes):
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = copy.deepcopy(value)


def read(scale):
    """The configuration file of a scale as it stands, unchecked.

    Raises:
        ArtifactError: an unknown scale or a file that is no YAML mapping.
    """
    if scale not in SCALES:
        raise ArtifactError(f"scale: {scale!r} is not allowed (allowed: {', '.join(SCALES)})")
    path = root() / "workflow" / "config" / f"{scale}.yaml"
    return read_yaml(path)


class _DuplicateKey(Exception):
    """A key that stands twice in one YAML mapping."""

    def __init__(self, key, line, first):
        super().__init__(f"the key {key!r} is given twice" + (f", first in line {first}" if first < line else ""))
        self.line = line


@cache
def _loader():
    """Return PyYAML's safe loader, made strict: it would keep the last of two equal keys and drop the other silently."""
    import yaml  # here, because `ctadam stability` must work without it

    class Loader(yaml.SafeLoader):
        # While nodes are composed: later, merge keys (<<) have been replaced by what they bring, which may be overridden.
        def compose_mapping_node(self, anchor):
            node = super().compose_mapping_node(anchor)
            lines = {}
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, (line, key))[1] is not key:
                    raise _DuplicateKey(key.value, line, lines[key.value][0])
            return node

    return Loader


def _load(text):
    """Return the value of a YAML text.

    Raises:
        _DuplicateKey: a mapping has a key twice.
        yaml.YAMLError: the text is not YAML.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except (ValueError, RecursionError) as error:  # a date such as 2024-13-45, a thousand brackets
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path):
    """Read a YAML mapping from a file.

    Raises:
        ArtifactError: the file cannot be read, is not UTF-8 or not a YAML mapping, or has a key twice.
    """
    import yaml

    try:
        config = _load(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ArtifactError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is not UTF-8 (byte {error.start})") from error
    except _DuplicateKey as error:
        raise ArtifactError(f"{path}, line {error.line}: {error}") from error
    except yaml.YAMLError as error:
        raise ArtifactError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{path} is not a mapping of keys to values")
    return config


def resolve(scale, changes=None):
    """The configuration of a scale with the user's changes merged into it, checked.

    Args:
        scale: one of `SCALES`.
        changes: nested dict of keys to replace.

    Raises:
        ArtifactError: one line that names the key, its value and what is allowed.
    """
    config = read(scale)
    _merge(config, changes or {})
    check(config)
    if config["scale"] != scale:
        raise ArtifactError(f"scale: {config['scale']!r} is not allowed (allowed: {scale}, which was asked for)")
    return config


def check(config):
    """Raise an `ArtifactError` for the first value that is not allowed.

    Without jsonschema, as on a GPU machine where only what the runs need is installed, a warning says so, and only NaN
    and infinity are refused.
    """
    try:
        validator = _validator()
    except ModuleNotFoundError:
        log.warning("jsonschema is not installed: the configuration is not checked, except for NaN and infinity")
        for key, value in _numbers(config):
            if not _is_finite(value):
                raise ArtifactError(f"{key}: {value!r} is not allowed (allowed: a finite number)") from None
        return
    schema = _schema(root())
    if config.get("scale") in list(PARTIAL):  # a list, because a mistaken scale may be unhashable
        schema = {**schema, "required": ["scale", "device", *PARTIAL[config["scale"]]]}
    errors = sorted(
        validator(schema).iter_errors(config),
        key=lambda e: (len(e.absolute_path), list(map(str, e.absolute_path))),
    )
    if errors:
        raise ArtifactError(_explain(errors[0]))
    for key, value, allowed in _conflicts(config):
        raise ArtifactError(f"{key}: {value!r} is not allowed (allowed: {allowed})")


def _validator():
    """Return jsonschema's validator with strict numbers: it would take 2.0 for an integer, and infinity for a number."""
    from jsonschema import Draft202012Validator, validators

    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda checker, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda checker, value: _is_number(value) and _is_finite(value),
        }
    )
    return validators.extend(Draft202012Validator, type_checker=types)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False


def _numbers(node, path=()):
    """Yield ``(key, value)`` for every number at any depth."""
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _numbers(value, (*path, key))
    elif _is_number(node):
        yield ".".join(map(str, path)), node


def _conflicts(config):
    """Yield ``(key, value, what is allowed)`` for every value that is in its own range but does not go with another one."""
    for key, value in _numbers(config):
        if isinstance(value, int) and value >= 2**63:
            yield key, value, "an integer below 2^63"
        elif isinstance(value, float) and (abs(value) > LARGEST or 0 < abs(value) < 1 / LARGEST):
            yield key, value, f"0, or a size from {1 / LARGEST:g} to {LARGEST:g}"
    for key, settings in _mappings(config):
        if {"width", "heads"} <= settings.keys() and settings["width"] % settings["heads"]:
            yield f"{key}.heads", settings["heads"], f"a divisor of width, {settings['width']}"
        if key.endswith(".through"):
            # On an edge of the unit square the normal curve has no points; this close to one, float64 finds none.
            for name, beta in settings.items():
                if not 1e-6 <= beta <= 1 - 1e-6:
                    yield f"{key}.{name}", beta, "number in [1e-06, 0.999999], for a normal curve through the pair"
    for section, conflicts in _CONFLICTS.items():
        if section in config:
            for key, value, allowed in conflicts(config[section]):
                yield f"{section}.{key}", value, allowed


def _mappings(node, path=()):
    """Yield ``(key, mapping)`` for every mapping below the top, at any depth."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict):
            yield ".".join((*path, key)), value
            yield from _mappings(value, (*path, key))


def _trajectory(section):
    picture, relabel = section["picture"], section["relabel"]
    if picture["lr"] not in section["lrs"]:
        yield "picture.lr", picture["lr"], f"one of lrs, {section['lrs']}"
    # Beyond these powers the unit of time, lr^p, leaves float64.
    largest = 100 / max(abs(math.log10(relabel["lr"])), 1e-9)
    for i, p in enumerate(relabel["p"]):
        if abs(p) > largest:
            allowed = f"number in [{-largest:.3g}, {largest:.3g}] with relabel.lr {relabel['lr']:g}"
            yield f"relabel.p.{i}", p, allowed


def _generalization(section):
    for task in ("text", "images"):
        lr, lrs = section[task]["lr"], section[task]["lrs"]
        if lr not in lrs:
            yield f"{task}.lr", lr, f"one of lrs, {lrs}"


def _practice(section):
    pair, long = section["pair"], section["long"]
    if pair["beta2"] == 0 < pair["beta1"]:  # the cap that ε sets to the growth has no formula there
        yield "pair.beta2", pair["beta2"], "number in (0, 1), unless beta1 is 0"
    for i, point in enumerate(long["points"]):
        if point >= long["of"]:
            yield f"long.points.{i}", point, f"integer below long.of, {long['of']}"


def _scale_invariance(section):
    models, pair, lags = section["models"], section["pair"], section["cosines"]["lags"]
    for key, settings in {"pair": pair, **{f"models.{name}": model for name, model in models.items()}}.items():
        lr = max(settings["lrs"])
        for i, decay in enumerate(settings["weight_decays"]):
            if lr * decay >= 1:  # a step would turn the weight to its opposite, and the laws of the norm end there
                yield f"{key}.weight_decays.{i}", decay, f"number in [0, {1 / lr:g}), 1 over the largest of lrs"
    if not any(pair["weight_decays"]):
        yield "pair.weight_decays", pair["weight_decays"], "a list with a number above 0"
    steps = max(model["steps"] for model in models.values())
    if not any(1 <= lag <= steps for lag in lags):
        yield "cosines.lags", lags, f"a list with a lag from 1 to {steps}, the most steps of a model"


#: Per experiment, the conflicts between values of its section.
_CONFLICTS = {
    "trajectory": _trajectory,
    "generalization": _generalization,
    "practice": _practice,
    "scale_invariance": _scale_invariance,
}


def _explain(error):
    """One line for a schema violation, instead of jsonschema's dump of the schema."""
    key = ".".join(map(str, error.absolute_path))
    prefix = f"{key}." if key else ""
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = next(name for name in error.instance if name not in known)
        return f"{prefix}{unknown}: {error.instance[unknown]!r} is not allowed (unknown key; known: {', '.join(known)})"
    if error.validator == "required":
        lacking = next(name for name in error.validator_value if name not in error.instance)
        return f"{prefix}{lacking}: missing (allowed: {_allowed(error.schema['properties'][lacking])})"
    return f"{key}: {error.instance!r} is not allowed (allowed: {_allowed(error.schema)}{_hint(error)})"


def _hint(error):
    """Return how to write the value, where a likely mistake can be told from it."""
    value, kind = error.instance, error.schema.get("type")
    if error.validator == "uniqueItems":
        return "; no two equal"
    if kind == "integer" and isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return f"; write {int(value)}"
    if kind in ("integer", "number") and isinstance(value, str):
        try:
            if _is_number(_load(value)):
                return f"; this is text: write {value.strip()} without quotes"
            if math.isfinite(float(value)):
                return "; YAML reads this as text: write 1.0e-3, not 1e-3"
        except Exception:  # any text at all: neither YAML nor a number
            return ""
    return ""


def _allowed(schema):
    """What a schema permits, in words."""
    if "$ref" in schema:
        schema = {**_schema(root())["$defs"][schema["$ref"].rsplit("/", 1)[1]], **schema}
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = {"object": "a mapping", "array": "a list", "string": "text", "boolean": "true or false"}.get(
        schema.get("type"), schema.get("type", "any value")
    )
    if schema.get("type") in ("number", "integer"):
        low, high = schema.get("minimum"), schema.get("maximum")
        open_low, open_high = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        left = f"[{low}" if low is not None else f"({open_low}" if open_low is not None else "(-inf"
        right = f"{high}]" if high is not None else f"{open_high})" if open_high is not None else "inf)"
        multiple = f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
        other = f", not {schema['not']['const']}" if "not" in schema else ""
        return f"{kind} in {left}, {right}{multiple}{other}"
    if schema.get("type") == "array" and "items" in schema:
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        return f"{kind} of {low if low == high else f'at least {low}'}: each {_allowed(schema['items'])}"
    return kind


def parse_assignments(assignments):
    """Return ``["growth.lr=0.01", …]`` as nested changes; values are YAML, and later ones overrule earlier ones.

    Raises:
        ArtifactError: an entry without ``=``, or a value that is not YAML or has a key twice.
    """
    import yaml

    changes = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ArtifactError(f"{text!r} is not KEY=VALUE")
        try:
            nested = _load(value)
        except _DuplicateKey as error:
            raise ArtifactError(f"{text!r}: {error}") from error
        except yaml.YAMLError as error:
            raise ArtifactError(f"{text!r}: the value is not YAML") from error
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(changes, nested)
    return changes


def changes(files=(), words=()):
    """Return what the user changes: the contents of YAML files, overruled by ``KEY=VALUE`` words.

    Snakemake parses both too, but drops the first of two equal keys and turns every number in a word into text.
    """
    changes = {}
    for path in files:
        _merge(changes, read_yaml(path))
    _merge(changes, parse_assignments(words))
    return changes


def assignments(scale, config, section):
    """What ``config`` changes in one section of a scale's file, as the ``KEY=VALUE`` words that say it again."""

    import yaml

    def differences(path, old, new):
        if isinstance(old, dict) and isinstance(new, dict):
            for key, value in new.items():
                yield from differences(f"{path}.{key}", old.get(key), value)
        elif old != new:
            # YAML's own form: JSON writes 1e-06, which YAML reads as text.
            text = yaml.safe_dump(new, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()
            yield f"{path}={text}"

    return list(differences(section, read(scale).get(section), config[section]))
