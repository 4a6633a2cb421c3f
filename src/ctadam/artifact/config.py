"""Read the configuration of a scale, merge the user's changes, and validate the result with the experiments' models.

Snakemake and the command line share these functions, so that a parameter has the same meaning in both.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ctadam.errors import ArtifactError
from ctadam.experiments import EXPERIMENTS, load
from ctadam.storage.manifest import root

if TYPE_CHECKING:
    from pydantic import BaseModel


#: Names of the scales.
SCALES = ("smoke", "laptop", "desk", "paper")
#: The scale whose file is complete, and for each other scale the one that its file differs from.
COMPLETE = "laptop"
BASES = {"smoke": "laptop", "desk": "laptop", "paper": "desk"}


def _merge(base: dict[Any, Any], changes: Mapping[Any, Any], *, null_removes: bool = False) -> None:
    """Merge nested changes into a configuration in place.

    Args:
        base: the configuration.
        changes: the changes. Mappings are merged, other values are replaced.
        null_removes: remove a key whose new value is None.
    """
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value, null_removes=null_removes)
        elif value is None and null_removes:
            base.pop(key, None)
        else:
            base[key] = copy.deepcopy(value)


def _file(scale: str) -> Path:
    """Return the path of a scale's configuration file."""
    if scale not in SCALES:
        raise ArtifactError(f"scale: {scale!r} is not allowed (allowed: {', '.join(SCALES)})")
    return root() / "workflow" / "config" / f"{scale}.yaml"


def read(scale: str) -> dict[str, Any]:
    """Return the complete configuration of a scale, not validated.

    The scale's file is merged into the configuration of its base (`BASES`). Mappings are merged, lists are replaced, and null
    removes a key.

    Raises:
        ArtifactError: if the scale is unknown or its file is not a YAML mapping.
    """
    own = read_yaml(_file(scale))
    if scale == COMPLETE:
        return own
    config = read(BASES[scale])
    _merge(config, own, null_removes=True)
    return config


class _DuplicateKey(Exception):
    """Raised for a duplicate key in a YAML mapping.

    Args:
        key: the key.
        line: line of its second occurrence, counted from 1.
        first: line of its first occurrence.
    """

    def __init__(self, key: str, line: int, first: int) -> None:
        super().__init__(f"the key {key!r} is given twice" + (f", first in line {first}" if first < line else ""))
        self.line = line


@cache
def _loader() -> Any:
    """Return PyYAML's safe loader with an error for duplicate keys, of which PyYAML silently keeps the last."""
    import yaml  # imported here because `ctadam stability` must work without it

    class Loader(yaml.SafeLoader):
        # Checked while nodes are composed, because keys from a merge key (<<) may be overridden later.
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            lines: dict[str, tuple[int, Any]] = {}
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and lines.setdefault(key.value, (line, key))[1] is not key:
                    raise _DuplicateKey(key.value, line, lines[key.value][0])
            return node

    return Loader


def _load(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        _DuplicateKey: if a mapping has a duplicate key.
        yaml.YAMLError: if the text is not YAML.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except (ValueError, RecursionError) as error:  # such as the date 2024-13-45, or a thousand nested brackets
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the YAML mapping in a file.

    Raises:
        ArtifactError: if the file cannot be read, is not UTF-8, is not a YAML mapping, or has a duplicate key.
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


def resolve(scale: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the validated configuration of a scale with the user's changes merged in.

    Args:
        scale: one of `SCALES`.
        changes: nested dict of changed values.

    Raises:
        ArtifactError: if a value is not allowed. The message names the key, its value and what is allowed.
    """
    config = read(scale)
    _merge(config, changes or {})
    check(config)
    if config["scale"] != scale:
        raise ArtifactError(f"scale: {config['scale']!r} is not allowed (allowed: {scale}, which was asked for)")
    return config


def check(config: Mapping[str, Any]) -> None:
    """Validate a complete configuration.

    Raises:
        ArtifactError: for the first value that is not allowed.
    """
    _validate(config, _model())


def check_section(experiment: str, parameters: Mapping[str, Any]) -> None:
    """Validate the parameters of one experiment, see `check`.

    Raises:
        ArtifactError: for the first parameter that is not allowed.
    """
    _validate({experiment: parameters}, _section_model(experiment))


def _validate(config: Mapping[str, Any], model: "type[BaseModel]") -> None:
    """Validate a configuration with a model."""
    from pydantic import ValidationError

    try:
        model.model_validate(config)
    except ValidationError as error:
        first = min(error.errors(include_url=False), key=_rank)
        raise ArtifactError(_explain(first, config, _schema(model))) from None


@cache
def _model() -> "type[BaseModel]":
    """Return the model of a complete configuration with one section per experiment."""
    from pydantic import Field, create_model

    from ctadam.experiments.settings import Settings, String

    fields: dict[str, Any] = {
        "scale": Literal[SCALES],
        "device": (String, Field(description="auto, cpu, cuda, or any other device of torch")),
    }
    # In the order of the complete file.
    names = dict.fromkeys([*(name for name in read(COMPLETE) if name in EXPERIMENTS), *EXPERIMENTS])
    fields |= {name: (load(name, "config").Config, ...) for name in names}
    return create_model("Configuration", __base__=Settings, **fields)


@cache
def _section_model(experiment: str) -> "type[BaseModel]":
    """Return the model of a configuration with one experiment's section only."""
    from pydantic import create_model

    section: dict[str, Any] = {experiment: (load(experiment, "config").Config, ...)}
    return create_model("Section", **section)


@cache
def _schema(model: "type[BaseModel]") -> dict[str, Any]:
    """Return the JSON schema of a model."""
    return model.model_json_schema()


def _is_number(value: Any) -> bool:
    """Return whether a value is an int or float; bool is not a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


#: Error types of pydantic that concern a key instead of a value.
_OF_KEYS = ("extra_forbidden", "invalid_key", "missing")


def _rank(error: Any) -> tuple[bool, int, list[str], bool]:
    """Return the sort key of an error: outer keys first, conflicts between individually valid values last."""
    of_key = error["type"] in _OF_KEYS
    path = error["loc"][:-1] if of_key else error["loc"]
    return error["type"] == "conflict", len(path), list(map(str, path)), error["type"] == "missing"


def _explain(error: Any, config: Any, schema: dict[str, Any]) -> str:
    """Return a one-line message for an error of pydantic: the key, its value and what is allowed."""
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


def _at(schema: dict[str, Any], path: Sequence[Any]) -> dict[str, Any]:
    """Return the subschema of the value at a path, with references resolved."""
    definitions = schema.get("$defs", {})

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        return {**definitions[node["$ref"].rpartition("/")[2]], **node} if "$ref" in node else node

    for part in path:
        schema = resolved(schema["items"] if "items" in schema else schema["properties"][part])
    return schema


def _hint(value: Any, kind: str | None) -> str:
    """Return how to write a value that looks like a common mistake, or an empty string."""
    if kind == "integer" and isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return f"; write {int(value)}"
    if kind in ("integer", "number") and isinstance(value, str):
        try:
            if _is_number(_load(value)):
                return f"; this is text: write {value.strip()} without quotes"
            if math.isfinite(float(value)):
                return "; YAML reads this as text: write 1.0e-3, not 1e-3"
        except Exception:  # the text may be anything, neither YAML nor a number
            return ""
    return ""


def _allowed(schema: dict[str, Any]) -> str:
    """Return a description of the values that a JSON schema allows."""
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind: str = {"object": "a mapping", "array": "a list", "string": "text", "boolean": "true or false"}.get(
        schema.get("type", ""), schema.get("type", "a mapping")
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


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` strings into nested changes.

    Args:
        assignments: strings such as ``growth.lr=0.01``. Values are YAML, and later strings take precedence.

    Raises:
        ArtifactError: if a string has no ``=``, or its value is not YAML or has a duplicate key.
    """
    import yaml

    changes: dict[str, Any] = {}
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


def changes(files: Iterable[str | Path] = (), words: Iterable[str] = ()) -> dict[str, Any]:
    """Return the user's changes as a nested dict.

    Snakemake parses files and words too, but silently drops duplicate keys and turns every number in a word into text.

    Args:
        files: paths of YAML files; later files take precedence.
        words: ``KEY=VALUE`` strings, which take precedence over the files.

    Raises:
        ArtifactError: if a file or a word is not valid.
    """
    changes: dict[str, Any] = {}
    for path in files:
        _merge(changes, read_yaml(path))
    _merge(changes, parse_assignments(words))
    return changes


def _as_yaml(value: Any) -> str:
    """Format a value as one line of YAML. JSON would write 1e-06, which YAML reads as text."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=float("inf")).removesuffix("...\n").strip()


def assignments(scale: str, config: Mapping[str, Any], section: str) -> list[str]:
    """Return how a section of a configuration differs from the scale's file, as ``KEY=VALUE`` strings.

    Args:
        scale: one of `SCALES`.
        config: the configuration.
        section: name of the section, such as an experiment.
    """

    def differences(path: str, old: Any, new: Any) -> Iterator[str]:
        if isinstance(old, dict) and isinstance(new, dict):
            for key, value in new.items():
                yield from differences(f"{path}.{key}", old.get(key), value)
        elif old != new:
            yield f"{path}={_as_yaml(new)}"

    return list(differences(section, read(scale).get(section), config[section]))


def describe(config: Mapping[str, Any], section: str) -> list[tuple[str, str, str, str]]:
    """Return ``(key, value, allowed values, description)`` for each parameter of a section.

    Args:
        config: a valid configuration.
        section: name of the section.
    """
    schema = _schema(_model())

    def rows(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, str, str, str]]:
        node = _at(schema, path)
        if isinstance(value, dict) and "properties" in node:
            for key in value:
                yield from rows((*path, key), value[key])
        else:
            yield ".".join(path), _as_yaml(value), _allowed(node), node.get("description", "")

    return list(rows((section,), config[section]))
