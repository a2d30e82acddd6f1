"""Shared by the benchmarks: a base of Llama-3.1-8B's shape with random weights, an adapter, texts of tweets' lengths.

Speed and memory do not depend on the weights, so they are drawn on the device and need no download. Nothing measured on
them says anything about accuracy.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from finsent.config import Config, load_config
from finsent.labels import LABELS
from finsent.models.manifest import Manifest, write_manifest
from finsent.workspace import Workspace, resolve_workspace

SHAPE: Final = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
TINY: Final = {
    "vocab_size": 16384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
ROPE: Final = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
WEIGHT_STD: Final = 0.02  # transformers' initializer_range

MAX_LENGTH: Final = 128
SHORTEST: Final = 3
MEDIAN, SIGMA = 28.0, 0.66
SHARES: Final = (0.0, 0.05, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
QUANTILES: Final = (3, 8, 17, 28, 42, 61, 73, 104, 128)
"""Tokens of 38,121 labelled tweets by Llama 3's own tokenizer (mean 32.4). The log-normal above is fitted to them; its upper
tail is heavier (mean 34.5)."""
PERCENTILES: Final = "percentiles"

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
WORDS: Final = tuple(
    f"{a}{b}{c}{d}" for a in "bcdfghlmnprst" for b in "aeiou" for c in ("st", "ng", "rk", "l", "mp", "nd", "x") for d in "aeiosy"
)
"""Made-up words, each one token of the base's tokenizer: a text of n words has n + 1 tokens, as Llama 3 puts one before."""


@dataclass(frozen=True)
class Texts:
    """Texts whose token counts are known."""

    texts: list[str]
    wanted: NDArray[np.int64]
    """Tokens that each was made for, specials included [N]."""


def draw_lengths(count: int, *, seed: int = 0, lengths: str | None = None) -> NDArray[np.int64]:
    """Token counts [count]: from the log-normal; for `percentiles` between the tweets' own; else from the file `lengths`.

    A file holds whitespace-separated numbers, which are drawn with replacement.
    """
    draw = np.random.default_rng(seed)
    if lengths == PERCENTILES:
        drawn = np.interp(draw.random(count), SHARES, QUANTILES)
    elif lengths is not None:
        drawn = draw.choice(np.array(Path(lengths).read_text(encoding="utf-8").split(), dtype=np.float64), count)
    else:
        drawn = np.exp(draw.normal(math.log(MEDIAN), SIGMA, count))
    return np.clip(np.rint(drawn).astype(np.int64), SHORTEST, MAX_LENGTH)


def describe_lengths(lengths: str | None) -> str:
    """What `draw_lengths` draws from, in words; of a file its name alone."""
    if lengths is None:
        return f"log-normal, median {MEDIAN:.0f}, sigma {SIGMA}, clipped to {SHORTEST}..{MAX_LENGTH}"
    return "percentiles of 38,121 real tweets" if lengths == PERCENTILES else f"drawn from {Path(lengths).name}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all benchmarks on this base share."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="holds the base (16 GB, built on first use)")
    parser.add_argument("--json", type=Path, help="file of results, written as they come")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for finsent; repeat")
    parser.add_argument(
        "--lengths", metavar="FILE", help=f"file of token counts, or `{PERCENTILES}` of real tweets; else the log-normal"
    )
    parser.add_argument("--seed", type=int, default=0, help="of lengths, texts and labels")
    parser.add_argument("--tiny", action="store_true", help="a toy base, on a CPU too: to try the script, not to measure")


def write_texts(lengths: NDArray[np.int64], *, seed: int = 0) -> Texts:
    """Distinct texts, the i-th of `lengths[i]` tokens."""
    draw = np.random.default_rng(seed + 1)
    texts: dict[str, None] = {}
    for length in lengths.tolist():
        text = None
        while text is None or text in texts:
            text = " ".join(WORDS[i] for i in draw.integers(0, len(WORDS), length - 1))
        texts[text] = None
    return Texts(list(texts), lengths)


def draw_labels(count: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Random labels [count]."""
    return np.random.default_rng(seed + 2).integers(0, len(LABELS), count)


def check_lengths(texts: Texts, tokens: Sequence[Sequence[int]]) -> None:
    """Stop if a text does not have the tokens it was made for: then the two sides would not do the work that is reported."""
    counted = np.array([len(row) for row in tokens])
    wrong = int((counted != texts.wanted).sum())
    if wrong:
        raise SystemExit(
            f"{wrong} of {len(counted)} texts have other token counts than asked (mean {counted.mean():.1f}, "
            f"asked {texts.wanted.mean():.1f}). Give a folder whose base this script built."
        )


def make_tokenizer() -> Any:
    """Byte-level BPE that knows each of WORDS as one token: as costly as Llama's, and lengths are exact."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TINY["vocab_size"],
        min_frequency=1,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def build_base(folder: Path, *, tiny: bool = False) -> tuple[Path, float]:
    """The base in the Hub's layout under `folder` (16 GB, written once), and the seconds that building took (0: it was there)."""
    base = folder / ("tiny-random" if tiny else "llama-3.1-8b-random")
    if (base / "complete").is_file():
        return base, 0.0
    from transformers import LlamaConfig, LlamaForSequenceClassification

    started = time.perf_counter()
    config = LlamaConfig(
        **(TINY if tiny else SHAPE),
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        num_labels=len(LABELS),
        rope_parameters=dict(ROPE),
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForSequenceClassification(config)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():  # as GPT-2 starts, and as trained residual branches are: else noise grows layer by layer
        for layer in model.model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
    model.save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    (base / "complete").touch()
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return base, time.perf_counter() - started


def configure(base: Path, profile: str, overrides: Sequence[str] = ()) -> Config:
    """`profile` on `base`, one epoch, no validation, no checkpoints; then `overrides` as for `finsent --set`."""
    fixed = (f"model.name={base}", "recipe.epochs=1", "recipe.evaluate_every_epoch=false", "recipe.checkpoint_every=1000000")
    return load_config(profile, overrides=[*fixed, *overrides])


def home_in(folder: Path) -> Workspace:
    """The benchmarks' home, beside the base."""
    return resolve_workspace({"FINSENT_HOME": str(folder / "home")})


def make_adapter(base: Path, folder: Path, config: Config, *, share: float = 0.015, seed: int = 0) -> Path:
    """An adapter as PEFT saves it, with manifest, whose updates have `share` of the weights' norm; no model is loaded for it.

    A fresh adapter has B = 0 and would show nothing. |s B A| / |W| = s sqrt(r) std(A) std(B) / std(W) for random matrices.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    from finsent.models.base_model import fingerprint

    shape, lora = json.loads((base / "config.json").read_text(encoding="utf-8")), config.lora
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = width * shape["num_key_value_heads"] // shape["num_attention_heads"]
    sizes = {  # inputs, outputs
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width, keys),
        "self_attn.v_proj": (width, keys),
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (width, inner),
        "mlp.up_proj": (width, inner),
        "mlp.down_proj": (inner, width),
    }
    draw = torch.Generator().manual_seed(seed)
    tensors = {"base_model.model.score.weight": torch.randn(len(LABELS), width, generator=draw) * width**-0.5}
    for layer in range(shape["num_hidden_layers"]):
        for name, (inputs, outputs) in sizes.items():
            a_std = inputs**-0.5
            b_std = share * WEIGHT_STD / (lora.alpha / lora.r * lora.r**0.5 * a_std)
            place = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(lora.r, inputs, generator=draw) * a_std
            tensors[f"{place}.lora_B.weight"] = torch.randn(outputs, lora.r, generator=draw) * b_std
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        modules_to_save=["classifier", "score"],
        task_type="SEQ_CLS",
        inference_mode=True,
        base_model_name_or_path=str(base),
    ).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    manifest = Manifest(
        base_name=str(base),
        base_revision=None,
        base_fingerprint=fingerprint(base),
        embedded=None,
        quantization=config.model.quantization,
        labels=LABELS,
        max_length=MAX_LENGTH,
        padding_side=config.model.padding_side,
        pad_token_id=0,
        data_version=None,
        data_fingerprint=None,
        split_rule="none",
        config=config.model_dump(mode="json"),
        git_sha=None,
        lock_hash="",
    )
    write_manifest(folder, manifest)
    return folder
