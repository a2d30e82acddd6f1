"""The published card's way, implemented without finsent's engines: the baseline of every rate in the benchmarks.

Training: NF4 with double quantisation, `prepare_model_for_kbit_training` (float32 norms and embeddings, gradient
checkpointing), PEFT's LoRA on seven projections, 4 rows x 4 accumulated, random order, padded to the longest, bf16
autocast, paged AdamW 8-bit, gradient norm clipped at 1. Inference: NF4 with the adapter live, in order of arrival,
padded to the longest, one copy to the host a batch.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from numpy.typing import NDArray

MICRO_BATCH, ACCUMULATION = 4, 4
TARGETS: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Timing:
    """Timed pieces of work: optimiser steps or passes over all rows."""

    rows: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    padded: int = 0
    losses: list[float] = field(default_factory=list)


def load(base: Path, device: str) -> Any:
    """The base in NF4 with double quantisation and a fresh head of three classes."""
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["score"],
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, quantization_config=quantization, dtype=torch.bfloat16, device_map={"": device}
    )
    model.config.pad_token_id = 0
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # on a CPU, bitsandbytes' repacking makes later gradients wrong
    return model


def prepare(model: Any) -> Any:
    """The card's PEFT model, ready to train."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    model = prepare_model_for_kbit_training(
        model, use_gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": True}
    )
    model.config.use_cache = False
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, bias="none", task_type="SEQ_CLS", target_modules=TARGETS)
    return get_peft_model(model, lora)


def pad(rows: Sequence[Sequence[int]], device: str) -> dict[str, Any]:
    """input_ids and attention_mask [rows, longest], padded on the left."""
    longest = max(len(row) for row in rows)
    ids, mask = torch.zeros((len(rows), longest), dtype=torch.long), torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row)
        mask[i, longest - len(row) :] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def synchronize(device: str) -> None:
    """Wait for the GPU, so that a clock read after this means something."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def train_steps(
    model: Any, tokens: Sequence[Sequence[int]], labels: NDArray[Any], *, warmup: int, steps: int, device: str
) -> Timing:
    """`warmup` + `steps` optimiser steps on rows in the given (random) order, the latter timed one by one."""
    import bitsandbytes as bnb

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    paged = bnb.optim.PagedAdamW8bit if device.startswith("cuda") else bnb.optim.AdamW8bit
    optimizer = paged(trainable, lr=2e-4)
    model.train()
    timing, per_step = Timing(), MICRO_BATCH * ACCUMULATION
    for step in range(warmup + steps):
        synchronize(device)
        started, total, real, padded = time.perf_counter(), 0.0, 0, 0
        for start in range(step * per_step, (step + 1) * per_step, MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            batch = pad(tokens[rows], device)
            with torch.autocast(device.split(":", maxsplit=1)[0], torch.bfloat16):
                loss = model(**batch, labels=torch.from_numpy(labels[rows]).to(device)).loss / ACCUMULATION
            loss.backward()
            total += loss.detach()
            real, padded = real + sum(map(len, tokens[rows])), padded + batch["input_ids"].numel()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        timing.losses.append(float(total))
        if step >= warmup:
            timing.seconds.append(time.perf_counter() - started)
            timing.rows.append(per_step)
            timing.tokens, timing.padded = timing.tokens + real, timing.padded + padded
    return timing


def predict(model: Any, batches: Sequence[Any], encode: Callable[[Any], dict[str, Any]], device: str) -> list[int]:
    """Labels of all rows, a batch at a time and each copied to the host at once; `encode` makes the model's input of a batch."""
    labels: list[int] = []
    with torch.inference_mode():
        for batch in batches:
            logits = model(**{name: value.to(device) for name, value in encode(batch).items()}).logits
            labels += logits.argmax(-1).cpu().tolist()
    return labels


def time_inference(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    *,
    batch_rows: int,
    repeats: int,
    device: str,
) -> tuple[Timing, Timing]:
    """Passes over all rows in order of arrival: from texts to labels, and from ready tokens to labels."""
    starts = range(0, len(tokens), batch_rows)
    token_batches = [tokens[i : i + batch_rows] for i in starts]
    text_batches = [list(texts[i : i + batch_rows]) for i in starts]

    def tokenise(batch: list[str]) -> dict[str, Any]:
        encoded = tokenizer(batch, padding=True, truncation=True, max_length=128, return_tensors="pt")
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    model.eval()
    predict(model, token_batches[:2], lambda rows: pad(rows, device), device)  # warm-up
    real = sum(map(len, tokens))
    padded = sum(len(rows) * max(map(len, rows)) for rows in token_batches)
    timings = []
    for batches, encode in ((text_batches, tokenise), (token_batches, lambda rows: pad(rows, device))):
        timing = Timing(tokens=real * repeats, padded=padded * repeats)
        for _ in range(repeats):
            synchronize(device)
            started = time.perf_counter()
            predict(model, batches, encode, device)
            synchronize(device)
            timing.seconds.append(time.perf_counter() - started)
            timing.rows.append(len(tokens))
        timings.append(timing)
    return timings[0], timings[1]
