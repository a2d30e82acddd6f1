"""The chain on real labelled tweets: ingest, train, evaluate by source, decide, score a stream; Markdown on stdout.

    python benchmarks/real_tweets.py DATA HOME [--profile nano] [--set recipe.epochs=5 ...] [--stream 20000]

DATA holds the eight core files (`*.csv.gz`, columns text and label) and `unlabelled_stream.csv.gz`. An interrupted run
resumes: ingestion is idempotent, training resumes from its checkpoint, scored tweets are not scored again.
"""

import argparse
import csv
import gzip
import itertools
import resource
import sys
import time
from pathlib import Path
from typing import Any

from finsent.config import InboxSource, Source, load_config
from finsent.reporting.summaries import iter_slices
from finsent.steps.context import make_context
from finsent.workspace import resolve_workspace

CORE = ("zeroshot_sent_train", "pyfin_moritz", "mattgilgo", "yash612", "poojathakoor", "fiqa", "surge_crypto", "surge_stock")


def main() -> None:
    """Run the steps and print what each found and took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("--profile", default="nano")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--stream", type=int, default=20_000)
    arguments = parser.parse_args()
    from finsent.errors import NoChampionError
    from finsent.steps.evaluate import evaluate
    from finsent.steps.ingest import ingest
    from finsent.steps.promote import promote
    from finsent.steps.score import score
    from finsent.steps.train import train

    config = load_config(arguments.profile, overrides=["gate.approval=automatic", *arguments.overrides])
    home = resolve_workspace({"FINSENT_HOME": str(arguments.home)})
    sources = tuple(Source(uri=str(arguments.data / f"{name}.csv.gz"), name=name) for name in CORE)
    data = timed("ingest", lambda: ingest(make_context(config, home), sources))
    print(f"rows: {data.read} read = {data.accepted} accepted + {data.duplicates} duplicates + {data.quarantined} quarantined")
    print(
        f"leaks {data.leaks}, naive {data.naive_leak}, groups {data.groups}, conflicts {data.conflicts}, splits {data.splits}\n"
    )
    trained = timed("train", lambda: train(make_context(config, home)))
    print(
        f"{trained.rows} rows, {trained.steps} steps, {trained.rows_per_second:.0f} rows/s, resumed from {trained.resumed_from}\n"
    )
    evidence = timed("evaluate", lambda: evaluate(make_context(config, home))).evidence
    tell(evidence)
    decision = timed("promote", lambda: promote(make_context(config, home)))
    print(f"{decision.decision}: {' '.join(decision.reasons)}\n")
    stream = first_rows(arguments.data / "unlabelled_stream.csv.gz", arguments.stream, arguments.home / "stream.csv")
    try:
        print(timed("score", lambda: score(make_context(config, home), files=[InboxSource(uri=str(stream))])))
        print(timed("score again", lambda: score(make_context(config, home), files=[InboxSource(uri=str(stream))])))
    except NoChampionError as error:
        print(f"not scored: {error}")


def timed(name: str, run: Any) -> Any:
    """Run it; its wall time and the process's peak memory so far go before its result."""
    started = time.perf_counter()
    result = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"## {name}: {time.perf_counter() - started:.1f} s, peak memory so far {peak:.0f} MiB\n", flush=True)
    return result


def tell(evidence: Any) -> None:
    """Scores beside the baselines, calibration, and every slice."""
    metrics, baselines, found = evidence.metrics, evidence.baselines, evidence.calibration
    for key in ("accuracy", "macro_f1"):
        low, high = evidence.intervals[key]["low"], evidence.intervals[key]["high"]
        print(f"{key}: {metrics[key]:.4f} ({low:.4f} to {high:.4f}), TF-IDF {baselines['tfidf'][key]:.4f}")
    most, by_source = baselines["majority"]["accuracy"], baselines["source_majority"]["accuracy"]
    print(f"most frequent class {most:.4f}, most frequent class of the source {by_source:.4f}")
    print(f"ece {evidence.ece:.4f}, before scaling {found['ece_before_scaling']:.4f}, Brier {found['brier']:.4f}")
    print(f"abstaining: {found['abstention']}")
    print({label: round(scores["f1"], 4) for label, scores in metrics["per_class"].items()})
    print("\n| slice | test rows | accuracy | macro-F1 | TF-IDF accuracy |\n|---|---:|---:|---:|---:|")
    for dimension, value, row in iter_slices(evidence):
        scored = f"{row['accuracy']:.3f} | {row['macro_f1']:.3f} | {row['baseline_accuracy']:.3f}"
        print(f"| {dimension} = {value} | {row['n']:,} | {scored} |")
    print()


def first_rows(source: Path, count: int, target: Path) -> Path:
    """The first `count` rows of a gzipped CSV file, as a file."""
    with gzip.open(source, "rt", encoding="utf-8", newline="") as lines, target.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows(itertools.islice(csv.reader(lines), count + 1))
    return target


if __name__ == "__main__":
    sys.exit(main())
