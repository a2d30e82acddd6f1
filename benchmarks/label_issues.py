"""`finsent review list` where errors are known: 3 % of one source's labels are changed at random. Found against expected by rank.

    python benchmarks/label_issues.py DATA FOLDER

DATA holds the eight core files (`*.csv.gz`, columns text and label). Labels of `zeroshot_sent_train` are changed, all eight are
ingested into a workspace in FOLDER. Precision counts planted errors only: rows that the source itself mislabelled count against
it, and are expected besides the planted ones. With `--share 0` nothing is changed: what is expected then are those.
"""

import argparse
import csv
import gzip
import time
from pathlib import Path

import numpy as np

from finsent.config import Source, load_config
from finsent.labels import LABELS
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.review_list import list_suspects
from finsent.text import text_id
from finsent.workspace import resolve_workspace

CORE = ("zeroshot_sent_train", "pyfin_moritz", "mattgilgo", "yash612", "poojathakoor", "fiqa", "surge_crypto", "surge_stock")
TURNED = CORE[0]
SHARE = 0.03


def turn(source: Path, target: Path, share: float, seed: int) -> dict[str, str]:
    """Copy a source with labels turned; the right labels of those, by id."""
    with gzip.open(source, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    draw = np.random.default_rng(seed)
    names = [label.lower() for label in LABELS]
    truth = {}
    for index in sorted(draw.choice(len(rows), round(share * len(rows)), replace=False).tolist()):
        row = rows[index]
        truth[text_id(row["text"])] = row["label"].capitalize()
        row["label"] = str(draw.choice([name for name in names if name != row["label"]]))
    with gzip.open(target, "wt", encoding="utf-8", newline="") as stream:
        out = csv.DictWriter(stream, fieldnames=list(rows[0]), quoting=csv.QUOTE_ALL)
        out.writeheader()
        out.writerows(rows)
    return truth


def main() -> None:
    """Plant, ingest, list, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    truth = turn(arguments.data / f"{TURNED}.csv.gz", folder / f"{TURNED}.csv.gz", arguments.share, arguments.seed)
    home = resolve_workspace({"FINSENT_HOME": str(folder / "home")})
    folders = {name: folder if name == TURNED else arguments.data for name in CORE}
    ingest(make_context(load_config(), home), [Source(uri=str(folders[name] / f"{name}.csv.gz")) for name in CORE])
    started = time.monotonic()
    listing = list_suspects(home)
    seconds = time.monotonic() - started
    started = time.monotonic()
    again = list_suspects(home, limit=20)
    print(f"again, from the cache ({again.from_cache}): {time.monotonic() - started:.2f} s")
    from finsent.data import tables

    rows = tables.read(home, "tweets", columns=["id", "source", "split"]).to_pylist()
    looked = {row["id"] for row in rows if row["source"] == TURNED and row["split"] != "test"}
    planted = looked & truth.keys()
    ranked = [entry for entry in listing.entries if entry.source == TURNED]
    print(
        f"{listing.looked_at:,} rows looked at in {seconds:.0f} s, {listing.found:,} listed; of {TURNED} {len(looked):,} rows, ",
        end="",
    )
    print(f"{len(planted)} of them planted errors; {len(ranked):,} listed")
    for name, entries in ((f"rows of {TURNED}", ranked), ("all rows", listing.entries)):
        print(f"\n| rank among {name} | planted | expected | precision | recall |\n|---|---|---|---|---|")
        for rank in (*(rank for rank in (50, 100, 300, 500, 1000) if rank < len(entries)), len(entries)):
            found = sum(entry.id in planted for entry in entries[:rank])
            expected = sum(entry.error_probability or 0.0 for entry in entries[:rank])
            print(f"| {rank:,} | {found} | {expected:.0f} | {found / rank:.2f} | {found / max(len(planted), 1):.2f} |")
    print(f"\nworth reading: the first {listing.worth_reading:,}, {listing.worth_errors:.0f} errors expected among them")
    if not planted:
        return
    right = [entry.suggested == truth[entry.id] for entry in ranked if entry.id in planted]
    print(f"\nsuggested label right for {np.mean(right):.0%} of the planted errors that were found")


if __name__ == "__main__":
    main()
