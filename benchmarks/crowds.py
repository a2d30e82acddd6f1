"""Time to group dense buckets of similar texts: a bot's alerts that differ in a number, and templates that differ in three words.

    python benchmarks/crowds.py --texts 3000 10000

Their Jaccard similarity is about 0.7: they share buckets but no group, the worst case of grouping.
"""

import argparse
import random
import time

from finsent.config import DataConfig
from finsent.data.dedup.near_duplicates import link_near_duplicates, near_duplicate_pairs
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import make_signatures
from finsent.text import Forms, forms

WORDS = [f"{a}{b}{c}" for a in "bcdfghlmnp" for b in "aeiou" for c in ("st", "ng", "rk", "ll", "mp", "nd")]


def crowd(kind: str, count: int) -> list[Forms]:
    """Distinct texts of one kind."""
    draw = random.Random(0)
    texts = [
        f"price alert number {draw.randrange(10**8)} for $AAPL has been triggered this morning by our bot"
        if kind == "numbers"
        else "our view today on the market: {} {} and then {}, we remain cautious on rates".format(*draw.choices(WORDS, k=3))
        for _ in range(count)
    ]
    return list({form.template: form for form in map(forms, texts)}.values())


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, nargs="+", default=[3000, 10_000])
    config = DataConfig()
    print("| texts differ in | texts | groups | linking, s | audit, s |\n|---|---|---|---|---|")
    for count in parser.parse_args().texts:
        for kind in ("numbers", "words"):
            made = crowd(kind, count)

            def texts_of(rows: Int64, made: list[Forms] = made) -> list[str]:
                return [made[row].template for row in rows]

            signatures = make_signatures(made, config)
            started = time.monotonic()
            groups = link_near_duplicates(signatures, texts_of, config)
            linked = time.monotonic()
            pairs = near_duplicate_pairs(signatures, texts_of, config, groups)
            assert not len(pairs), "linking missed a pair"
            print(
                f"| {kind} | {len(made):,} | {len(set(groups.tolist())):,} | {linked - started:.1f} | "
                f"{time.monotonic() - linked:.1f} |"
            )


if __name__ == "__main__":
    main()
