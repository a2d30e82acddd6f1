"""Recall and precision of the near-duplicate search against brute force, on real rows.

    python benchmarks/near_duplicates.py DATA --rows 5000 --seeds 5 [--only mattgilgo]

DATA holds labelled `*.csv.gz` files with a column text; rows are drawn from all of them, or from the one named. Brute force
compares every pair of distinct templates: by the Jaccard similarity of their shingle sets, and whether one was cut short and
the other goes on where it ends.
"""

import argparse
import csv
import gzip
import time
from pathlib import Path

import numpy as np

from finsent.config import DataConfig
from finsent.data.dedup.near_duplicates import continues, link_near_duplicates, merge_components, near_duplicate_pairs
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import make_signatures
from finsent.text import Forms, forms


def load(folder: Path, only: str | None) -> list[str]:
    """Texts of all labelled files, or of one."""
    texts = []
    for path in sorted(folder.glob("*.csv.gz")):
        if "unlabelled" not in path.name and only in (None, path.name.split(".")[0]):
            with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
                texts += [row["text"] for row in csv.DictReader(stream)]
    return texts


def brute_force(made: list[Forms], config: DataConfig) -> set[tuple[int, int]]:
    """Every pair compared, from the definition."""
    from scipy.sparse import csr_matrix

    number: dict[str, int] = {}
    rows, columns = [], []
    for row, form in enumerate(made):
        text = form.template.ljust(config.shingle_size, "\0")
        parts = {text[at : at + config.shingle_size] for at in range(len(text) - config.shingle_size + 1)}
        rows += [row] * len(parts)
        columns += [number.setdefault(part, len(number)) for part in parts]
    matrix = csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(made), len(number)))
    shared = (matrix @ matrix.T).tocoo()
    sizes = np.asarray(matrix.sum(axis=1)).ravel()
    similar = shared.data >= (config.near_duplicate_jaccard - 1e-12) * (sizes[shared.row] + sizes[shared.col] - shared.data)
    upper = similar & (shared.row < shared.col)
    found = set(zip(shared.row[upper].tolist(), shared.col[upper].tolist(), strict=True))
    for row, form in enumerate(made):
        if form.truncated:
            found |= {
                (min(row, other), max(row, other))
                for other, text in enumerate(made)
                if other != row and continues(form.template, text.template, config.truncation_min_characters)
            }
    return found


def main() -> None:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", metavar="FILE")
    arguments = parser.parse_args()
    texts, config = load(arguments.data, arguments.only), DataConfig()
    columns = ("rows", "distinct templates", "near pairs", "found", "recall", "precision", "same groups", "seconds")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for seed in range(arguments.seeds):
        drawn = np.random.default_rng(seed).choice(len(texts), arguments.rows, replace=False)
        by_template: dict[str, Forms] = {}
        for form in (forms(texts[row]) for row in drawn):
            there = by_template.get(form.template)
            by_template[form.template] = form._replace(truncated=form.truncated or (there is not None and there.truncated))
        made = list(by_template.values())

        def texts_of(rows: Int64, made: list[Forms] = made) -> list[str]:
            return [made[row].template for row in rows]

        started = time.monotonic()
        signatures = make_signatures(made, config)
        groups = link_near_duplicates(signatures, texts_of, config)
        seconds = time.monotonic() - started
        found = {(low, high) for low, high in near_duplicate_pairs(signatures, texts_of, config, np.arange(len(made))).tolist()}
        true = brute_force(made, config)
        same = bool((groups == merge_components(np.arange(len(made)), np.array(sorted(true), np.int64).reshape(-1, 2))).all())
        print(
            f"| {arguments.rows:,} | {len(made):,} | {len(true):,} | {len(found):,} | {len(found & true) / len(true):.4%} | "
            f"{len(found & true) / len(found):.4%} | {'yes' if same else 'NO'} | {seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
