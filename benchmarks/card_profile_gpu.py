"""The card's profile, unchanged, on one GPU: does it train, save its head, load afresh, and in how much memory?

    python benchmarks/card_profile_gpu.py FOLDER [--steps 20] [--rows 512] [--json out.json]

Builds Llama-3.1-8B's shape with random weights into FOLDER (16 GB, in the Hub's layout), since speed and memory do not
depend on the weights; nothing is said about accuracy. Needs CUDA, torch, transformers, peft, accelerate, bitsandbytes.
"""

import argparse
import json
import platform
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

sys.path.insert(0, str(Path(__file__).parent.parent))

from finsent.config import load_config
from finsent.home import resolve_home
from finsent.labels import LABELS
from finsent.model.adapter import load_adapter
from finsent.model.embedded import learn_tokenizer
from finsent.model.engine import count_tokens, predict_logits
from finsent.model.manifest import Manifest, write_manifest
from finsent.training.loop import Rows, train

ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def build_base(folder: Path) -> None:
    """Random weights of Llama-3.1-8B's shape in bfloat16, written straight from the GPU."""
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        num_labels=3,
        rope_parameters={**ROPE, "original_max_position_embeddings": 8192},
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForSequenceClassification(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    learn_tokenizer(TEXTS, 4096, 128).save_pretrained(folder)
    del model
    torch.cuda.empty_cache()


def write_texts(rows: int) -> list[str]:
    """Texts of tweets' lengths (log-normal, median 28 words or so of the small tokenizer)."""
    rng = random.Random(0)
    words = [f"w{i}" for i in range(400)] + ["$AAPL", "calls", "puts", "moon", "crash", "earnings"]
    return [" ".join(rng.choices(words, k=max(3, min(120, round(rng.lognormvariate(2.7, 0.5)))))) for _ in range(rows)]


def gib() -> float:
    """Peak memory allocated on the GPU since the last call, GiB."""
    peak = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(peak, 2)


def main() -> None:
    """Train some steps, load afresh, predict; print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    started = time.perf_counter()
    base = arguments.folder / "llama-3.1-8b-random"
    if not (base / "config.json").is_file():
        build_base(base)
    found["build_seconds"] = round(time.perf_counter() - started, 1)
    gib()

    count = 16 * arguments.steps
    labels = np.random.default_rng(0).integers(0, 3, count)
    config = load_config("llama-3.1-8b", overrides=[f"model.name={base}", "recipe.epochs=1", "recipe.evaluate_every_epoch=false"])
    home = resolve_home({"FINSENT_HOME": str(arguments.folder / "home")})
    steps: list[dict[str, float]] = []
    folder = home.runs / str(int(time.time()))
    rows = Rows(TEXTS[:count], labels)
    trained = train(config, home, rows, rows, folder, lambda _, values: steps.append(values))
    found["train"] = {
        "trainable_parameters": trained.trainable_parameters,
        "quantized_modules": trained.quantized_modules,
        "mixed_precision": trained.mixed_precision,
        "rows_per_second": round(float(np.median([s["rows_per_second"] for s in steps[3:]])), 2),
        "tokens_per_second": round(float(np.median([s["tokens_per_second"] for s in steps[3:]]))),
        "first_loss": round(steps[0]["loss"], 4),
        "last_loss": round(steps[-1]["loss"], 4),
        "peak_gib": gib(),
    }
    assert trained.trainable_parameters == 41_955_328
    torch.cuda.empty_cache()
    gib()

    manifest = Manifest(
        base_name=str(base),
        base_revision=None,
        base_fingerprint=trained.base.fingerprint,
        embedded=None,
        quantization=config.model.quantization,
        labels=LABELS,
        max_length=128,
        padding_side="left",
        pad_token_id=trained.pad_token_id,
        data_version=None,
        data_fingerprint=None,
        split_rule="none",
        config=config.model_dump(mode="json"),
        git_sha=None,
        lock_hash="",
    )
    write_manifest(trained.adapter, manifest)
    loaded = load_adapter(trained.adapter, home)
    texts = TEXTS[: arguments.rows]
    tokens = int(count_tokens(loaded, texts).sum())
    predict_logits(loaded, texts[:64])
    started = time.perf_counter()
    logits = predict_logits(loaded, texts)
    seconds = time.perf_counter() - started
    again = predict_logits(load_adapter(trained.adapter, home), texts[:64])
    found["infer"] = {
        "rows_per_second": round(len(texts) / seconds, 1),
        "tokens_per_row": round(tokens / len(texts), 1),
        "fresh_load_max_difference": float(np.abs(logits[:64] - again).max()),
        "finite": bool(np.isfinite(logits).all()),
        "adapter_mib": round(sum(path.stat().st_size for path in trained.adapter.iterdir()) / 2**20, 1),
    }
    del loaded
    torch.cuda.empty_cache()
    gib()
    loaded = load_adapter(trained.adapter, home)
    predict_logits(loaded, texts[:256])
    found["infer"]["peak_gib"] = gib()  # type: ignore[index]
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


TEXTS = write_texts(4096)

if __name__ == "__main__":
    main()
