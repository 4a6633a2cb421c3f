"""Make the archive for a DOI: a tarball of the commit that is checked out, without history, with the same bytes everywhere."""

import subprocess
import tarfile
from pathlib import Path

from ctadam import __version__
from ctadam.errors import ArtifactError
from ctadam.storage.provenance import sha256, write_atomically


def _git(root: Path, *words: str) -> str:
    """Return what a git command prints.

    Raises:
        ArtifactError: if git is missing or fails.
    """
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ArtifactError("the archive is made by git, which is not installed") from error
    if done.returncode:
        raise ArtifactError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout


def archive(root: str | Path, out: str | Path) -> tuple[Path, Path, int]:
    """Write ``ctadam-<version>.tar`` and its sha256.

    The tarball holds the tracked files of the current commit below one directory, shipped results included. Its bytes depend on
    the commit alone: times are the commit's, owners and modes are fixed. It is not compressed, because compressors differ in
    their bytes, and because the raw runs are compressed already.

    Args:
        root: directory of the checkout.
        out: directory for the tarball and the file with its sha256, in the format of ``sha256sum -c``.

    Returns:
        Path of the tarball, path of the file with its sha256, and the number of files in the tarball.

    Raises:
        ArtifactError: if this is no git checkout, tracked files have changes that are not committed, or ``out`` cannot be
            written.
    """
    root, name = Path(root), f"ctadam-{__version__}"
    if not (root / ".git").exists():
        raise ArtifactError(f"{root} is not a git checkout: an archive is made from a commit")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        raise ArtifactError(f"commit or undo the changes first: the archive would lack them ({changed[0].strip()}, …)")
    path = Path(out) / f"{name}.tar"
    # The user's umask for archives and line ends must not matter.
    fixed = ("-c", "tar.umask=0022", "-c", "core.autocrlf=false", "-c", "core.eol=lf")
    write_atomically(
        path, lambda p: _git(root, *fixed, "archive", "--format=tar", f"--prefix={name}/", f"--output={p}", "HEAD")
    )
    digest = path.with_suffix(".tar.sha256")
    line = f"{sha256(path)}  {path.name}\n"
    write_atomically(digest, lambda p: Path(p).write_text(line, encoding="utf-8"))
    with tarfile.open(path) as tar:
        files = sum(member.isfile() for member in tar)
    return path, digest, files
