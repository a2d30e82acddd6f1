"""The gate on real tweets: a third of the data against all of it, and two trainings that differ by their seed alone.

    python benchmarks/gate_real.py DATA HOME [--profile nano] [--set recipe.epochs=5 ...]

DATA holds the eight core files (`*.csv.gz`, columns text and label). Three versions are trained: on a third of the rows of each
file (drawn by hash), on all, and on all with another seed. Each is evaluated against the one before it, and the gate decides. A
version that it refuses is made champion by hand, so that the next one has a champion to be compared with; the audit log keeps
the refusal. Markdown on stdout; an interrupted run resumes.
"""

import argparse
import csv
import gzip
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from real_tweets import CORE

from finsent.config import Config, Source, load_config
from finsent.registry.client import Registry
from finsent.steps.context import make_context
from finsent.workspace import Workspace, resolve_workspace


def main() -> None:
    """Train what is missing, evaluate, ask the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("--profile", default="nano")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    home = resolve_workspace({"FINSENT_HOME": str(arguments.home)})

    def config(*more: str) -> Config:
        return load_config(arguments.profile, overrides=["gate.approval=automatic", *arguments.overrides, *more])

    whole = tuple(Source(uri=str(arguments.data / f"{name}.csv.gz"), name=name) for name in CORE)
    third = tuple(thirds(arguments.data, arguments.home / "third"))
    for number, (what, sources, own) in enumerate(
        (
            ("trained on a third", third, config()),
            ("trained on all", whole, config()),
            ("trained on all, another seed", whole, config("recipe.seed=1")),
        ),
        start=1,
    ):
        version = trained(own, home, sources, number)
        tell(own, home, version, what)


def thirds(data: Path, folder: Path) -> Iterator[Source]:
    """A third of each file's rows, by the hash of their text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CORE:
        path = folder / f"{name}.csv"
        with gzip.open(data / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file, path.open("w", newline="") as out:
            reader = csv.DictReader(file)
            writer = csv.DictWriter(out, reader.fieldnames or [])
            writer.writeheader()
            writer.writerows(
                row for row in reader if int.from_bytes(hashlib.sha256(row["text"].encode()).digest()[:4], "big") % 3 == 0
            )
        yield Source(uri=str(path), name=name)


def trained(config: Config, home: Workspace, sources: tuple[Source, ...], number: int) -> str:
    """Version `number`, trained now if it is not there yet."""
    from finsent.errors import InputError
    from finsent.steps.ingest import ingest
    from finsent.steps.train import train

    try:
        return Registry(home, config.registered_model).resolve(str(number))
    except InputError:
        ingest(make_context(config, home), sources)
        return train(make_context(config, home)).model_version


def tell(config: Config, home: Workspace, version: str, what: str) -> None:
    """Evaluate, promote if the gate lets it, and say why or why not."""
    from finsent.steps.evaluate import evaluate
    from finsent.steps.promote import adopt, promote

    context = make_context(config, home)
    before = context.registry.champion()
    result = evaluate(context, version=version)
    evidence: Any = result.evidence
    print(f"\n## Version {version}, {what}, against {'champion ' + before if before else 'no champion'}\n")
    ece, brier = (evidence.intervals[key] for key in ("ece", "brier"))
    print(
        f"accuracy {evidence.metrics['accuracy']:.4f}, macro-F1 {evidence.metrics['macro_f1']:.4f} on {evidence.n_test:,} rows; "
    )
    print(f"ECE {evidence.ece:.4f} ({ece['low']:.4f} to {ece['high']:.4f}), ", end="")
    print(f"Brier {evidence.calibration['brier']:.4f} ({brier['low']:.4f} to {brier['high']:.4f})")
    print(f"evaluation {result.seconds:.1f} s, of which models {result.model_seconds:.1f} s", flush=True)
    decision = promote(context, version=version)
    print(f"\n**{decision.decision}**\n")
    print("\n".join(f"- {rule.status}: {rule.reason}" for rule in decision.rules if rule.status != "pass"))
    shown = ("beats_champion", "macro_f1_noninferior", "class_noninferior", "slices_judged")
    print(
        "\n".join(
            f"- {rule.status}: {rule.reason}" for rule in decision.rules if rule.name.startswith(shown) and rule.status == "pass"
        )
    )
    if decision.decision != "promoted":
        context.registry.client.set_registered_model_alias(config.registered_model, "champion", version)
        adopt(context, "benchmark", "for the next version to meet")
        print(f"\nMade champion by hand all the same, for the next to meet: version {version}.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
