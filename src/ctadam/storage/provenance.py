"""Atomic writing of results, and the provenance record beside each of them.

A result is written to a temporary name and moved into place, data first and provenance last. A result without provenance is
therefore unfinished and is made again.
"""

import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctadam import __version__
from ctadam.errors import ArtifactError

if TYPE_CHECKING:
    import pandas as pd

# Format of floats in derived tables. Twelve digits exceed the tightest tolerance of a claim and hide rounding differences
# between processors.
FLOAT_FORMAT = "%.12g"
# Packages whose version can change a number.
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "scipy")


def sha256(path: str | Path) -> str:
    """Return the hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: str | Path, write: Callable[[str], object]) -> None:
    """Call ``write(temporary path)`` and move the result to ``path``, which is never half-written.

    Raises:
        ArtifactError: if the directory cannot be created or written, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Keep the suffix, because writers choose their format by it.
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


def environment() -> dict[str, Any]:
    """Return versions, platform, machine and commit of this process, for provenance records."""

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "ctadam": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": machine(),
        "packages": {package: installed(package) for package in PACKAGES},
        "commit": _commit(),
    }


def machine() -> dict[str, Any]:
    """Return the processor's name, its number of cores, and the main memory in bytes; None for what is unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf, and some systems lack these names
        memory = None
    name = names[0] if names else platform.processor() or platform.machine()
    return {"processor": name or None, "cores": os.cpu_count(), "memory": memory}


def max_rss() -> int | None:
    """Return the largest resident memory of this process so far, in bytes; None on Windows."""
    try:
        # Not getrusage, whose maximum on Linux includes the process that started this one.
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ModuleNotFoundError:
        return None
    # macOS counts bytes, other systems kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


#: Environment variables that select git's repository. They are set inside git's own hooks, for example.
_GIT_LOCATION = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)


def _commit() -> str | None:
    """Return the commit of this package with ``-dirty`` if files differ, or None outside a checkout of this artifact.

    Source archives and installed copies often lie inside another repository, whose commit says nothing about them. The
    repository must therefore start at this artifact's root and track this file.
    """
    here = Path(__file__).resolve()
    root = here.parents[-1] if len(here.parents) < 4 else here.parents[3]
    environment = {name: value for name, value in os.environ.items() if name not in _GIT_LOCATION}

    def git(*words: str | Path) -> str:
        command = ["git", "-C", root, *words]
        output = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
        return output.decode("utf-8", "surrogateescape").removesuffix("\n")

    try:
        if not os.path.samefile(git("rev-parse", "--show-toplevel"), root):
            return None
        git("ls-files", "--error-unmatch", "--", here.relative_to(root))
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.CalledProcessError):
        return None


def code_digest(files: Iterable[Path]) -> str:
    """Return one sha256 over source files of the package; it identifies the code of a result, committed or not."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(package).as_posix()}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def now() -> str:
    """Return the time in UTC, to the second, in ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def provenance_path(path: str | Path) -> Path:
    """Return the path of a result's provenance: ``runs.json`` for ``runs.parquet``, in the same directory."""
    return Path(path).with_suffix(".json")


def make_room(path: str | Path) -> None:
    """Check that a result can be written, before hours of training, and invalidate the previous one.

    Raises:
        ArtifactError: if the directory cannot be created or written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        provenance_path(path).unlink(missing_ok=True)
        # A run that was killed while writing leaves its temporary files behind.
        for name in (Path(path).name, provenance_path(path).name):
            for partial in Path(path).parent.glob(f".{name}.*.partial*"):
                partial.unlink(missing_ok=True)
        with tempfile.TemporaryFile(dir=Path(path).parent):
            pass
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror or error}") from error


def write_table(table: "pd.DataFrame", path: str | Path, details: Mapping[str, Any]) -> None:
    """Write a table as Parquet with its provenance beside it.

    Args:
        table: the table; equal tables give equal bytes.
        path: path that ends in ``.parquet``.
        details: parameters, seeds, device, data, times, and the `environment` in which the table was made.
    """
    make_room(path)
    # Neighbouring floats share exponents and high digits, so splitting their bytes saves a third. Dictionaries exclude it.
    floating: Any = "floating"  # pandas-stubs lacks the abstract NumPy types
    floats = [str(name) for name in table.select_dtypes(floating)]
    encoding: dict[str, Any] = {
        "use_byte_stream_split": floats,
        "use_dictionary": [str(name) for name in table if name not in floats],
    }
    write_atomically(path, lambda p: table.to_parquet(p, index=False, compression="zstd", **encoding))
    _write_record(path, table, details)


def write_derived(table: "pd.DataFrame", path: str | Path, sources: Mapping[str, str]) -> None:
    """Write a derived table as CSV, with a record beside it of its sha256 and its sources.

    The record holds no time, version or commit, so equal data give equal bytes.

    Args:
        table: the table.
        path: path that ends in ``.csv``.
        sources: ``{name: sha256}`` of the files that the table was made from.
    """
    make_room(path)
    write_atomically(path, lambda p: table.to_csv(p, index=False, float_format=FLOAT_FORMAT))
    _write_record(path, table, {"made_from": sources})


def _write_record(path: str | Path, table: "pd.DataFrame", details: Mapping[str, Any]) -> None:
    record = {"file": Path(path).name, "sha256": sha256(path), "rows": len(table), **details}
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_atomically(provenance_path(path), lambda p: Path(p).write_text(text, encoding="utf-8"))


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Return the provenance of a result.

    Raises:
        ArtifactError: if it is missing, not JSON, or without a sha256.
    """
    beside = provenance_path(path)
    try:
        record = json.loads(beside.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path} has no provenance ({beside}): the run that wrote it did not finish") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{beside} is damaged: {error}") from error
    if not isinstance(record, dict) or "sha256" not in record:
        raise ArtifactError(f"{beside} is damaged: it has no sha256")
    return record


def is_complete(path: str | Path) -> bool:
    """Return whether a result exists and its sha256 is the one in its provenance."""
    try:
        return read_provenance(path)["sha256"] == sha256(path)
    except (ArtifactError, OSError):
        return False
