"""Training and scoring speed on two CPU cores: a plain script, the stock engine and finsent's, in turns in one process.

    OMP_NUM_THREADS=2 python benchmarks/speed_cpu.py FOLDER --threads 2 --data DATA --json cpu.json

Profiles: `nano`, and `minilm` on random weights in the shape of all-MiniLM-L6-v2, its word pieces learnt from the texts.
Sides, in turns A-B-C-A-B-C, since other work disturbs a shared machine for seconds or minutes:

- `naive`: random order, padded to the longest of 32, float32; scored in order of arrival, 32 at a time, the adapter live;
- `stock`: the profile through the padded engine;
- `ours`: the profile as it is, packed and merged where base and CPU allow it.

`--vary PROFILE:SETTING` adds a side to training, `--budgets` adds sides to scoring: the negative results were measured with
these. DATA is a folder with `zeroshot_sent_train.csv.gz` (columns text and label); without it the bundled sample is used.
"""

import argparse
import csv
import gzip
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fidelity
import measuring
import numpy as np
import torch
import transformers
from llama8b import home_in
from measuring import say
from numpy.typing import NDArray

from finsent.config import Config, load_config
from finsent.engine.packing import pad_rows
from finsent.labels import LABELS
from finsent.models.adapter import LoadedAdapter, load_adapter
from finsent.models.load import prepare_for_inference
from finsent.models.manifest import Manifest, write_manifest
from finsent.models.predict import count_tokens, predict_logits, tokenise
from finsent.training.trainer import LabelledTexts, TrainingResult, train

SIZES: Final = ("vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
MINILM: Final = dict(zip(SIZES, (30_522, 6, 384, 12, 1536), strict=True))
PIECES: Final = 4000  # with more of them, learnt from so few tweets, words are whole and texts shorter than they really are
NAIVE_ROWS: Final = 32
SHARE: Final = {"nano": 1.0, "minilm": 0.25}
"""Of the rows: MiniLM takes some ten times as long for each."""
Score = Callable[[Sequence[str]], NDArray[np.float32]]
STOCK: Final = ("engine.training=stock", "engine.inference=stock")
SIDES: Final[dict[str, tuple[str, ...]]] = {
    "naive": (*STOCK, "recipe.group_by_length=false", "recipe.mixed_precision=none"),
    "stock": STOCK,
    "ours": (),
}


@dataclass(frozen=True)
class Bench:
    """What the parts of one profile share: `rows` are trained on, `texts` scored."""

    profile: str
    folder: Path
    base: Path | None
    rows: LabelledTexts
    texts: list[str]

    def configure(self, overrides: Sequence[str]) -> Config:
        """The profile on this benchmark's base: one epoch, no validation, no checkpoints."""
        fixed = ["recipe.epochs=1", "recipe.evaluate_every_epoch=false", "recipe.checkpoint_every=1000000"]
        return load_config(self.profile, overrides=[*fixed, *([f"model.name={self.base}"] if self.base else []), *overrides])


def read_rows(data: Path | None, count: int) -> tuple[list[str], NDArray[np.int64], str]:
    """`count` labelled texts in random order, and where they are from."""
    from finsent.data.sample import SAMPLE_DIR

    path = data / "zeroshot_sent_train.csv.gz" if data else SAMPLE_DIR / "desk.csv.gz"
    with gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="") as lines:  # the sample has damage planted in it
        named = [(row["text"], (row["label"] or "").strip().capitalize()) for row in csv.DictReader(lines)]
    known = [(text, LABELS.index(label)) for text, label in named if text.strip() and label in LABELS]
    order = np.random.default_rng(0).permutation(len(known))[:count]
    labels = np.array([known[i][1] for i in order], dtype=np.int64)
    return [known[i][0] for i in order], labels, f"{path.name}, {len(order)} rows"


def build_minilm(folder: Path, texts: Sequence[str], *, tiny: bool) -> Path:
    """Random weights in MiniLM's shape, or a toy's, with a WordPiece tokenizer learnt from `texts`, in the Hub's layout."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    shape = MINILM | ({"num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 96} if tiny else {})
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(texts, vocab_size=PIECES, show_progress=False)
    base = folder / ("tiny-minilm" if tiny else "minilm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # wider than BERT's own start: with 0.02 all texts would get nearly the same logits
        config = BertConfig(num_labels=len(LABELS), initializer_range=0.05, **shape)
        BertForSequenceClassification(config).save_pretrained(base)
    BertTokenizerFast(tokenizer_object=pieces._tokenizer, model_max_length=512).save_pretrained(base)  # noqa: SLF001
    return base


def train_once(bench: Bench, overrides: Sequence[str]) -> tuple[dict[str, Any], TrainingResult, Config]:
    """One epoch from a fresh adapter, through the function that `finsent train` calls."""
    config = bench.configure(overrides)
    padding: list[float] = []
    home, nothing = home_in(bench.folder), LabelledTexts([], np.zeros(0, np.int64))
    folder = home.runs / f"cpu-{time.time_ns()}"
    trained = train(config, home, bench.rows, nothing, folder, lambda _, values: padding.append(values["padding_share"]))
    told = ("rows_per_second", "rows", "preparation_seconds", "final_loss", "engine", "mixed_precision")
    found = {name: getattr(trained, name) for name in told}
    found["padded_per_real"] = round(float(np.mean([1 / (1 - share) for share in padding])), 3)
    return found, trained, config


def write_adapter(bench: Bench) -> Path:
    """An adapter of one epoch of the stock engine, with its manifest: what all sides score with."""
    _, trained, config = train_once(bench, STOCK)
    model = config.model
    told = {"base_name": model.name, "base_fingerprint": trained.base.fingerprint, "pad_token_id": trained.pad_token_id}
    same = {name: getattr(model, name) for name in ("embedded", "quantization", "max_length", "padding_side")}
    nothing = dict.fromkeys(("base_revision", "data_version", "data_fingerprint", "git_sha"))
    manifest = Manifest(**told, **same, **nothing, labels=LABELS, split_rule="none", config={}, lock_hash="")
    write_manifest(trained.adapter, manifest)
    return trained.adapter


def naive_logits(loaded: LoadedAdapter, texts: Sequence[str]) -> NDArray[np.float32]:
    """Logits [texts, 3] in order of arrival, padded to the longest of each batch."""
    found = []
    for start in range(0, len(texts), NAIVE_ROWS):
        tokens = tokenise(loaded.tokenizer, texts[start : start + NAIVE_ROWS], loaded.manifest.max_length)
        ids, mask = pad_rows(tokens, loaded.manifest.pad_token_id, loaded.manifest.padding_side)
        with torch.inference_mode():
            found.append(loaded.model(input_ids=ids, attention_mask=mask).logits.float().numpy())
    return np.concatenate(found)


def open_side(bench: Bench, adapter: Path, overrides: Sequence[str], budget: int | None = None) -> tuple[Score, LoadedAdapter]:
    """Texts to logits as `finsent score` computes them; `budget` tokens a pass, or what the configuration and planner say."""
    config = bench.configure(overrides)
    engine = config.engine.model_copy(update={"batch_tokens": budget}) if budget else config.engine
    loaded = prepare_for_inference(load_adapter(adapter, home_in(bench.folder), "cpu"), engine, rows=len(bench.texts))
    tokens = budget or config.scoring.token_budget
    return lambda texts: predict_logits(loaded, texts, token_budget=tokens), loaded


def measure_training(bench: Bench, arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    """All sides in turns, `--rounds` times."""
    varied = [one.partition(":")[2] for one in arguments.vary if one.startswith(f"{bench.profile}:")]
    sides = SIDES | {f"ours, {one}": tuple(one.split(",")) for one in varied}
    for _ in range(arguments.rounds):
        for side, overrides in sides.items():
            with measuring.part(f"{bench.profile} train {side}", arguments.json, found) as result:
                result.update(profile=bench.profile, work="train", side=side, load=round(os.getloadavg()[0], 2))
                result.update(train_once(bench, overrides)[0])
            measuring.free()


def measure_scoring(bench: Bench, arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    """All sides in turns, `--rounds` times; then how far their logits are from those of the stock engine."""
    adapter, home = write_adapter(bench), home_in(bench.folder)
    live = load_adapter(adapter, home, "cpu")
    found["tokens"][bench.profile] = round(float(count_tokens(live, bench.texts).mean()), 1)
    opened = {name: open_side(bench, adapter, SIDES[name]) for name in ("stock", "ours")}
    opened = {"naive": (lambda texts: naive_logits(live, texts), live), **opened}
    opened |= {f"ours, {budget} tokens": open_side(bench, adapter, (), budget) for budget in arguments.budgets}
    logits: dict[str, NDArray[np.float32]] = {}
    for _ in range(arguments.rounds):
        for side, (score, loaded) in opened.items():
            with measuring.part(f"{bench.profile} infer {side}", arguments.json, found) as result:
                score(bench.texts[:64])
                load, started = os.getloadavg()[0], time.perf_counter()
                logits[side] = score(bench.texts)
                rate = round(len(bench.texts) / (time.perf_counter() - started), 1)
                result.update(profile=bench.profile, work="infer", side=side, load=round(load, 2), rows_per_second=rate)
                result.update(rows=len(bench.texts), engine=loaded.engine, precision=loaded.precision, plan=loaded.plan)
    found["fidelity"][bench.profile] = {side: fidelity.compare(one, logits["stock"]) for side, one in logits.items()}
    say(f"{bench.profile}, logits against stock: {found['fidelity'][bench.profile]}")


def summarise(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median, least and most of each side's rounds, and the median of its ratios to the naive side of the same round."""
    rates: dict[tuple[str, str, str], list[float]] = {}
    for result in results:
        rates.setdefault((result["profile"], result["work"], result["side"]), []).append(result["rows_per_second"])
    found = []
    for (profile, work, side), values in rates.items():
        ratios = [one / other for one, other in zip(values, rates.get((profile, work, "naive"), []), strict=False)]
        line = {"profile": profile, "work": work, "side": side, "median": round(float(np.median(values)), 1)}
        line |= {"of_naive": round(float(np.median(ratios)), 2) if ratios else None}
        found.append(line | {"least": min(values), "most": max(values), "rounds": len(values)})
    return found


def cpu_name() -> str:
    """Model of the processor and the widest of its matrix types, as Linux tells them."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = text.partition("model name")[2].partition("\n")[0].lstrip("\t :")
    kinds = [name for flag, name in (("amx_bf16", "AMX-BF16"), ("avx512_bf16", "AVX512-BF16")) if flag in text]
    return f"{model or 'unknown CPU'} ({', '.join(kinds) or 'no bf16 products'}, {os.cpu_count()} cores, shared)"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help="folder with zeroshot_sent_train.csv.gz")
    parser.add_argument("--threads", type=int, default=1, help="set OMP_NUM_THREADS to the same: bitsandbytes goes by that")
    parser.add_argument("--profiles", nargs="+", choices=["nano", "minilm"], default=["nano", "minilm"])
    parser.add_argument("--rows", type=int, default=2400, help="texts that are scored")
    parser.add_argument("--train-rows", type=int, default=1024, help="the first of them, trained on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vary", nargs="*", default=[], metavar="PROFILE:SETTING,...", help="more sides of training")
    parser.add_argument("--budgets", type=int, nargs="*", default=[], help="tokens a pass: more sides of scoring")
    parser.add_argument("--tiny", action="store_true", help="a toy in MiniLM's place: its figures mean nothing")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure profile by profile, one JSON file as it goes."""
    arguments = parse(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    texts, labels, source = read_rows(arguments.data, arguments.rows)
    device = f"{cpu_name()}, {arguments.threads} thread{'s' * (arguments.threads > 1)}"
    called = " ".join(
        [*(f"{name}={value}" for name, value in os.environ.items() if name.startswith("OMP_")), measuring.command()]
    )
    environment = measuring.environment("cpu") | {"device": device, "command": called}
    found: dict[str, Any] = {"benchmark": "speed_cpu", "tiny": arguments.tiny, "environment": environment, "texts": source}
    found |= {"results": [], "fidelity": {}, "tokens": {}, "finished": False}
    for profile in arguments.profiles:
        base = build_minilm(arguments.folder, texts, tiny=arguments.tiny) if profile == "minilm" else None
        scored, trained = (round(SHARE[profile] * count) for count in (arguments.rows, arguments.train_rows))
        bench = Bench(profile, arguments.folder, base, LabelledTexts(texts[:trained], labels[:trained]), texts[:scored])
        measure_training(bench, arguments, found)
        measure_scoring(bench, arguments, found)
        found["summary"] = summarise(found["results"])
        measuring.save(arguments.json, found)
    say("; ".join(f"{line['profile']} {line['work']} {line['side']} {line['median']} rows/s" for line in found["summary"]))
    return measuring.finish(arguments.json, found)


if __name__ == "__main__":
    raise SystemExit(main())
