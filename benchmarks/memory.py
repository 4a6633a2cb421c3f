"""Peak memory of one shard of every experiment on a CPU, each in a process of its own.

    python benchmarks/memory.py                 measure scale laptop, write results/cached/benchmarks/memory_cpu.*
    python benchmarks/memory.py --scale smoke --out DIR

Shards of one experiment hold equally many runs, so the first one stands for all. Provenance records the same number as
``max_rss``; `ctadam docs` uses this table for shipped runs that are older than that field.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from ctadam.artifact import config
from ctadam.experiments import EXPERIMENTS
from ctadam.storage.provenance import read_provenance, sha256

ROOT = Path(__file__).resolve().parents[1]
FIELDS = ["experiment", "scale", "shard", "shards", "max_rss"]


def main(argv: list[str] | None = None) -> None:
    """Measure every experiment, and write the table with its provenance."""
    parser = argparse.ArgumentParser(description="Measure the peak memory of one shard of every experiment on a CPU.")
    parser.add_argument("--scale", default="laptop", choices=config.SCALES)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "cached" / "benchmarks", metavar="DIR")
    args = parser.parse_args(argv)
    resolved = config.resolve(args.scale)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for experiment in EXPERIMENTS:
            shards = resolved[experiment]["shards"]
            words = ["--scale", args.scale, "--device", "cpu", "--shard", f"1/{shards}", "--out", directory]
            subprocess.run([sys.executable, "-m", "ctadam", "run", experiment, *words], check=True)
            record = read_provenance(Path(directory) / experiment / f"shard-1-of-{shards}.parquet")
            rows.append({name: record[name] for name in FIELDS})
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "memory_cpu.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    details = {"command": f"python benchmarks/memory.py --scale {args.scale}"}
    details |= {name: record[name] for name in ("machine", "platform", "python", "packages", "commit")}
    details |= {"sha256": sha256(path)}
    path.with_suffix(".json").write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
