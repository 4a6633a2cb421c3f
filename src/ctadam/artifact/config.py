"""Read the configuration of a scale, merge the user's changes into it, and validate it with the experiments' models.

Snakemake and the command line use the same functions, so a parameter means the same in both.
"""

import copy
import logging
import math
from functools import cache
from pathlib import Path
from typing import Literal

from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS, load
from ctadam.storage.manifest import root

log = logging.getLogger("ctadam")

SCALES = ("smoke", "laptop", "paper", "cifar_subset")
#: The scale whose file is complete; the files of the others hold only what differs from it.
COMPLETE = "laptop"


def _merge(base, changes, *, null_removes=False):
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value, null_removes=null_removes)
        elif value is None and null_removes:
            base.pop(key, None)
        else:
            base[key] = copy.deepcopy(value)


def _file(scale):
    if scale not in SCALES:
        raise ArtifactError(f"scale: {scale!r} is not allowed (allowed: {', '.join(SCALES)})")
    return root() / "workflow" / "config" / f"{scale}.yaml"


def read(scale):
    """Return the complete configuration of a scale: its file merged onto that of `COMPLETE`, not validated.

    Mappings are merged, lists are replaced, and null removes a key. A list ``experiments`` names the experiments of a scale that
    does not hold all of them.

    Raises:
        ArtifactError: the scale is unknown, or its file is not a YAML mapping.
    """
    path = _file(scale)
    config = read_yaml(_file(COMPLETE))
    if scale == COMPLETE:
        return config
    own = read_yaml(path)
    names = own.pop("experiments", None)
    if names is not None:
        unknown = [name for name in names if name not in EXPERIMENTS]
        if unknown:
            raise ArtifactError(
                f"{path}: experiments: {unknown[0]!r} is not allowed (allowed: {', '.join(EXPERIMENTS)})"
            )
        config = {key: value for key, value in config.items() if key not in EXPERIMENTS or key in names}
    _merge(config, own, null_removes=True)
    return config


def experiments(scale):
    """Return the names of the experiments that a scale holds, in the order of the complete file."""
    return [name for name in read(scale) if name in EXPERIMENTS]


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
    """Raise an `ArtifactError` for the first value of a whole configuration that is not allowed.

    Without pydantic, as on a GPU machine where only what the runs need is installed, a warning says so, and only NaN
    and infinity are refused.
    """
    scale = config.get("scale")
    _validate(config, lambda: _model(scale if scale in SCALES else None))


def check_section(experiment, parameters):
    """Raise an `ArtifactError` for the first parameter of an experiment that is not allowed; see `check`."""
    _validate({experiment: parameters}, lambda: _section_model(experiment))


def _validate(config, make_model):
    try:
        from pydantic import ValidationError
    except ModuleNotFoundError:
        log.warning("pydantic is not installed: the configuration is not checked, except for NaN and infinity")
        for key, value in _numbers(config):
            if not _is_finite(value):
                raise ArtifactError(f"{key}: {value!r} is not allowed (allowed: a finite number)") from None
        return
    model = make_model()
    try:
        model.model_validate(config)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=_rank)
        raise ArtifactError(_explain(first, config, _schema(model))) from None


@cache
def _model(scale):
    """Return the model of a whole configuration: one section per experiment, required unless the scale does without."""
    from pydantic import Field, create_model

    from ctadam.experiments.settings import Settings, String

    known = experiments(COMPLETE)
    known += [name for name in EXPERIMENTS if name not in known]
    required = known if scale is None else experiments(scale)
    sections = {name: (load(name, "config").Config, ... if name in required else Field(default=None)) for name in known}
    device = Field(description="auto, cpu, cuda, or any other device of torch")
    return create_model("Configuration", __base__=Settings, scale=Literal[SCALES], device=(String, device), **sections)


@cache
def _section_model(experiment):
    from pydantic import create_model

    return create_model("Section", **{experiment: (load(experiment, "config").Config, ...)})


@cache
def _schema(model):
    return model.model_json_schema()


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


#: Error types of pydantic that concern a key of a mapping instead of a value, before those that concern values.
_OF_KEYS = ("extra_forbidden", "invalid_key", "missing")


def _rank(error):
    """Sort errors: outer ones first, conflicts between values that are valid by themselves last."""
    of_key = error["type"] in _OF_KEYS
    path = error["loc"][:-1] if of_key else error["loc"]
    return error["type"] == "conflict", len(path), list(map(str, path)), error["type"] == "missing"


def _explain(error, config, schema):
    """Return one line for an error of pydantic: the key, its value and what is allowed."""
    kind, details, path = error["type"], error.get("ctx", {}), error["loc"]
    if details.get("key"):
        path += tuple(details["key"].split("."))
    key = ".".join(map(str, path))
    if kind in ("extra_forbidden", "invalid_key"):
        node, known = config, _at(schema, path[:-1])["properties"]
        for part in path:
            node = node[part]
        return f"{key}: {node!r} is not allowed (unknown key; known: {', '.join(known)})"
    if kind == "conflict":
        return f"{key}: {details['value']!r} is not allowed (allowed: {details['allowed']})"
    schema = _at(schema, path)
    if kind in ("missing", "lacking"):
        return f"{key}: missing (allowed: {_allowed(schema)})"
    value = error["input"]
    hint = "; no two equal" if kind == "unique" else _hint(value, schema.get("type"))
    return f"{key}: {value!r} is not allowed (allowed: {_allowed(schema)}{hint})"


def _at(schema, path):
    """Return the part of a JSON schema that describes the value at a path, with references resolved."""
    definitions = schema.get("$defs", {})

    def resolved(node):
        return {**definitions[node["$ref"].rpartition("/")[2]], **node} if "$ref" in node else node

    for part in path:
        schema = resolved(schema["items"] if "items" in schema else schema["properties"][part])
    return schema


def _hint(value, kind):
    """Return how to write the value, where it looks like a common mistake."""
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
    """Return what a JSON schema permits, in words."""
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = {"object": "a mapping", "array": "a list", "string": "text", "boolean": "true or false"}.get(
        schema.get("type"), schema.get("type", "a mapping")
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
        count = "" if high is None and not low else f" of {low if low == high else f'at least {low}'}"
        return f"{kind}{count}: each {_allowed(schema['items'])}"
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


def _as_yaml(value):
    """Return a value in one line of YAML. JSON would write 1e-06, which YAML reads as text."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()


def assignments(scale, config, section):
    """Return what ``config`` changes in one section of a scale's configuration, as ``KEY=VALUE`` words."""

    def differences(path, old, new):
        if isinstance(old, dict) and isinstance(new, dict):
            for key, value in new.items():
                yield from differences(f"{path}.{key}", old.get(key), value)
        elif old != new:
            yield f"{path}={_as_yaml(new)}"

    return list(differences(section, read(scale).get(section), config[section]))


def describe(config, section):
    """Return ``(key, value, what is allowed, description)`` for each parameter of a section of a valid configuration."""
    schema = _schema(_model(config["scale"]))

    def rows(path, value):
        node = _at(schema, path)
        if isinstance(value, dict) and "properties" in node:
            for key in value:
                yield from rows((*path, key), value[key])
        else:
            yield ".".join(path), _as_yaml(value), _allowed(node), node.get("description", "")

    return list(rows((section,), config[section]))
