"""The configuration of a scale: found, merged with what the user changed, and checked against the schema.

Snakemake and the command line read it through the same functions, so a parameter means the same in both.
"""

import copy
import json
import logging
from functools import cache
from pathlib import Path

from ctadam.errors import ArtifactError

log = logging.getLogger("ctadam")

SCALES = ("smoke", "laptop", "paper", "cifar_subset")
#: Scales that hold some of the experiments only.
PARTIAL = {"cifar_subset": ("stages", "baselines")}


def root():
    """The artifact's top directory: the current directory or one above it, else the checkout this package lies in.

    Raises:
        ArtifactError: neither holds ``workflow/config``.
    """
    here = Path.cwd()
    for directory in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (directory / "workflow" / "config").is_dir():
            return directory
    raise ArtifactError("no workflow/config here or above: run this in a checkout of the artifact")


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


def read_yaml(path):
    """A YAML mapping from a file, or an `ArtifactError` that names it."""
    import yaml  # here, because `ctadam stability` must work without it

    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"cannot read the configuration {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ArtifactError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{path} is not a mapping of keys to values")
    return config


def resolve(scale, changes=None):
    """The configuration of a scale with the user's changes merged into it, checked.

    Args:
        scale: ``smoke``, ``laptop`` or ``paper``.
        changes: nested dict of keys to replace.

    Raises:
        ArtifactError: one line that names the key, its value and what is allowed.
    """
    config = read(scale)
    _merge(config, changes or {})
    check(config)
    return config


def check(config):
    """Raise an `ArtifactError` for the first key that the schema rejects.

    Without jsonschema, as on a GPU machine where only what the runs need is installed, a warning says so instead.
    """
    try:
        import jsonschema
    except ModuleNotFoundError:
        log.warning("jsonschema is not installed: the configuration is not checked")
        return
    schema = _schema(root())
    if config.get("scale") in PARTIAL:
        schema = {**schema, "required": ["scale", "device", *PARTIAL[config["scale"]]]}
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(
        validator.iter_errors(config), key=lambda e: (len(e.absolute_path), list(map(str, e.absolute_path)))
    )
    if errors:
        raise ArtifactError(_explain(errors[0]))


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
    hint = ""
    if isinstance(error.instance, str) and _is_number(error.instance):
        hint = "; YAML reads this as text: write 1.0e-3, not 1e-3"
    return f"{key}: {error.instance!r} is not allowed (allowed: {_allowed(error.schema)}{hint})"


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def _allowed(schema):
    """What a schema permits, in words."""
    if "$ref" in schema:
        schema = {**_schema(root())["$defs"][schema["$ref"].rsplit("/", 1)[1]], **schema}
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = {"object": "a mapping", "array": "a list", "string": "text"}.get(
        schema.get("type"), schema.get("type", "any value")
    )
    if schema.get("type") in ("number", "integer"):
        low, high = schema.get("minimum"), schema.get("maximum")
        open_low, open_high = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        left = f"[{low}" if low is not None else f"({open_low}" if open_low is not None else "(-inf"
        right = f"{high}]" if high is not None else f"{open_high})" if open_high is not None else "inf)"
        return f"{kind} in {left}, {right}"
    if schema.get("type") == "array" and "items" in schema:
        return f"{kind} of at least {schema.get('minItems', 0)}: each {_allowed(schema['items'])}"
    return kind


def parse_assignments(assignments):
    """``["growth.lr=0.01", …]`` as nested changes; values are YAML.

    Raises:
        ArtifactError: an entry without ``=``, or a value that is no YAML.
    """
    import yaml

    changes = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ArtifactError(f"{text!r} is not KEY=VALUE")
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ArtifactError(f"{text!r}: the value is not YAML") from error
        *path, last = key.split(".")
        node = changes
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ArtifactError(f"{text!r} contradicts an earlier assignment")
        node[last] = value
    return changes


def parse_texts(changes):
    """Nested changes whose values may be text, with every text read as YAML (``"0.01"`` becomes a number)."""
    import yaml

    if isinstance(changes, dict):
        return {key: parse_texts(value) for key, value in changes.items()}
    if isinstance(changes, list):
        return [parse_texts(value) for value in changes]
    if isinstance(changes, str) and changes:  # an empty text is no YAML null
        try:
            return yaml.safe_load(changes)
        except yaml.YAMLError:
            return changes
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
