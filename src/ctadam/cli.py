"""The command line. Every rule of the workflow is one of these commands, and any of them can be typed by hand.

``ctadam stability`` answers for a pair of betas; ``run``, ``predict``, ``measure``, ``draw`` and ``judge`` are the five
stages; ``promote`` turns fresh results into shipped ones, ``results`` lists those, and ``verify`` checks them; ``config``
lists the parameters.
"""

import argparse
import contextlib
import errno
import linecache
import logging
import os
import sys
import time
import traceback
from pathlib import Path

from ctadam import __version__
from ctadam.errors import ArtifactError

log = logging.getLogger("ctadam")

# Imports of anything heavy stand inside the commands: asking about two betas should not wait for torch.


def _decimal(value):
    """A float as short as it can be typed without becoming another one."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _stability(args):
    import numpy as np

    from ctadam.theory import stability

    beta1, beta2 = args.betas
    pair = {"beta1": beta1, "beta2": beta2}
    try:
        c = {law: stability.stability_coefficient(**pair, law=law) for law in ("paper", "exact")}
    except ValueError as error:
        raise ArtifactError(f"--betas: {error}") from error
    rate = {law: stability.growth_rate(**pair, law=law) for law in c}
    verdict = stability.verdict(**pair)
    rows = [
        ("betas", f"beta1 = γ = {_decimal(beta1)}, beta2 = β = {_decimal(beta2)}"),
        ("C (paper)", f"{c['paper']:.6g}"),
        ("exact coefficient", f"{c['exact']:.6g}"),
        ("verdict", verdict.value),
    ]

    def bound(step):
        exact, paper = (stability.update_bound(**pair, step=step, law=law) for law in ("exact", "paper"))
        return f"{exact:.6g} (paper's law: {paper:.6g})"

    rows.append(("bound on |u|, any step", bound(np.inf)))
    if args.steps is not None:
        # Python's whole numbers go beyond float64's range.
        rows.append((f"bound on |u|, step {args.steps}", bound(float(min(args.steps - 1, sys.float_info.max)))))
    rows.append(("growth rate per step", f"{rate['exact']:.6g} (paper's law: {rate['paper']:.6g})"))
    nearest = stability.nearest_stable_beta2(**pair)
    if np.isnan(nearest):
        rows.append(("nearest stable beta2", "none: this beta1 is too close to 1 for any float64 below 1"))
    else:
        rows.append(("nearest stable beta2", _decimal(nearest) + (" (yours)" if nearest == beta2 else "")))
    swapped = {"beta1": beta2, "beta2": beta1}
    if (
        beta1 > beta2
        and verdict is stability.Verdict.UNSTABLE
        and stability.verdict(**swapped) is stability.Verdict.STABLE
    ):
        steps = "" if args.steps is None else f" --steps {args.steps}"
        rows.append(
            (
                "hint",
                "the order is torch's (beta1, beta2), the opposite of the paper's (β, γ); if you meant the other: "
                f"ctadam stability --betas {_decimal(beta2)} {_decimal(beta1)}{steps}",
            )
        )
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _experiments(resolved):
    """The experiments that a configuration holds."""
    from ctadam.experiments import EXPERIMENTS

    return [name for name in EXPERIMENTS if name in resolved]


def _check_held(resolved, experiment):
    if experiment not in resolved:
        held = ", ".join(_experiments(resolved))
        raise ArtifactError(f"the scale {resolved['scale']} has no {experiment} (it has {held})")


def _config(args):
    from ctadam.artifact import config

    resolved = config.resolve(args.scale)
    if args.experiment:
        _check_held(resolved, args.experiment)
    rows = [
        row
        for experiment in ([args.experiment] if args.experiment else _experiments(resolved))
        for row in config.describe(resolved, experiment)
    ]
    # The longest lists run over, each in its own line.
    widths = [max(len(cell) for cell in cells if len(cell) <= 64) for cells in list(zip(*rows, strict=True))[:-1]]
    for *cells, description in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), description]))


def _run(args):
    from ctadam.artifact import config, runner
    from ctadam.storage.manifest import refuse_shipped

    resolved = config.resolve(args.scale, config.parse_assignments(args.set))
    _check_held(resolved, args.experiment)
    results = Path(args.out or f"results/fresh/{args.scale}")
    refuse_shipped(results)
    runner.run(
        args.experiment, resolved[args.experiment], results / args.experiment,
        scale=args.scale, device=args.device or resolved["device"], shard=args.shard,
    )  # fmt: skip


def _derive(args, name):
    """Write one derived table of an experiment."""
    from ctadam.artifact import derive
    from ctadam.storage.manifest import refuse_shipped

    refuse_shipped(args.results)
    with _columns(args.results):
        log.info("%s: %d rows", *derive.write(args.results, args.experiment, name))


@contextlib.contextmanager
def _columns(results):
    """Report a lookup that failed in one line: in a table of results, or in one of the tables that the code holds."""
    try:
        yield
    except (KeyError, NameError) as error:  # NameError: pandas' query
        if isinstance(error, NameError) and not type(error).__module__.startswith("pandas"):
            raise
        log.debug("", exc_info=True)
        constant = _constant(error)
        if constant:
            raise ArtifactError(f"{constant} has no entry for {error}: add one") from error
        raise ArtifactError(
            f"a table in {results} lacks what this code asks for ({error}): it was made by other code; make it again"
        ) from error


def _constant(error):
    """File and name of the constant of this package, such as ``AVERAGES``, in which a key was not found; None if the
    lookup was another one, such as that of a column in a table."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    package = Path(__file__).parent
    if not Path(frame.filename).is_relative_to(package) or frame.colno is None or frame.end_lineno != frame.lineno:
        return None
    # Columns are counted in bytes.
    line = linecache.getline(frame.filename, frame.lineno).encode()
    name = line[frame.colno : frame.end_colno].decode(errors="replace").partition("[")[0]
    if not name.rpartition(".")[2].isupper():
        return None
    return f"{Path(frame.filename).relative_to(package).as_posix()}: {name}"


def _predict(args):
    _derive(args, "predictions")


def _measure(args):
    _derive(args, "measurements")


def _draw(args):
    from ctadam.artifact.figures import draw
    from ctadam.storage.manifest import refuse_shipped

    refuse_shipped(args.out)
    with _columns(args.results):
        paths = draw(args.figure, args.results, args.out)
    for path in paths:
        log.info("%s", path)


def _judge(args):
    from ctadam.artifact import ledger as claims
    from ctadam.artifact.report import ledger_text
    from ctadam.storage.manifest import refuse_shipped

    refuse_shipped(args.results)
    with _columns(args.results):
        ledger = claims.judge(args.results, args.experiments, args.figure)
    if args.shipped:
        # A damaged file of ours is no reason to end your run without its verdicts.
        try:
            ledger = claims.beside(ledger, args.shipped)
        except ArtifactError as error:
            log.warning("ctadam: without the shipped values, because %s", error)
    path = claims.write(ledger, args.results, args.figure)
    print(ledger_text(ledger))
    log.info("%s: %d claims", path, len(ledger))


def _promote(args):
    from ctadam.artifact import config
    from ctadam.artifact.promote import promote, renew

    experiments = args.experiments or (None if args.derived else _experiments(config.resolve(args.scale)))
    written = [] if args.derived else promote(args.scale, experiments=experiments, force=args.force)
    with _columns(f"results/cached/{args.scale}"):
        written += renew(args.scale, experiments=experiments)
    for path in written:
        log.info("%s", path)


def _compare(args):
    from ctadam.artifact import verify

    differences = 0
    for check in verify.compare_redrawn(args.scale, figure=args.figure):
        print(f"{check.outcome:<10}  {check.what}" + (f": {check.note}" if check.note else ""))
        differences += check.outcome == verify.DIFFERS
    if differences:
        raise ArtifactError(f"{differences} of these differ from what is shipped")


def _results(args):
    from ctadam.artifact import report
    from ctadam.storage.manifest import root

    cached = root() / "results" / "cached"
    scale, _, experiment = (args.which or "").rstrip("/").partition("/")
    if experiment:
        print(report.details(cached, scale, experiment))
    else:
        print(report.listing(cached, scale or None))


def _verify(args):
    from ctadam.artifact import verify
    from ctadam.storage.manifest import root

    results = root() / "results" / "cached" / args.scale
    seed = time.time_ns() % 10**6 if args.seed is None else args.seed
    checks = verify.verify(
        results,
        device=args.device,
        seed=seed,
        report=lambda check: log.info("%-14s  %s: %s", check.outcome, check.what, check.note),
    )
    bad = sum(check.outcome == verify.DIFFERS for check in checks)
    if bad:
        raise ArtifactError(f"{bad} of {len(checks)} checks of {results} failed (sample: --seed {seed})")
    left = sum(check.outcome == verify.CANNOT for check in checks)
    log.info(
        "verified %s: %d checks%s (sample: --seed %d)",
        results,
        len(checks),
        f", {left} not possible here" * (left > 0),
        seed,
    )


def _readme(args):
    from ctadam.artifact import report as pages
    from ctadam.storage.manifest import root

    log.info("%s", pages.update_readme(root()))


def _pages(args):
    from ctadam.artifact import report as pages
    from ctadam.storage.manifest import refuse_shipped

    refuse_shipped(args.results)
    for path in pages.write_report_pages(args.results):
        log.info("%s", path)


def _shard(text):
    try:
        shard, shards = map(int, text.split("/"))
    except ValueError:
        shard, shards = 0, 0
    if not 1 <= shard <= shards:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N")
    return shard, shards


def _positive(text):
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _parser():
    from ctadam.artifact.config import SCALES
    from ctadam.artifact.figures import FIGURES
    from ctadam.experiments import EXPERIMENTS

    # Not the docstring: python -OO drops it.
    description = "Check betas; train, predict, measure, draw and judge. Each rule of the workflow calls one of these."
    parser = argparse.ArgumentParser(prog="ctadam", description=description)
    parser.add_argument("--version", action="version", version=f"ctadam {__version__}")
    parser.add_argument("--log", metavar="FILE", help="write progress and errors to FILE as well")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, text):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    sub = command(
        "stability", _stability, "Are these betas stable? Coefficients, bounds and growth rate of Adam's update."
    )
    sub.add_argument("--betas", nargs=2, type=float, required=True, metavar=("BETA1", "BETA2"), help="torch's order")
    sub.add_argument("--steps", type=_positive, metavar="N", help="also the bound at step N (the first is 1)")

    def configured(sub):
        sub.add_argument("--scale", choices=SCALES, default="laptop")
        sub.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a parameter (growth.lr=0.01)"
        )
        sub.add_argument("--device", help="cpu, cuda, …; default: as configured")

    sub = command("config", _config, "List the parameters: value at a scale, what is allowed, meaning.")
    sub.add_argument("experiment", nargs="?", choices=EXPERIMENTS, help="default: all")
    sub.add_argument("--scale", choices=SCALES, default="laptop")

    sub = command("run", _run, "Train: the raw runs of one experiment, or of one shard of it.")
    sub.add_argument("experiment", choices=EXPERIMENTS)
    configured(sub)
    sub.add_argument(
        "--shard", type=_shard, metavar="I/N", help="only the I-th of N parts; else all, keeping complete ones"
    )
    sub.add_argument("--out", metavar="DIR", help="results directory; default: results/fresh/SCALE")

    for name, function, text in (
        ("predict", _predict, "What theory says about an experiment's runs, from their parameters alone."),
        ("measure", _measure, "What an experiment's runs show."),
    ):
        sub = command(name, function, text)
        sub.add_argument("experiment", choices=EXPERIMENTS)
        sub.add_argument("results", metavar="RESULTS", help="results of one scale, such as results/fresh/laptop")

    sub = command("draw", _draw, "Draw one figure as PDF and PNG.")
    sub.add_argument("figure", choices=FIGURES)
    sub.add_argument("results", metavar="RESULTS")
    sub.add_argument("--out", required=True, metavar="DIR")

    sub = command("judge", _judge, "Hold measurements against predictions, claim by claim, and write the ledger.")
    sub.add_argument("results", metavar="RESULTS")
    sub.add_argument(
        "--experiments",
        nargs="+",
        choices=EXPERIMENTS,
        metavar="EXPERIMENT",
        help="only the claims of these; default: all",
    )
    sub.add_argument("--figure", choices=FIGURES, help="only the claims that this figure shows")
    sub.add_argument("--shipped", metavar="CSV", help="a ledger whose values are shown beside these")

    sub = command("compare", _compare, "Compare tables, figures and ledger in results/redrawn with what is shipped.")
    sub.add_argument("scale", choices=SCALES)
    sub.add_argument(
        "--figure", choices=FIGURES, help="only this figure, its tables and its claims; default: everything"
    )

    sub = command("results", _results, "List the shipped runs, or show the provenance and summary of one experiment's.")
    sub.add_argument(
        "which", nargs="?", metavar="SCALE[/EXPERIMENT]", help="such as laptop or laptop/growth; default: list all"
    )

    sub = command("verify", _verify, "Check the shipped results: all hashes, and a sample of the runs made again here.")
    sub.add_argument("scale", nargs="?", choices=SCALES, default="laptop")
    sub.add_argument("--seed", type=int, metavar="N", help="which sample; default: another each time")
    sub.add_argument("--device", default="auto", help="cpu, cuda, …; default: auto")

    command("readme", _readme, "Renew the README's table of figures from the shipped results.")

    sub = command("pages", _pages, "Write the ledger and the provenance of results as HTML, for the report.")
    sub.add_argument("results", metavar="RESULTS")

    sub = command(
        "promote", _promote, "Ship complete fresh runs of a scale, with tables, figures and ledger made from them."
    )
    sub.add_argument("scale", choices=SCALES)
    sub.add_argument("experiments", nargs="*", choices=[[], *EXPERIMENTS], metavar="EXPERIMENT", help="default: all")
    sub.add_argument("--force", action="store_true", help="replace what is there")
    sub.add_argument(
        "--derived", action="store_true", help="ship no runs: make tables, figures and ledger of the shipped ones again"
    )
    return parser


#: Commands whose result is a file; what they print besides is only a view of it.
_WRITE_FILES = ("judge",)


class _Output:
    """A stream that keeps the first error of writing to it instead of raising it, so that no command ends halfway."""

    def __init__(self, stream):
        self._stream, self.error = stream, None

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        self._attempt("write", text)
        return len(text)

    def flush(self):
        self._attempt("flush")

    def _attempt(self, name, *args):
        if self._stream is None:  # closed before Python started
            return
        try:
            getattr(self._stream, name)(*args)
        except OSError as error:
            self.error = self.error or error
            # What is left in the buffer would fail once more at exit, and Python would report it.
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


def main(argv=None):
    """Run one command; the exit status is 0, or 1 for an error that the message explains."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or log that lacks "≤" or "γ" must not cost the command; not every stand-in can be reconfigured.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    output = _Output(sys.stdout)
    try:
        with contextlib.redirect_stdout(output):
            return _main(argv, output)
    finally:
        output.flush()
        _Output(sys.stderr).flush()


def _main(argv, output):
    args = _parser().parse_args(argv)
    handlers = [logging.StreamHandler(sys.stderr)]
    try:
        if args.log:
            Path(args.log).parent.mkdir(parents=True, exist_ok=True)
            handlers.append(logging.FileHandler(args.log, mode="w", encoding="utf-8", errors="replace"))
    except OSError as error:
        print(f"ctadam: cannot write {args.log}: {error.strerror}", file=sys.stderr)
        return 1
    logging.basicConfig(level=logging.WARNING, handlers=handlers, format="%(message)s", force=True)
    log.setLevel(logging.INFO)
    try:
        args.function(args)
    except ArtifactError as error:
        log.error("ctadam: %s", error)
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ctadam"):
            raise
        log.error(
            "ctadam: %s needs the package %s: in the checkout, pip install '.[workflow]'", args.command, error.name
        )
        return 1
    except Exception:
        log.exception("ctadam: %s failed", args.command)
        return 1
    output.flush()
    if output.error is None or output.error.errno == errno.EPIPE:  # EPIPE: the reader, such as `head`, has had enough
        return 0
    log.error("ctadam: cannot write to standard output: %s", output.error.strerror)
    # Where the result is a file it is complete, and a failure would make Snakemake delete it.
    return 0 if args.command in _WRITE_FILES else 1
