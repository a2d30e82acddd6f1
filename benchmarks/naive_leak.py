"""What a plain random 85/15 split leaks, by two definitions of a near copy, on the same rows.

    python benchmarks/naive_leak.py DATA

DATA holds the eight core files (`*.csv.gz`, column text). `5-grams` is this project's definition (`finsent/text.py`, Jaccard of
character 5-grams >= 0.8, connected). `word 3-grams` is the one published with the data: Jaccard >= 0.85 on word 3-grams after
lower-casing, resolving entities, dropping links and a leading `RT @x:`, and masking handles and cashtags; texts of fewer words
are one gram. Share of test rows with a copy in train, mean of ten seeds, among all raw rows.
"""

import argparse
import csv
import gzip
import html
import re
from pathlib import Path

import numpy as np

from finsent.config import DataConfig
from finsent.data.dedup.near_duplicates import link_near_duplicates, merge_components
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import make_signatures
from finsent.data.leakage import naive_leak
from finsent.text import Forms, forms

CORE = ("zeroshot_sent_train", "pyfin_moritz", "mattgilgo", "yash612", "poojathakoor", "fiqa", "surge_crypto", "surge_stock")


def by_word_3_grams(texts: list[str], threshold: float = 0.85) -> Int64:
    """Group of each text: connected pairs, every candidate compared."""
    from scipy.sparse import csr_matrix

    grams: dict[tuple[str, ...], int] = {}
    node_of: dict[frozenset[int], int] = {}
    nodes = []
    for text in texts:
        plain = re.sub(r"https?://\S+|www\.\S+", " ", html.unescape(text).lower())
        plain = re.sub(r"@\w+", "@user", re.sub(r"^\s*rt @\w+:?", "", plain))
        words = re.sub(r"\$[a-z][a-z.]*", "$tag", plain).split()
        parts = [tuple(words[at : at + 3]) for at in range(max(len(words) - 2, 1))]
        found = frozenset(grams.setdefault(part, len(grams)) for part in parts)
        nodes.append(node_of.setdefault(found, len(node_of)))
    sets = list(node_of)
    sizes = np.array([len(found) for found in sets])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    matrix = csr_matrix((np.ones(offsets[-1], np.int32), [gram for found in sets for gram in found], offsets))
    group = np.arange(len(sets))
    for start in range(0, len(sets), 2000):
        shared = (matrix[start : start + 2000] @ matrix.T).tocoo()
        left, right = shared.row + start, shared.col
        near = (left < right) & (shared.data >= threshold * (sizes[left] + sizes[right] - shared.data) - 1e-12)
        group = merge_components(group, np.stack([left[near], right[near]], axis=1).astype(np.int64))
    return group[np.array(nodes)]


def by_5_grams(texts: list[str], config: DataConfig) -> Int64:
    """Group of each text by this project's definition."""
    by_template: dict[str, Forms] = {}
    nodes = []
    for form in map(forms, texts):
        there = by_template.get(form.template)
        by_template[form.template] = form._replace(truncated=form.truncated or (there is not None and there.truncated))
        nodes.append(form.template)
    place = {template: node for node, template in enumerate(by_template)}
    templates = list(by_template)
    group = link_near_duplicates(
        make_signatures(list(by_template.values()), config), lambda rows: [templates[row] for row in rows], config
    )
    return group[np.array([place[template] for template in nodes])]


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    texts = []
    for name in CORE:
        with gzip.open(arguments.data / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as stream:
            texts += [row["text"] for row in csv.DictReader(stream)]
    print("| near copy | leaked |\n|---|---|")
    for name, groups in (("5-grams", by_5_grams(texts, DataConfig())), ("word 3-grams", by_word_3_grams(texts))):
        print(f"| {name} | {naive_leak(groups):.1%} |")


if __name__ == "__main__":
    main()
