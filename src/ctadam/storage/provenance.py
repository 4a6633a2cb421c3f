"""Where a result came from, written beside it; and the one way in which results get to disk.

A result is written to a temporary name and moved into place, data first and provenance last: a result without
provenance was not finished and is made again.
"""

import datetime
import hashlib
import json
import os
import platform
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ctadam import __version__
from ctadam.errors import ArtifactError

# Of derived tables. Twelve digits: more than the tightest tolerance of a claim, fewer than the rounding of different processors.
FLOAT_FORMAT = "%.12g"
# Packages whose version can change a number.
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "scipy")


def sha256(path):
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path, write):
    """Call ``write(temporary path)`` and move the result to ``path``, which is therefore never half-written.

    Raises:
        ArtifactError: the directory cannot be made or written, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Same suffix, because writers choose their format by it.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".partial{path.suffix}", dir=path.parent)
        os.close(handle)
        write(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def environment():
    """Versions, platform and commit of this process, for a provenance."""

    def installed(package):
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "ctadam": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: installed(package) for package in PACKAGES},
        "commit": _commit(),
    }


#: What git reads from the environment about which repository it works on; set, for example, inside git's own hooks.
_GIT_LOCATION = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE",
    "GIT_REPLACE_REF_BASE", "GIT_NO_REPLACE_OBJECTS", "GIT_IMPLICIT_WORK_TREE", "GIT_INTERNAL_SUPER_PREFIX",
)  # fmt: skip


def _commit():
    """The commit this package is run from, ``-dirty`` if files differ from it; None outside a checkout of this artifact.

    Sources from an archive and installed copies often lie inside another repository, whose commit says nothing about
    them. So the repository must begin at this artifact's root, and track this file.
    """
    here = Path(__file__).resolve()
    root = here.parents[-1] if len(here.parents) < 4 else here.parents[3]
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_LOCATION}

    def git(*words):
        return subprocess.run(
            ["git", "-C", root, *words], capture_output=True, encoding="utf-8", errors="surrogateescape", check=True,
            env=environment,
        ).stdout.removesuffix("\n")  # fmt: skip

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), root):
            return None
        git("ls-files", "--error-unmatch", "--", here.relative_to(root))
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.CalledProcessError):
        return None


def code_digest(files):
    """Return one sha256 over source files of the package: which code made a result, committed or not."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(package).as_posix()}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def now():
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def provenance_path(path):
    """The provenance of ``runs.parquet`` is ``runs.json``, in the same directory."""
    return Path(path).with_suffix(".json")


def make_room(path):
    """Make sure that a result can be written, before hours are spent on it, and void what was there.

    Raises:
        ArtifactError: the directory cannot be made or written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        provenance_path(path).unlink(missing_ok=True)
        # A run that was killed while it wrote could not remove what it had begun.
        for name in (Path(path).name, provenance_path(path).name):
            for begun in Path(path).parent.glob(f".{name}.*.partial*"):
                begun.unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}") from error


def write_table(table, path, details):
    """Write a table as Parquet with its provenance beside it.

    Args:
        table: DataFrame; the same table gives the same bytes.
        path: ``….parquet``.
        details: parameters, seeds, device, data, times, and the `environment` in which it was made.
    """
    make_room(path)
    # Exponents and high digits of neighbouring numbers are alike: byte after byte they compress a third better than number
    # after number. A dictionary would take the place of that.
    floats = [str(name) for name in table.select_dtypes("floating")]
    encoding = {"use_byte_stream_split": floats, "use_dictionary": [str(name) for name in table if name not in floats]}
    write_atomically(path, lambda p: table.to_parquet(p, index=False, compression="zstd", **encoding))
    _write_record(path, table, details)


def write_derived(table, path, sources):
    """Write a derived table as CSV, with a record beside it of its sha256 and of what it was made from.

    The record holds no time, version or commit: the same data give the same bytes.

    Args:
        table: DataFrame.
        path: ``….csv``.
        sources: ``{name: sha256}`` of the files it was made from.
    """
    make_room(path)
    write_atomically(path, lambda p: table.to_csv(p, index=False, float_format=FLOAT_FORMAT))
    _write_record(path, table, {"made_from": sources})


def _write_record(path, table, details):
    record = {"file": Path(path).name, "sha256": sha256(path), "rows": len(table), **details}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_atomically(provenance_path(path), lambda p: Path(p).write_text(text, encoding="utf-8"))


def read_provenance(path):
    """The provenance of a result.

    Raises:
        ArtifactError: it is missing, is no JSON, or does not say which bytes it speaks of.
    """
    beside = provenance_path(path)
    try:
        record = json.loads(beside.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path} has no provenance ({beside}): the run that wrote it did not finish") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{beside} is damaged: {error}") from error
    if not isinstance(record, dict) or "sha256" not in record:
        raise ArtifactError(f"{beside} is damaged: it holds no sha256")
    return record


def is_complete(path):
    """Whether a result is there, whole: its bytes are those that its provenance speaks of."""
    try:
        return read_provenance(path)["sha256"] == sha256(path)
    except (ArtifactError, OSError):
        return False
