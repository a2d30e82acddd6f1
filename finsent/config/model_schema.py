"""Every configuration key of the base model, the adapter, training and the engine."""

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from finsent.environ import is_too_long

MOST: Final = 2**31 - 1
"""Bound of numbers that are only compared: what libraries and databases can count to."""


class Section(BaseModel):
    """Base of every section: immutable, strict about unknown keys, docstrings become the schema's descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class EmbeddedBase(Section):
    """A small Llama built on the spot from these numbers and a fixed seed; needs no download."""

    hidden_size: int = Field(gt=0, le=2**16)
    """Width of the residual stream."""
    intermediate_size: int = Field(gt=0, le=2**18)
    """Width of the gated MLP; a multiple of 64 (bitsandbytes' CPU kernels need it)."""
    layers: int = Field(gt=0, le=1024)
    """Number of decoder layers."""
    heads: int = Field(gt=0, le=1024)
    """Number of attention heads."""
    kv_heads: int = Field(gt=0, le=1024)
    """Number of key/value heads (grouped-query attention)."""
    vocab_size: int = Field(gt=260, le=2**20)
    """Size of the byte-level BPE, learnt from the training split alone."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed of the base's weights."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} must be an even multiple of heads = {self.heads}, and that a multiple of "
                f"kv_heads = {self.kv_heads}"
            )
        return self


class Quantization(Section):
    """How the frozen base weights are stored (QLoRA, arXiv:2305.14314)."""

    kind: Literal["nf4", "none"] = "nf4"
    """`nf4`: 4-bit NormalFloat through bitsandbytes; `none`: plain weights in `compute_dtype`."""
    double: bool = True
    """Quantise the quantisation constants too."""
    compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Type that matrix products run in. bitsandbytes would default to float32, silently slow."""
    skip_modules: tuple[str, ...] = ("score", "classifier", "pooler")
    """Modules never quantised: above all the classification head."""


class ModelConfig(Section):
    """The base model."""

    name: str
    """Hub id (`owner/name`), local folder (a relative one counts from the folder of the configuration file that it stands in), or
    `embedded` for the base built from `embedded`."""
    revision: str | None = None
    """Hub revision (a commit hash pins it). Left out, the Hub's default branch, recorded in the manifest once resolved."""
    embedded: EmbeddedBase | None = None
    """Shape of the embedded base; only with `name: embedded`."""
    quantization: Quantization = Quantization()
    """Storage of the base weights; part of the model's identity."""
    max_length: int = Field(default=128, gt=1, le=2**20)
    """Tokens kept of each text."""
    padding_side: Literal["left", "right"] = "left"
    """Side that padding goes to. The head pools the last real token either way."""

    @model_validator(mode="after")
    def _embedded_shape_given(self) -> Self:
        if is_too_long(self.name):
            raise ValueError("model.name is longer than the path of a folder can be")
        if (self.name == "embedded") != (self.embedded is not None):
            raise ValueError(f"model.embedded is given exactly when model.name is 'embedded', and model.name is {self.name!r}")
        return self


class LoraConfig(Section):
    """Low-rank adapters (arXiv:2106.09685)."""

    r: int = Field(default=16, gt=0, le=2**16)
    """Rank."""
    alpha: int = Field(default=32, gt=0, le=2**20)
    """Scale: updates are multiplied by alpha / r."""
    dropout: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Dropout on the adapters' input."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases train."""
    targets: tuple[str, ...] = Field(min_length=1)
    """Names of the linear modules that get adapters."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained whole and saved with the adapter, besides the head, which always is."""


class Recipe(Section):
    """How the adapter is trained."""

    epochs: float = Field(default=3.0, gt=0, le=10_000)
    """Passes over the training split."""
    batch_size: int = Field(default=4, gt=0, le=2**20)
    """Rows in one forward pass."""
    accumulation: int = Field(default=4, gt=0, le=2**20)
    """Forward passes to one optimiser step; batch_size x accumulation rows a step."""
    learning_rate: float = Field(default=2e-4, gt=0, le=1e3)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning-rate schedule after warm-up."""
    warmup_ratio: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the steps with a rising learning rate."""
    optimizer: Literal["paged_adamw_8bit", "adamw_8bit", "paged_adamw_32bit", "adamw_torch"] = "paged_adamw_8bit"
    """Optimiser by transformers' names. Paged ones run unpaged: the same arithmetic, and an adapter's states are small."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=1e3)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e9)
    """Gradient norm is clipped to this."""
    mixed_precision: Literal["none", "fp16", "bf16"] = "bf16"
    """Autocast type; `fp16` becomes bf16 where the hardware has it, and both float32 on a CPU that only emulates bf16."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more work. The packed engine does so only where memory is
    too short otherwise."""
    group_by_length: bool = False
    """Draw batches of similar length from random windows: less padding. The reference draws at random."""
    token_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each training text's tokens left out, drawn anew each time (word dropout, arXiv:1511.06349): keeps a base
    without pre-training from memorising its few thousand tweets. The reference uses none."""
    seed: int = Field(default=42, ge=0, le=2**32 - 1)
    """Seed of row order, dropout and the adapters' start."""
    checkpoint_every: int = Field(default=500, gt=0, le=MOST)
    """Optimiser steps between checkpoints."""
    evaluate_every_epoch: bool = True
    """Score the validation split after each epoch."""


def _on_and_off(value: Any) -> Any:
    """`on`, `off` and booleans mean `always` and `never`."""
    return {"true": "always", "on": "always", "false": "never", "off": "never"}.get(str(value).lower(), value)


class EngineConfig(Section):
    """How fast and in how much memory the same training and the same predictions are computed; no part of a model's identity."""

    training: Literal["auto", "stock", "packed"] = "auto"
    """`packed`: tokens end to end, no padding (Llama-like decoders); `stock`: padded, as transformers and PEFT do it, the
    reference. `auto`: packed where the base allows it."""
    inference: Literal["auto", "stock", "packed"] = "auto"
    """The same for scoring and evaluation. On a GPU, `packed` merges the adapter into dense weights where memory allows."""
    residency: Literal["auto", "nf4", "bf16"] = "auto"
    """How the frozen base of a quantised model lies in GPU memory: `nf4` (4.4 GiB for 8B) or `bf16` (15 GiB, the very values
    that NF4 stands for, faster). `auto` goes by free memory."""
    precision: Literal["bf16", "fp8"] = "bf16"
    """Type of the merged weights in scoring and evaluation on a GPU. `fp8` (Hopper and later) is used only while it passes the
    parity limits below on this home's held-out rows; otherwise bf16 is, with a log line."""
    compile: Annotated[Literal["auto", "always", "never"], BeforeValidator(_on_and_off)] = "auto"
    """Compile the layers, on a GPU; `auto`: when the work is long enough to pay for the compilation."""
    memory_gib: float | None = Field(default=None, gt=0, le=2**20)
    """Cap on the GPU memory that is used; left out, all that is free."""
    micro_batch_tokens: int | None = Field(default=None, gt=0, le=2**24)
    """Most tokens in one training pass of the packed engine; left out, the planner chooses from free memory."""
    batch_tokens: int | None = Field(default=None, gt=0, le=2**24)
    """Tokens in one inference pass of the packed engine; left out, the planner chooses."""
    devices: int | None = Field(default=None, gt=0, le=1024)
    """GPUs that scoring uses, a worker with the model on each; left out, all that are visible."""
    min_agreement: float = Field(default=0.99, ge=0.0, le=1.0)
    """fp8: least share of held-out rows with the same label as in bf16."""
    max_logit_error: float = Field(default=0.2, gt=0.0, le=1e6)
    """fp8: largest root-mean-square difference of logits to bf16, in standard deviations of the logits."""
    max_f1_drop: float = Field(default=0.002, ge=0.0, le=1.0)
    """fp8: largest loss of macro-F1 against bf16 on held-out rows."""


def _cluster_address(address: str) -> str:
    if address.startswith("ray://"):
        raise ValueError(
            f"{address!r} is the address of a Ray client. Run finsent on a node of the cluster (`ray start --address=HOST:6379`) "
            "and give the head's own address, HOST:6379, or auto"
        )
    if not re.fullmatch(r"auto|[^\s/:@?#\[\]]{1,253}:[1-9][0-9]{0,4}|\[[0-9A-Fa-f:.]{2,45}\]:[1-9][0-9]{0,4}", address):
        raise ValueError(
            f"{address!r} is no address of a Ray cluster. Give its head as HOST:PORT, such as 10.0.0.2:6379, or auto"
        )
    return address


class RayConfig(Section):
    """Where and how large Ray runs the model for scoring, with `scoring.engine: ray`."""

    address: Annotated[str, AfterValidator(_cluster_address)] | None = None
    """Cluster that this machine is a node of: its head as `host:port`, usually port 6379, or `auto` for the one that runs here.
    Left out, each run starts a cluster of this machine alone, and ends it."""
    min_actors: int = Field(default=1, ge=1, le=1024)
    """Scoring begins as soon as so many actors have loaded the model."""
    max_actors: int | None = Field(default=None, ge=1, le=1024)
    """Actors that the cluster is asked for; each joins once there is room for it. Left out, as many as fit on the cluster now."""
    cores_per_actor: int = Field(default=1, ge=1, le=1024)
    """Cores that Ray reserves for an actor."""
    gpus_per_actor: float = Field(default=0.0, ge=0.0, le=1.0)
    """GPUs that Ray reserves for an actor: 1, a share such as 0.5 where two models fit on one, or 0 to compute on the cores."""
    wait_seconds: float = Field(default=300.0, gt=0.0, le=86400.0)
    """Scoring fails after so long without room for `min_actors` at its start, or for any later. A cluster that adds machines on
    demand needs as long for one."""

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(
                f"scoring.ray.max_actors = {self.max_actors} is less than scoring.ray.min_actors = {self.min_actors}"
            )
        return self
