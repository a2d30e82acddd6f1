"""Time and peak memory of ingestion by number of generated rows, then for 10,000 more on top of them.

    python benchmarks/ingest_scale.py FOLDER --rows 100000 400000 1400000

Rows are generated: words drawn by Zipf's law, cashtags, links, handles; a fifth are near duplicates of earlier rows (retweets,
other links, truncated, an added emoji), some of them copied hundreds of times, like spam; 3 % are exact duplicates, 1 % are
invalid. Each ingestion runs in a process of its own; time is the process's, start-up included, memory its peak resident set.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ADDED = 10_000
CHUNK = 50_000
LABELS = ("Neutral", "Bullish", "Bearish")
SYLLABLES = tuple("babecedifoguhajekilomunaperosutavewixoyuzabocludrefla"[at : at + 2] for at in range(0, 52, 2))
EMOJI = ("🚀", "📈", "📉", "🔥", "😂")


def tweets(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Text and label of made-up tweets, the same for a seed."""
    rng = np.random.default_rng(seed)
    words = np.array(sorted({"".join(rng.choice(SYLLABLES, rng.integers(1, 5))) for _ in range(40_000)}))
    rng.shuffle(words)
    rank = np.arange(1, len(words) + 1)
    share = 1 / (rank + 2.7) ** 1.05
    share /= share.sum()
    recent: list[tuple[str, str]] = []
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        lengths = np.clip(rng.lognormal(2.6, 0.5, size), 3, 45).astype(int)
        drawn = rng.choice(words, lengths.sum(), p=share)
        ends = np.cumsum(lengths)
        kind = rng.random(size)
        for row in range(size):
            if kind[row] < 0.2 and recent:
                # squared: some are copied over and over
                text, label = recent[int(len(recent) * rng.random() ** 2)]
                yield _near_copy(text, rng), label
                continue
            if kind[row] < 0.23 and recent:
                yield recent[int(len(recent) * rng.random())]
                continue
            if kind[row] > 0.99:
                yield ("", "Neutral") if kind[row] > 0.995 else ("what is this", "sideways")
                continue
            text = " ".join(drawn[ends[row] - lengths[row] : ends[row]])
            text = f"${''.join(rng.choice(list('ABCDEFGHIJ'), 4))} {text}" if kind[row] < 0.7 else text
            text = f"{text} https://t.co/{rng.integers(1 << 40):x}" if kind[row] < 0.5 else text
            made = (text, LABELS[int(rng.integers(3))])
            yield made
            if len(recent) < 20_000:
                recent.append(made)
            else:
                recent[int(rng.integers(len(recent)))] = made


def _near_copy(text: str, rng: np.random.Generator) -> str:
    how = rng.integers(5)
    if how == 0:
        return f"RT @user{rng.integers(10_000)}: {text}"
    if how == 1:
        return f"{text} https://t.co/{rng.integers(1 << 40):x}"
    if how == 2:
        return f"{text} {rng.choice(EMOJI)}"
    if how == 3:
        return f"RT @user{rng.integers(10_000)}: {text[: max(60, int(len(text) * 0.8))]}…"
    return f"{text}!"


def write(path: Path, count: int, seed: int) -> None:
    """A CSV of made-up tweets; a file that is there is kept."""
    if path.exists():
        return
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(("text", "label"))
        out.writerows(tweets(count, seed))
    part.replace(path)


def measured(home: Path, path: Path) -> dict[str, Any]:
    """One ingestion in a process of its own."""
    command = [sys.executable, __file__, str(home), "--file", str(path)]
    started = time.monotonic()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"seconds": time.monotonic() - started, **json.loads(done.stdout)}


def ingested(home: Path, path: Path) -> dict[str, Any]:
    """Ingest the file in this process, and what it took."""
    from finsent.config import Source, load_config
    from finsent.steps.context import make_context
    from finsent.steps.ingest import ingest
    from finsent.workspace import resolve_workspace

    context = make_context(load_config(), resolve_workspace({"FINSENT_HOME": str(home)}))
    report = ingest(context, [Source(uri=str(path), name="generated")])
    usage = resource.getrusage(resource.RUSAGE_SELF)
    counts = ("read", "accepted", "duplicates", "quarantined", "groups", "leaks", "naive_leak", "version")
    return {
        "peak_gb": usage.ru_maxrss / 2**20,
        "cpu": usage.ru_utime + usage.ru_stime,
        **{name: getattr(report, name) for name in counts},
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--file", type=Path, help="ingest this file into FOLDER as the home, and print what it took")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000, 1_400_000])
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if arguments.file is not None:
        print(json.dumps(ingested(folder, arguments.file)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for rows in arguments.rows:
        home = folder / f"home-{rows}"
        for step, count, seed in (("all", rows, 1), ("more", ADDED, 2)):
            path = folder / f"{count}-{seed}.csv"
            write(path, count, seed)
            result = {"table": rows, "step": step, **measured(home, path)}
            results.append(result)
            print(json.dumps(result), flush=True)
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print("| rows in the table | step | rows read | seconds | CPU seconds | peak GB | leaks |\n|---|---|---|---|---|---|---|")
    for r in results:
        print(
            f"| {r['table']:,} | {'all at once' if r['step'] == 'all' else 'then 10,000 more'} | {r['read']:,} | "
            f"{r['seconds']:.0f} | {r['cpu']:.0f} | {r['peak_gb']:.2f} | {r['leaks']} |"
        )


if __name__ == "__main__":
    main()
