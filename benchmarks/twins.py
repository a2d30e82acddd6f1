"""Test rows with a twin in training that differs in punctuation, quotes, spaces or case alone, in the data of a home.

    python benchmarks/twins.py HOME

Independent of the near-duplicate forms: texts of four words or more are twins if their word 3-grams are the same once links,
handles and cashtags are left out. Words are counted in three ways: runs of letters and digits; what is left of a word without
its punctuation; and numbers with sign and point as one word.
"""

import argparse
import html
import re
from collections import defaultdict
from collections.abc import Callable

from finsent.data import tables
from finsent.workspace import resolve_workspace

LEFT_OUT = re.compile(r"(?:https?://|www\.|pic\.twitter\.com/|\bt\.co/)\S*|(?<!\w)@\w+|(?<![\w$])\$[a-z][a-z0-9_.]*")
RETWEET = re.compile(r"^(?:rt @\w+:?\s*)+")
WORDS: dict[str, Callable[[str], list[str]]] = {
    "letters and digits": re.compile(r"\w+").findall,
    "without punctuation": lambda text: re.sub(r"[^\w\s]", "", text).split(),
    "numbers whole": re.compile(r"[+-]?\d+(?:[.,]\d+)*|\w+").findall,
}


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home")
    home = resolve_workspace({"FINSENT_HOME": parser.parse_args().home})
    rows = tables.read(home, "tweets", columns=["text", "split"])
    texts = [LEFT_OUT.sub(" ", RETWEET.sub("", html.unescape(text).casefold().strip())) for text in rows["text"].to_pylist()]
    splits = rows["split"].to_pylist()
    for name, words_of in WORDS.items():
        sides: dict[frozenset[tuple[str, ...]], list[int]] = defaultdict(list)
        for row, text in enumerate(texts):
            words = words_of(text)
            if len(words) >= 4:
                sides[frozenset(zip(words, words[1:], words[2:], strict=False))].append(row)
        shared = [twins for twins in sides.values() if {"train", "test"} <= {splits[row] for row in twins}]
        tested = sum(splits[row] == "test" for twins in shared for row in twins)
        print(f"{name}: {tested} of {splits.count('test'):,} test rows have a twin in training")
        for twins in shared[:5]:
            print("   ", *(f"{splits[row]}: {rows['text'][row].as_py()!r}" for row in twins[:2]), sep="\n      ")


if __name__ == "__main__":
    main()
