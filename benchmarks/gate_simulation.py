"""How often the gate promotes, by simulation: equal, worse and better challengers, against "higher score wins".

    python benchmarks/gate_simulation.py [--pairs 2000] [--out benchmarks/results/gate_simulation.json]

Each pair is two simulated models scored on the same rows. Rows come in near-duplicate groups, in three classes and in the
slices of four dimensions; the two models disagree in correctness on a given share of the rows and differ in true accuracy by a
given amount, equally in all slices. Everything after these rows is finsent's own code: McNemar by group, paired cluster
bootstrap, slices, the rules of `GateConfig` as shipped. What does not depend on the comparison (round trip, calibration ...)
passes. Markdown on stdout.
"""

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finsent.config import GateConfig
from finsent.evaluation.noninferiority import Estimate, check_noninferiority
from finsent.evaluation.power import mcnemar_power
from finsent.evaluation.statistics import accuracy_difference, mcnemar, paired_bootstrap
from finsent.labels import LABELS

RULES = GateConfig()
ROWS = (500, 1500, 3000, 6000)
DISAGREEMENT = (0.04, 0.07, 0.10)
DIFFERENCES = (0.0, -0.005, 0.005, 0.01, 0.02, 0.03)
ACCURACY = 0.8
GROUP_SIZES = (0.9, 0.06, 0.04)
"""Shares of groups with 1, 2 and 4 rows: real tweets have about 1.05 rows to a group."""
HARMED_SLICE = 2  # of the first dimension
SLICES = ((0.3, 0.25, 0.2, 0.15, 0.1), (0.3, 0.5, 0.2), (0.85, 0.15), (0.6, 0.4))


@dataclass(frozen=True)
class Cell:
    """One setting and what came of it."""

    rows: int
    disagreement: float
    difference: float
    pairs: int
    higher_score: float
    """Share of pairs promoted where the higher accuracy wins."""
    mcnemar: float
    """Share that passes the paired test alone."""
    gate: float
    """Share that passes every comparing rule."""
    exact: float
    """Power of the paired test, computed for as many independent groups."""
    refused_by_margins: float
    """Share of the pairs that passed the paired test and were refused by class, macro-F1 or slice."""
    harmed: bool = False
    """Whether one slice, a fifth of the rows, is worse by exactly `slice_margin`, whatever the difference elsewhere."""


def simulate(
    rng: np.random.Generator, rows: int, disagreement: float, difference: float, *, harmed: bool = False
) -> dict[str, Any]:
    """One pair: labels and predictions [rows], groups, and the slices of each dimension."""
    sizes = rng.choice((1, 2, 4), size=rows, p=GROUP_SIZES)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), rows)) + 1]
    groups = np.repeat(np.arange(len(sizes)), sizes)[:rows]
    count = int(groups[-1]) + 1
    # rows of a group are copies of one tweet: both models treat them alike
    label = rng.choice(3, count, p=(0.3, 0.5, 0.2))
    wrong = (label + rng.integers(1, 3, count)) % 3
    slices = [rng.choice(len(shares), count, p=shares) for shares in SLICES]
    there = (slices[0] == HARMED_SLICE) if harmed else np.zeros(count, dtype=bool)
    differs = np.where(there, max(disagreement, RULES.slice_margin + 0.01), disagreement)
    gain = np.where(there, -RULES.slice_margin, difference)
    draw, coin = rng.random(count), rng.random(count)
    better = draw < (differs + gain) / 2
    worse = ~better & (draw < differs)
    both_wrong = ~better & ~worse & (coin < (1 - ACCURACY - disagreement / 2) / (1 - disagreement))
    own, other = np.where(worse | both_wrong, wrong, label), np.where(better | both_wrong, wrong, label)
    by_row = [values[groups] for values in slices]
    return {"labels": label[groups], "own": own[groups], "other": other[groups], "groups": groups, "slices": by_row}


def passes(pair: dict[str, Any]) -> tuple[bool, bool, bool, int]:
    """Whether the higher score, the paired test alone, and the gate's comparing rules promote; and the number of groups."""
    labels, own, other = pair["labels"], pair["own"], pair["other"]
    groups = pair["groups"].astype(str).tolist()
    higher = bool((own == labels).sum() > (other == labels).sum())
    tested = mcnemar(labels, own, other, groups)["p_one_sided"] < RULES.alpha
    return higher, tested, tested and _no_worse(pair, groups), int(pair["groups"][-1]) + 1


def _no_worse(pair: dict[str, Any], groups: list[str]) -> bool:
    labels, own, other = pair["labels"], pair["own"], pair["other"]
    paired = paired_bootstrap(labels, own, other, groups, RULES.bootstrap_resamples)
    macro, classes = paired["macro_f1_difference"], paired["class_f1_difference"]
    judged: dict[str, Estimate] = {}
    for dimension, values in enumerate(pair["slices"]):
        for value in np.unique(values):
            chosen = values == value
            if chosen.sum() >= RULES.min_slice_rows:
                there = [group for group, inside in zip(groups, chosen, strict=True) if inside]
                found = accuracy_difference(labels[chosen], own[chosen], other[chosen], there)
                judged[f"{dimension}={value}"] = Estimate(
                    found["difference"], found["standard_error"], (found["rows"], found["only_a"], found["only_b"])
                )
    verdicts = (
        check_noninferiority(
            {"macro": Estimate(macro["difference"], macro["standard_error"])}, RULES.macro_f1_margin, RULES.alpha
        ),
        check_noninferiority(
            {name: Estimate(classes[name]["difference"], classes[name]["standard_error"]) for name in LABELS},
            RULES.class_margin,
            RULES.alpha,
        ),
        check_noninferiority(judged, RULES.slice_margin, RULES.alpha),
    )
    return all(verdict.shown for family in verdicts for verdict in family.values())


def run_cell(arguments: tuple[int, float, float, int, int, bool]) -> Cell:
    """All pairs of one setting."""
    rows, disagreement, difference, pairs, seed, harmed = arguments
    rng = np.random.default_rng(seed)
    outcomes = [passes(simulate(rng, rows, disagreement, difference, harmed=harmed)) for _ in range(pairs)]
    higher, tested, gate, groups = (np.array(column) for column in zip(*outcomes, strict=True))
    exact = mcnemar_power(round(float(groups.mean())), disagreement, difference, RULES.alpha)
    refused = 1 - float(gate.sum() / tested.sum()) if tested.any() else 0.0
    shares = (float(column.mean()) for column in (higher, tested, gate))
    return Cell(rows, disagreement, difference, pairs, *shares, exact, refused, harmed)


def table(cells: list[Cell]) -> str:
    """Markdown."""
    lines = [
        "| rows | disagreement | true difference | higher score wins | paired test | whole gate | refused by margins |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {cell.rows:,} | {cell.disagreement:.0%} | {100 * cell.difference:+.1f} points | {cell.higher_score:.1%} | "
        f"{cell.mcnemar:.1%} | {cell.gate:.1%} | {cell.refused_by_margins:.1%} |"
        for cell in cells
    ]
    return "\n".join(lines)


def verdicts(cells: list[Cell]) -> str:
    """The two figures that must hold, with the noise of so many pairs."""
    equal = max((cell for cell in cells if cell.difference == 0), key=lambda cell: cell.mcnemar)
    worse = max((cell for cell in cells if cell.difference < 0), key=lambda cell: cell.gate)
    harmed = max((cell for cell in cells if cell.harmed), key=lambda cell: cell.gate)
    noise = 1.96 * math.sqrt(RULES.alpha * (1 - RULES.alpha) / equal.pairs)
    return (
        f"Equal models, worst setting ({equal.rows:,} rows, {equal.disagreement:.0%}): paired test {equal.mcnemar:.1%}, gate "
        f"{equal.gate:.1%}, declared {RULES.alpha:.0%} (noise of {equal.pairs:,} pairs: {noise:.1%}).\n"
        f"0.5 points worse, worst setting ({worse.rows:,} rows, {worse.disagreement:.0%}): gate {worse.gate:.1%}, "
        "to be under 2.5 %.\n"
        f"A slice worse by the margin, worst setting ({harmed.rows:,} rows): gate {harmed.gate:.1%}, declared {RULES.alpha:.0%}."
    )


def main() -> None:
    """Run every setting; a table and the verdicts on stdout, figures as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    pairs = arguments.pairs
    settings = [
        # power needs no more than a percent or two; error rates are what must be known well
        (rows, share, difference, pairs if difference <= 0 else max(pairs // 4, 1), False)
        for rows in arguments.rows
        for share in DISAGREEMENT
        for difference in DIFFERENCES
    ]
    # a slice is judged from `min_slice_rows` on, which a fifth of 500 rows is not
    settings += [(rows, 0.07, 0.03, pairs, True) for rows in arguments.rows if rows / 5 > 1.2 * RULES.min_slice_rows]
    work = [(*setting[:4], 20261125 + index, setting[4]) for index, setting in enumerate(settings)]
    with ProcessPoolExecutor(arguments.processes) as pool:
        cells = list(pool.map(run_cell, work))
    usual, harmed = [cell for cell in cells if not cell.harmed], [cell for cell in cells if cell.harmed]
    print(table(usual) + "\n\nOne slice worse by the margin, better by three points elsewhere:\n\n" + table(harmed))
    print(f"\n{verdicts(cells)}\n\n{time.perf_counter() - started:.0f} s")
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
