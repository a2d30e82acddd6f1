"""The embedded base, which needs no download: a small Llama with seeded weights, and a tokenizer trained on the data."""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from finsent.config import EmbeddedBase
from finsent.errors import DeviceError, one_line
from finsent.files import make_folder, sync
from finsent.labels import ID2LABEL, LABEL2ID

_log = logging.getLogger(__name__)

ROPE_THETA = 100.0
"""Base of the rotary frequencies; with the usual 10,000 few of them would tell neighbouring tokens of a tweet apart."""
BIAS_STRENGTH = 3.0
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def build_embedded_base(spec: EmbeddedBase, bases: Path) -> Path:
    """Folder of the embedded base under `bases`, in the Hub's layout, built on first use and where it is damaged.

    Raises:
        DeviceError: it cannot be written.
    """
    from transformers import LlamaConfig, LlamaForSequenceClassification

    digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:12]
    folder = bases / f"embedded-{digest}"
    if _is_whole(folder):
        return folder
    config = LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        id2label=dict(ID2LABEL),
        label2id=dict(LABEL2ID),
    )
    with torch.device("meta"):
        model = LlamaForSequenceClassification(config)
    # A generator of our own, in the order of the names: neither the global seed nor transformers' initialisers play a part, and
    # two processes at once write the same bytes.
    generator = torch.Generator().manual_seed(spec.seed)
    state = {}
    for name, parameter in sorted(model.named_parameters()):
        if name.endswith("norm.weight"):
            state[name] = torch.ones(parameter.shape)
        elif name.endswith("bias"):
            state[name] = torch.zeros(parameter.shape)
        else:
            state[name] = torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5
    _add_distance_biases(state, config)
    config.architectures = ["LlamaForSequenceClassification"]
    config.dtype = "float32"
    _write(folder, config, state)
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether the base is there and was not cut off or emptied; bytes changed within it are the fingerprint's to find."""
    from safetensors import SafetensorError, safe_open

    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with safe_open(folder / "model.safetensors", "pt"):
            return True
    except (OSError, ValueError, RecursionError, SafetensorError):
        return False


def _write(folder: Path, config: Any, state: dict[str, Any]) -> None:
    """Put the base in its place by one rename, also in that of a damaged one; what is half-written goes, however this ends.

    Raises:
        DeviceError: the disk is full, or the folder may not be written to.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")  # process ids repeat between containers that share a home
    made = partial / "made"
    try:
        make_folder(folder.parent)
        made.mkdir(parents=True)
        config.save_pretrained(made)
        save_file(state, made / "model.safetensors", metadata={"format": "pt"})
        for file in made.iterdir():  # or a power cut could leave the name and not the weights
            sync(file)
        if folder.exists() and not _is_whole(folder):
            _log.warning("the embedded base in %r is damaged: it is built again", str(folder))
            folder.rename(partial / "damaged")
        made.rename(folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        if not _is_whole(folder):  # else another process was first, with the same bytes
            raise DeviceError(
                f"the embedded base cannot be written to {str(folder)!r}: {one_line(error)}. Make room on that disk, and see "
                "that the folder may be written to."
            ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _add_distance_biases(state: dict[str, Any], config: Any) -> None:
    """Bias the first layer's heads towards fixed distances: head h starts by reading h tokens back, head 0 reads everywhere."""
    # Without pre-training no head finds the previous token, and a few thousand tweets do not teach it: word order would be
    # lost. Rotary embedding (arXiv:2104.09864) rotates queries and keys by their positions, so that constant ones (biases)
    # give a score that depends on distance alone: the sum over frequencies f of a^2 cos(f (distance - h)), greatest at h.
    head, half = config.head_dim, config.head_dim // 2
    frequency = ROPE_THETA ** (-torch.arange(half) / half)
    strength = BIAS_STRENGTH * (frequency > 0.15)
    key = torch.cat([strength, torch.zeros(half)])
    prefix = "model.layers.0.self_attn."
    state[f"{prefix}k_proj.bias"] = key.repeat(config.num_key_value_heads)
    queries = [torch.zeros(head)]
    for distance in range(1, config.num_attention_heads):
        angle = -distance * frequency
        queries.append(torch.cat([strength * angle.cos(), strength * angle.sin()]))
    state[f"{prefix}q_proj.bias"] = torch.cat(queries)
    for name in ("q_proj.weight", "k_proj.weight"):
        state[prefix + name] *= 0.25


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> Any:
    """Byte-level BPE trained on `texts` (the training split, nothing else), with its own padding token.

    Text is lower-cased and put into NFKC. URLs, handles, cashtags and numbers become one token each: a name that occurs
    once among a few thousand tweets only identifies that tweet.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"https?://\S+"), "http"),
            normalizers.Replace(Regex(r"(?<![\w])@\w+"), "@user"),
            normalizers.Replace(Regex(r"\$[A-Za-z][A-Za-z.]{0,6}\b"), "$ticker"),
            normalizers.Replace(Regex(r"\d+(?:[.,:]\d+)*"), "0"),
            normalizers.NFKC(),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A {EOS}", special_tokens=[(BOS, 1), (EOS, 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
