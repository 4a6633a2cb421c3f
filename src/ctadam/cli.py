"""Define the command line. Every rule of the workflow calls one of its commands, and each can be called by hand.

``ctadam stability`` checks a pair of betas. ``run``, ``predict``, ``measure``, ``draw`` and ``judge`` are the stages of the
workflow. ``ledger`` prints the verdicts, and ``explain`` shows where one comes from. ``promote`` ships fresh results, ``results``
lists the shipped ones, and ``verify`` checks them. ``page`` writes the whole as one HTML page, and ``explore`` its explorer.
``config`` lists the parameters. ``archive`` makes the tarball for a DOI.
"""

import argparse
import contextlib
import errno
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ctadam import __version__
from ctadam.errors import ArtifactError, lookup_errors
from ctadam.experiments import EXPERIMENTS
from ctadam.terminal import Output

log = logging.getLogger("ctadam")

#: Strategies of `ctadam.optim.stage_betas`.
STRATEGIES = ("inverse-exp", "uniform", "exp", "naive")

# Heavy modules are imported inside the commands, so that `ctadam stability` does not wait for torch.


def _stability(args: argparse.Namespace) -> None:
    """Print what the theory says about a pair of betas, or about a rule for them."""
    from ctadam.theory.rules import Rule
    from ctadam.theory.summary import summarize, summarize_rule

    betas = args.betas or args.pair
    if args.rule is not None:
        if betas or args.steps or args.k > 1:
            args.usage_error("--rule is not allowed with a pair of betas, --steps or --k")
        if args.beta1 is None or args.batch is None:
            args.usage_error("--rule needs --beta1 and --batch")
    elif len(betas) != 2 or (args.betas and args.pair) or args.beta1 or args.batch:
        args.usage_error("give either BETA1 BETA2, or --rule with --beta1 and --batch")
    try:
        if args.rule is not None:
            rows = summarize_rule(beta1=Rule(args.beta1), beta2=Rule(args.rule), batches=args.batch)
        else:
            stages = []
            if args.k > 1:
                from ctadam.optim import stage_betas

                stages = stage_betas(args.stages, args.k, betas=betas)
            rows = summarize(beta1=betas[0], beta2=betas[1], steps=args.steps, stages=stages, strategy=args.stages)
    except ValueError as error:
        raise ArtifactError(f"{'--betas' if args.rule is None else '--rule'}: {error}") from error
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _config(args: argparse.Namespace) -> None:
    """List parameters."""
    from ctadam.artifact import config

    resolved = config.resolve(args.scale)
    rows = [
        row
        for experiment in ([args.experiment] if args.experiment else EXPERIMENTS)
        for row in config.describe(resolved, experiment)
    ]
    # Cells of more than 64 characters do not widen their column.
    widths = [max(len(cell) for cell in cells if len(cell) <= 64) for cells in list(zip(*rows, strict=True))[:-1]]
    for *cells, description in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), description]))


def _run(args: argparse.Namespace) -> None:
    """Train the runs of an experiment."""
    from ctadam.artifact import config, runner
    from ctadam.storage.manifest import refuse_shipped

    resolved = config.resolve(args.scale, config.parse_assignments(args.set))
    results = Path(args.out or f"results/fresh/{args.scale}")
    refuse_shipped(results)
    runner.run(
        args.experiment,
        resolved[args.experiment],
        results / args.experiment,
        scale=args.scale,
        device=args.device or resolved["device"],
        shard=args.shard,
    )


def _derive(args: argparse.Namespace, name: str) -> None:
    """Write one derived table of an experiment."""
    from ctadam.artifact import derive
    from ctadam.storage.manifest import refuse_shipped

    refuse_shipped(args.results)
    with lookup_errors(args.results):
        log.info("%s: %d rows", *derive.write(args.results, args.experiment, name))


def _predict(args: argparse.Namespace) -> None:
    """Write the predictions of an experiment."""
    _derive(args, "predictions")


def _measure(args: argparse.Namespace) -> None:
    """Write the measurements of an experiment."""
    _derive(args, "measurements")


def _draw(args: argparse.Namespace) -> None:
    """Draw one figure."""
    from ctadam.artifact.figures import draw
    from ctadam.storage.manifest import refuse_shipped

    refuse_shipped(args.out)
    with lookup_errors(args.results):
        paths = draw(args.figure, args.results, args.out)
    for path in paths:
        log.info("%s", path)


def _judge(args: argparse.Namespace) -> None:
    """Judge claims, and write and print the ledger."""
    from ctadam.artifact import ledger as claims
    from ctadam.artifact.report import ledger_text
    from ctadam.storage.manifest import refuse_shipped

    refuse_shipped(args.results)
    with lookup_errors(args.results):
        ledger = claims.judge(args.results, args.experiments, args.only)
    if args.shipped:
        # A damaged shipped file must not cost users the verdicts on their own runs.
        try:
            ledger = claims.add_shipped_columns(ledger, args.shipped)
        except ArtifactError as error:
            log.warning("ctadam: without the shipped values, because %s", error)
    path = claims.write(ledger, args.results, args.only)
    if not args.quiet:
        print(ledger_text(ledger))
    log.info("%s: %d claims", path, len(ledger))


def _ledger(args: argparse.Namespace) -> None:
    """Print a ledger that was written before."""
    from ctadam.artifact import ledger as claims
    from ctadam.artifact.report import ledger_text

    print(ledger_text(claims.read_ledger(claims.ledger_path(args.results, args.only))))


def _explain(args: argparse.Namespace) -> None:
    """Explain one claim."""
    from ctadam.artifact.explain import explain
    from ctadam.storage.manifest import root

    print(explain(root(), args.claim))


def _promote(args: argparse.Namespace) -> None:
    """Ship fresh runs, and remake the shipped tables, figures and ledger."""
    from ctadam.artifact.promote import promote, renew

    experiments = args.experiments or (None if args.derived else list(EXPERIMENTS))
    written = (
        [] if args.derived or experiments is None else promote(args.scale, experiments=experiments, force=args.force)
    )
    with lookup_errors(f"results/cached/{args.scale}"):
        written += renew(args.scale, experiments=experiments)
    for path in written:
        log.info("%s", path)


def _compare(args: argparse.Namespace) -> None:
    """Compare redrawn results with the shipped ones."""
    from ctadam.artifact import verify

    differences = 0
    for check in verify.compare_redrawn(args.scale, which=args.only):
        print(f"{check.outcome:<10}  {check.what}" + (f": {check.note}" if check.note else ""))
        differences += check.outcome == verify.DIFFERS
    if differences:
        raise ArtifactError(f"{differences} of these differ from what is shipped")


def _results(args: argparse.Namespace) -> None:
    """List shipped runs, or show one experiment's."""
    from ctadam.artifact import report
    from ctadam.storage.manifest import root

    cached = root() / "results" / "cached"
    scale, _, experiment = (args.which or "").rstrip("/").partition("/")
    if experiment:
        print(report.details(cached, scale, experiment))
    else:
        print(report.listing(cached, scale or None))


def _verify(args: argparse.Namespace) -> None:
    """Verify the shipped results of a scale."""
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


def _docs(args: argparse.Namespace) -> None:
    """Update the generated parts of the documentation."""
    from ctadam.artifact import explain, report, reviewers, scales
    from ctadam.storage.manifest import root

    made = report.update_readme, explain.write_page, scales.update_page, reviewers.write_page
    for path in (make(root()) for make in made):
        log.info("%s", path)


def _archive(args: argparse.Namespace) -> None:
    """Make the archive for a DOI."""
    from ctadam.artifact.archive import archive
    from ctadam.storage.manifest import root

    path, digest, files = archive(root(), args.out)
    print(digest.read_text(encoding="utf-8").rstrip())
    log.info("%s: %d files, %.1f MB", path, files, path.stat().st_size / 1e6)


def _pages(args: argparse.Namespace) -> None:
    """Write the report's HTML pages."""
    from ctadam.artifact.report import html as pages
    from ctadam.storage.manifest import refuse_shipped

    refuse_shipped(args.results)
    for path in pages.write_report_pages(args.results):
        log.info("%s", path)


def _page(args: argparse.Namespace) -> None:
    """Write the artifact's page."""
    from ctadam.artifact.report import page

    path = page.write(args.out, args.base)
    log.info("%s: %.1f MB; open it in a browser", path, path.stat().st_size / 1e6)


def _explore(args: argparse.Namespace) -> None:
    """Write the explorer, and open it."""
    import webbrowser

    from ctadam.artifact.report import explorer

    path = explorer.write(args.out)
    opened = not args.no_browser and webbrowser.open(path.resolve().as_uri())
    log.info("%s: %.0f kB%s", path, path.stat().st_size / 1e3, "" if opened else "; open it in a browser")


def _shard(text: str) -> tuple[int, int]:
    """Parse ``I/N``."""
    try:
        shard, shards = map(int, text.split("/"))
    except ValueError:
        shard, shards = 0, 0
    if not 1 <= shard <= shards:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N")
    return shard, shards


def _positive(text: str) -> int:
    """Parse a positive integer."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _k(text: str) -> int:
    """Parse a number of stages, each of which is shown in a line."""
    if not (text.isdecimal() and 1 <= int(text) <= 100):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 100")
    return int(text)


def _batches(text: str) -> tuple[int, int]:
    """Parse ``FIRST:LAST``."""
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST:LAST with 1 <= FIRST <= LAST")
    return int(first), int(last)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    from ctadam.artifact.config import SCALES
    from ctadam.artifact.figures import FIGURES
    from ctadam.experiments import EXPERIMENTS

    # Not taken from the docstring, which python -OO drops.
    description = (
        "Check betas; train, predict, measure, draw and judge. Each rule of the workflow calls one of these commands."
    )
    parser = argparse.ArgumentParser(prog="ctadam", description=description)
    parser.add_argument("--version", action="version", version=f"ctadam {__version__}")
    parser.add_argument("--log", metavar="FILE", help="also write progress and errors to FILE")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    sub = command(
        "stability",
        _stability,
        "Check a pair of betas: print coefficients, bounds and growth rate of the update of Adam or k-Adam. Or print for which "
        "batch sizes a rule for betas is unstable.",
    )
    sub.set_defaults(usage_error=sub.error)
    sub.add_argument("pair", nargs="*", type=float, metavar="BETA", help="BETA1 BETA2, in torch's order")
    sub.add_argument("--betas", nargs=2, type=float, metavar=("BETA1", "BETA2"), help="the same")
    sub.add_argument(
        "--steps", type=_positive, metavar="N", help="also print the bound at step N (the first step is 1)"
    )
    sub.add_argument("--k", type=_k, default=1, help="answer for the last of k-Adam's K stages; default: 1, Adam")
    sub.add_argument(
        "--stages",
        choices=STRATEGIES,
        default="inverse-exp",
        help="how the stages' betas follow from the pair; default: inverse-exp",
    )
    sub.add_argument("--rule", metavar="EXPRESSION", help="beta2 as a function of the batch size B: '0.98**(B/128)'")
    sub.add_argument("--beta1", metavar="EXPRESSION", help="with --rule: beta1, a number or a function of B")
    sub.add_argument("--batch", type=_batches, metavar="FIRST:LAST", help="with --rule: range of batch sizes")

    def configured(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--scale", choices=SCALES, default="laptop")
        sub.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a parameter, such as growth.lr=0.01"
        )
        sub.add_argument("--device", help="torch device; default: as configured")

    sub = command("config", _config, "List the parameters with value, allowed values and meaning.")
    sub.add_argument("experiment", nargs="?", choices=EXPERIMENTS, help="default: all")
    sub.add_argument("--scale", choices=SCALES, default="laptop")

    sub = command("run", _run, "Train the runs of one experiment, or of one shard of it.")
    sub.add_argument("experiment", choices=EXPERIMENTS)
    configured(sub)
    sub.add_argument(
        "--shard", type=_shard, metavar="I/N", help="run only shard I of N; default: all shards that are not complete"
    )
    sub.add_argument("--out", metavar="DIR", help="results directory; default: results/fresh/SCALE")

    for name, function, text in (
        (
            "predict",
            _predict,
            "Write the theoretical predictions for an experiment's runs, from their parameters alone.",
        ),
        ("measure", _measure, "Write the measurements of an experiment's runs."),
    ):
        sub = command(name, function, text)
        sub.add_argument("experiment", choices=EXPERIMENTS)
        sub.add_argument(
            "results", metavar="RESULTS", help="results directory of one scale, such as results/fresh/laptop"
        )

    sub = command("draw", _draw, "Draw one figure as PDF and PNG.")
    sub.add_argument("figure", choices=FIGURES)
    sub.add_argument("results", metavar="RESULTS")
    sub.add_argument("--out", required=True, metavar="DIR")

    sub = command("judge", _judge, "Judge each claim by comparing measurements with predictions, and write the ledger.")
    sub.add_argument("results", metavar="RESULTS")
    sub.add_argument(
        "--experiments",
        nargs="+",
        choices=EXPERIMENTS,
        metavar="EXPERIMENT",
        help="judge only the claims of these experiments; default: all",
    )
    sub.add_argument(
        "--only", metavar="FIGURE|CLAIM", help="judge only the claims of this figure, or this claim, such as S3"
    )
    sub.add_argument("--shipped", metavar="CSV", help="also show the values of this shipped ledger")
    sub.add_argument("--quiet", action="store_true", help="do not print the ledger")

    sub = command("ledger", _ledger, "Print a ledger that `ctadam judge` has written.")
    sub.add_argument("results", metavar="RESULTS")
    sub.add_argument(
        "--only", metavar="FIGURE|CLAIM", help="the ledger of this figure or claim; default: of all claims"
    )

    sub = command(
        "explain",
        _explain,
        "Explain a claim: statistic, rule, verdict by level and scale, and the path to figure, tables, raw runs and code.",
    )
    sub.add_argument("claim", metavar="CLAIM", help="id of the claim, such as S3")

    sub = command("compare", _compare, "Compare tables, figures and ledger in results/redrawn with the shipped ones.")
    sub.add_argument("scale", choices=SCALES)
    sub.add_argument(
        "--only",
        metavar="FIGURE|CLAIM",
        help="compare only this figure or claim, with its tables and verdicts; default: everything",
    )

    sub = command(
        "results", _results, "List the shipped runs, or show provenance and summary of one experiment's runs."
    )
    sub.add_argument(
        "which", nargs="?", metavar="SCALE[/EXPERIMENT]", help="such as laptop or laptop/growth; default: list all"
    )

    sub = command(
        "verify", _verify, "Verify the shipped results: check all hashes, and rerun a sample on this machine."
    )
    sub.add_argument("scale", nargs="?", choices=SCALES, default="laptop")
    sub.add_argument("--seed", type=int, metavar="N", help="seed of the sample; default: a new one each time")
    sub.add_argument("--device", default="auto", help="torch device; default: auto")

    command(
        "docs",
        _docs,
        "Update README's generated parts, docs/claims.md, docs/scales.md and ARTIFACT.md from the shipped results.",
    )

    sub = command("archive", _archive, "Make a tarball of the current commit without history, and print its sha256.")
    sub.add_argument("--out", default="dist", metavar="DIR", help="default: dist")

    sub = command("pages", _pages, "Write the report's HTML pages: ledger and provenance.")
    sub.add_argument("results", metavar="RESULTS")

    sub = command("page", _page, "Write the artifact as one page: verdicts, figures with claims, explorer, provenance.")
    sub.add_argument("--out", metavar="FILE", default="artifact.html", help="default: artifact.html")
    sub.add_argument(
        "--base", metavar="URL", help="where the checkout's files are published; default: links relative to FILE"
    )

    sub = command(
        "explore",
        _explore,
        "Write the explorer and open it: move a pair of betas, and see bounds, growth and real runs.",
    )
    sub.add_argument("--out", metavar="FILE", default="explorer.html", help="default: explorer.html")
    sub.add_argument("--no-browser", action="store_true", help="do not open it")

    sub = command(
        "promote", _promote, "Ship complete fresh runs of a scale, and the tables, figures and ledger made from them."
    )
    sub.add_argument("scale", choices=SCALES)
    sub.add_argument("experiments", nargs="*", choices=[[], *EXPERIMENTS], metavar="EXPERIMENT", help="default: all")
    sub.add_argument("--force", action="store_true", help="replace runs that are already shipped")
    sub.add_argument(
        "--derived",
        action="store_true",
        help="ship no runs, only remake tables, figures and ledger from the shipped runs",
    )
    return parser


#: Commands that write their result to a file and print a view of it.
_WRITE_FILES = ("judge",)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        Exit status: 0, or 1 after an error, which was logged.
    """
    for stream in (sys.stdout, sys.stderr):
        # A command must not fail because the terminal cannot encode "≤" or "γ". Replaced streams may lack this method.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    output = Output(sys.stdout)
    try:
        with contextlib.redirect_stdout(output):
            return _main(argv, output)
    finally:
        output.flush()
        Output(sys.stderr).flush()


def _main(argv: Sequence[str] | None, output: Output) -> int:
    """Parse the arguments, set up logging and run the command; see `main`."""
    args = _parser().parse_args(argv)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
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
    if output.error is None or output.error.errno == errno.EPIPE:  # EPIPE: the reader, such as `head`, closed the pipe
        return 0
    log.error("ctadam: cannot write to standard output: %s", output.error.strerror)
    # A result file is complete by now, and Snakemake would delete it after a failure.
    return 0 if args.command in _WRITE_FILES else 1
