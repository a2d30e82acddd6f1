"""The tables of docs/performance.md, generated from the JSON files of the benchmarks only.

    python benchmarks/performance_table.py JSON... > table.md
    python benchmarks/performance_table.py JSON... --into docs/performance.md
    python benchmarks/performance_table.py JSON... --scaling --section 'measured on several GPUs' --into docs/performance.md

With `--into`, the text between `<!-- measured -->` and `<!-- /measured -->` (or the markers of `--section`) is replaced.
Runs of `--tiny` are refused.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import measuring

TITLES: Final = {
    "speed_train": "Training",
    "speed_infer": "Inference",
    "memory": "Memory",
    "fidelity": "Fidelity",
    "speed_cpu": "CPU",
}
NAMES: Final = {
    "naive": "naive (the card's way)",
    "card": "`llama-3.1-8b`, the card's recipe",
    "fast": "`llama-3.1-8b-fast`",
    "stock": "stock engine",
    "bf16": "bf16",
    "fp8": "fp8",
}
WITHOUT_DROPOUT: Final = "lora.dropout=0"
"""No profile trains like this: such runs are made for their losses, not their speed."""
Found = dict[str, Any]


def number(value: Any, digits: int = 1) -> str:
    """A figure for a table; a dash for what was not measured."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"


def row(*cells: str) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def head(*cells: str) -> list[str]:
    """The first two lines of a table."""
    return [row(*cells), row(*["---"] * len(cells))]


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def times(value: float, reference: float | None) -> str:
    """How many times the naive rate."""
    return "–" if not reference else f"{value / reference:.1f}x"


def caption(found: Found) -> list[str]:
    """Where, when and how it was measured."""
    where = found["environment"]
    versions = ", ".join(f"{name} {where[name]}" for name in ("torch", "transformers", "peft", "bitsandbytes") if where.get(name))
    text = f"`{where['command']}`, {where['device']}, {versions}, {where['date']}."
    if found.get("tokens_per_row"):
        text += f" {found['tokens_per_row']} tokens a row ({found['lengths']})."
    if found.get("measured_ceiling_tflops"):
        measured = ", ".join(f"{name} {value:,.0f}" for name, value in found["measured_ceiling_tflops"].items())
        text += f" Matrix products of 8192^3 in this run: {measured} TFLOP/s."
    if not found["finished"]:
        text += " **The run ended before all parts had run.**"
    return ["", text, ""]


def faults(found: Found) -> list[str]:
    """What failed, so that it does not look as if it had not been tried."""
    return ["", *[f"Failed: {fault['part']}: {fault['error']}" for fault in found["failed"]]] if found.get("failed") else []


def spreads(value: Any) -> list[str]:
    """The line on the two A sides."""
    if isinstance(value, dict):
        text = ", ".join(f"{name} {percent(share)}" for name, share in value.items() if share is not None)
    else:
        text = percent(value) if value is not None else ""
    return ["", f"The two naive sides of this run differ by {text}."] if text else []


def common_cells(result: Found, reference: float | None) -> list[str]:
    """The columns that training and inference share."""
    return [
        number(result["rows_per_second"]),
        times(result["rows_per_second"], reference),
        number(result["rows_per_second_wall"]),
        number(result["tokens_per_second"], 0),
        number(result["padded_per_real"], 2),
        number(result["useful_tflops"]),
        percent(result["share_of_floor"]),
        percent(result.get("share_of_measured_ceiling")),
        number(result["peak_gib"]),
    ]


COMMON: Final = (
    "rows/s",
    "of naive",
    "by the clock",
    "tokens/s",
    "padded/real",
    "TFLOP/s",
    "of floor",
    "of measured",
    "peak GiB",
)


def floor_cells(work: str, found: Found, precision: str) -> list[str]:
    """The line of the floor: what the linear layers alone would take."""
    rate = measuring.floor_rows_per_second(work, found["tokens_per_row"], precision)
    tokens, flops = rate * found["tokens_per_row"], measuring.CEILING[precision] / 1e12
    return [number(rate), "", "", number(tokens, 0), "1.00", number(flops), "100 %", "", ""]


def train_table(found: Found) -> list[str]:
    """Rates of training."""
    results = found["results"]
    slow = [result["rows_per_second"] for result in results if result["part"] == "naive"]
    reference = sum(slow) / len(slow) if slow else None
    lines = head("training", "rows a step", *COMMON, "compile and capture, s", "full run, h")
    for result in results:
        seconds = sum(value for name, value in result.items() if name in {"compile_seconds", "capture_seconds"})
        lines.append(
            row(
                NAMES[result["part"]],
                str(result["rows_per_step"]),
                *common_cells(result, reference),
                number(seconds) if seconds else "–",
                number(result["hours_full_run"], 2),
            )
        )
    hours = measuring.FULL_RUN / measuring.floor_rows_per_second("train", found["tokens_per_row"]) / 3600
    lines.append(row("floor", "", *floor_cells("train", found, "bf16"), "", number(hours, 2)))
    return lines + spreads(found.get("naive_spread"))


def infer_table(found: Found) -> list[str]:
    """Rates of inference, then what came with them: a file to a table, several GPUs."""
    results = [result for result in found["results"] if "model_only" in result]
    slow = [result["rows_per_second"] for result in results if result["part"].startswith("naive")]
    reference = max(slow) if slow else None  # the naive side's best batch size: the hardest to beat
    lines = head("inference, text to result", *COMMON, "model only, rows/s", "compile, s", "a million, h")
    for result in results:
        lines.append(
            row(
                NAMES.get(result["part"], result["part"]),
                *common_cells(result, reference),
                number(result["model_only_rows_per_second"]),
                number(result.get("compile_seconds")),
                number(result["hours_per_million"], 2),
            )
        )
    for precision in ("bf16", "fp8"):
        hours = 1e6 / measuring.floor_rows_per_second("infer", found["tokens_per_row"], precision) / 3600
        lines.append(row(f"floor, {precision}", *floor_cells("infer", found, precision), "", "", number(hours, 2)))
    lines += spreads(found.get("naive_spread"))
    for result in results:
        if table := result.get("table"):
            text = (
                f"A file of {table['rows']:,} tweets ({table['distinct']:,} distinct) to the table of predictions with "
                f"{NAMES[result['part']]}: {number(table['rows_per_second'])} rows/s, "
                f"{percent(table['share_of_model_only'])} of the model-only rate "
                f"({percent(table['share_of_model_only_from_inbox'])} from the inbox on)."
            )
            lines += ["", text]
    for result in found["results"]:
        for one in result.get("scaling", [])[1:]:
            rate = number(one["rows_per_second"])
            lines += ["", f"{one['devices']} GPUs, a replica on each: {rate} rows/s, {one['scaling']:.2f}x of one."]
    return lines


def scaling_table(runs: Sequence[Found]) -> list[str]:
    """Rates of one GPU and of several: of training, from runs under `torchrun`; of scoring, from a run with `--devices`.

    Raises:
        SystemExit: a training over several GPUs has none on one beside it.
    """
    lines = head("work", "GPUs", "rows/s", "by the clock", "of one GPU", "of one, by the clock", "of floor", "peak GiB of a GPU")
    trained = sorted((r for run in runs for r in run["results"] if "processes" in r), key=lambda r: int(r["processes"]))
    timed = [result for result in trained if WITHOUT_DROPOUT not in result["overrides"]]
    for result in timed:
        one = beside(result, timed)
        rates = [result[name] / one[name] for name in ("rows_per_second", "rows_per_second_wall")]
        cells = [number(result["rows_per_second"]), number(result["rows_per_second_wall"]), *(f"{rate:.2f}x" for rate in rates)]
        cells += [percent(result["share_of_floor"]), number(result["peak_gib"])]
        work = f"training, {NAMES[result['part']]}, {result['rows_per_step']} rows a step"
        lines.append(row(work, str(result["processes"]), *cells))
    for run in runs:
        for one in (scaled for result in run["results"] for scaled in result.get("scaling", [])):
            cells = [str(one["devices"]), number(one["rows_per_second"]), "", f"{one['scaling']:.2f}x", "", "", ""]
            lines.append(row(f"scoring {run['rows']:,} texts, bf16, a replica on each GPU", *cells))
    return lines + losses_table([result for result in trained if WITHOUT_DROPOUT in result["overrides"]])


def beside(result: Found, trained: Sequence[Found]) -> Found:
    """The same training on one GPU; settings of the engine may differ.

    Raises:
        SystemExit: there is none.
    """
    part, recipe = result["part"], [value for value in result["overrides"] if not value.startswith("engine.")]
    for one in trained:
        if (one["processes"], one["part"]) == (1, part) and set(recipe) <= set(one["overrides"]):
            return one
    raise SystemExit(f"{part} with {recipe} on {result['processes']} GPUs has no run of one GPU beside it. Give its file, too.")


def losses_table(trained: Sequence[Found]) -> list[str]:
    """How far the losses of each training without dropout are from those of the first one, on one GPU."""
    if not trained:
        return []
    lines = [
        "",
        *head("the same training, no dropout", "GPUs", "steps", "first loss", "last loss", "largest relative difference"),
    ]
    for result in trained:
        one = beside(result, trained)
        pairs = list(zip(one["losses"], result["losses"], strict=True))
        apart = max(abs(loss - reference) / abs(reference) for reference, loss in pairs)
        settings = ", ".join(f"`{value}`" for value in result["overrides"] if value.startswith("engine."))
        work = NAMES[result["part"]] + (f", {settings}" if settings else "")
        cells = [str(result["processes"]), str(len(pairs)), f"{pairs[0][1]:.4f}", f"{pairs[-1][1]:.4f}"]
        lines.append(row(work, *cells, percent(apart) if result is not one else ""))
    return lines


def make_scaling(runs: Sequence[Found], *, tiny: bool = False) -> str:
    """The table of several GPUs, then how each of its runs was made."""
    refuse_tiny(runs, tiny=tiny)
    captions = [line for run in runs for line in (*caption(run)[:-1], *faults(run))]
    return "\n".join([*scaling_table(runs), *captions]).strip() + "\n"


def refuse_tiny(runs: Sequence[Found], *, tiny: bool) -> None:
    """Stop where a run of `--tiny` is among them, unless such are asked for.

    Raises:
        SystemExit: there is one.
    """
    for run in runs:
        if run["tiny"] and not tiny:
            raise SystemExit(f"a run of {run['benchmark']} with --tiny: its figures mean nothing. Give files of full runs.")


def memory_table(found: Found) -> list[str]:
    """Peaks of memory."""
    lines = head("work", "settings", "cap, GiB", "allocated, GiB", "reserved, GiB", "used on the device, GiB", "rows/s")
    for result in found["results"]:
        settings = ", ".join(f"`{value}`" for value in result["overrides"])
        peaks = [number(result[name]) for name in ("cap_gib", "allocated_gib", "reserved_gib", "used_gib", "rows_per_second")]
        lines.append(row("training, 16 rows a step" if result["work"] == "train" else "inference", settings, *peaks))
    return lines


def fidelity_table(found: Found) -> list[str]:
    """Differences of logits, then of gradients."""
    lines = head("logits", "against", "rms / std", "largest difference of a probability", "same label")
    titles = {
        "again": "stock, in other batches (its own noise)",
        "off": "the base without the adapter's updates",
        "packed": "packed, NF4",
        "merged": "packed, merged bf16",
        "fp8": "packed, fp8",
    }
    for result in found["results"]:
        compared = [("stock, NF4 with the adapter live", result)]
        if "to_merged" in result:
            compared.append(("merged bf16", result["to_merged"]))
        for against, values in compared:
            if "rms_over_std" in values:
                largest = f"{values['largest_probability_difference']:.2g}"
                cells = (f"{values['rms_over_std']:.2g}", largest, percent(values["agreement"], 2))
                lines.append(row(titles[result["part"]], against, *cells))
    for result in found["results"]:
        if result["part"] == "gradient":
            text = (
                f"First gradient, packed against stock: cosine {result['cosine_adapters']:.5f} (adapters), "
                f"{result['cosine_head']:.5f} (head); over {result['steps']} steps the losses differ by at most "
                f"{result['largest_loss_difference']:.2g}."
            )
            lines += ["", text]
    return lines


def cpu_table(found: Found) -> list[str]:
    """Rates of each side over its rounds, then the load they were measured under and how far the logits are apart."""
    lines = head("model", "work", "side", "rows/s, median", "least to most", "of naive", "of stock", "padded/real", "runs as")
    last = {(result["profile"], result["work"], result["side"]): result for result in found["results"]}
    medians = {(one["profile"], one["work"], one["side"]): one["median"] for one in found["summary"]}
    for one in found["summary"]:
        key = (one["profile"], one["work"], one["side"])
        engine = (last[key]["engine"], last[key].get("precision") or last[key]["mixed_precision"])
        lines.append(
            row(
                one["profile"],
                "training" if one["work"] == "train" else "inference",
                one["side"],
                number(one["median"]),
                f"{number(one['least'])} to {number(one['most'])}",
                times(one["of_naive"], 1) if one["of_naive"] else "–",
                times(one["median"], medians.get((*key[:2], "stock"))),
                number(last[key].get("padded_per_real"), 2),
                ", ".join(engine),
            )
        )
    loads = [result["load"] for result in found["results"]]
    rounds = max(one["rounds"] for one in found["summary"])
    tokens = ", ".join(f"{profile} {value}" for profile, value in found["tokens"].items())
    lines += [
        "",
        f"{rounds} rounds in turns; load average {min(loads)} to {max(loads)}. Tokens a row: {tokens} ({found['texts']}).",
    ]
    for profile, sides in found["fidelity"].items():
        values = sides["ours"]
        text = (
            f"Logits of {profile}, ours against stock: rms {values['rms_over_std']:.2g} of the standard deviation "
            f"({values['rms_over_row_std']:.2g} of that around the classes' means), same label {percent(values['agreement'], 2)}."
        )
        lines += ["", text]
    return lines


MAKERS: Final = {
    "speed_train": train_table,
    "speed_infer": infer_table,
    "memory": memory_table,
    "fidelity": fidelity_table,
    "speed_cpu": cpu_table,
}


def make(runs: Sequence[Found], *, tiny: bool = False) -> str:
    """All tables, training first.

    Raises:
        SystemExit: a run of `--tiny` is among them, whose figures mean nothing.
    """
    refuse_tiny(runs, tiny=tiny)
    lines: list[str] = []
    for kind, title in TITLES.items():
        for found in (run for run in runs if run["benchmark"] == kind):
            heading = f"#### {found['environment']['device'].rpartition(', ')[2]}" if kind == "speed_cpu" else f"### {title}"
            lines += ["", heading, *caption(found), *MAKERS[kind](found), *faults(found)]
    return "\n".join(lines).strip() + "\n"


def put_into(page: str, tables: str, section: str = "measured") -> str:
    """`page` with what stands between the markers of `section` replaced.

    Raises:
        SystemExit: the markers are not there once each.
    """
    begin, end = f"<!-- {section} -->", f"<!-- /{section} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"the page must have {begin} and {end} once each.")
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{tables}\n{end}{rest.split(end)[1]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or put them into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, metavar="PAGE")
    parser.add_argument("--section", default="measured", help="which markers of the page, e.g. 'measured on a CPU'")
    parser.add_argument("--scaling", action="store_true", help="one table of several GPUs beside one, from runs of both")
    parser.add_argument("--tiny", action="store_true", help="take runs of --tiny: to try this command, never for the docs")
    arguments = parser.parse_args(argv)
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.files]
    tables = (make_scaling if arguments.scaling else make)(runs, tiny=arguments.tiny)
    if arguments.into:
        page = arguments.into.read_text(encoding="utf-8")
        arguments.into.write_text(put_into(page, tables, arguments.section), encoding="utf-8")
    else:
        print(tables, end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
