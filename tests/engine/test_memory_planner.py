import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.config import EngineConfig, ModelConfig, Quantization
from finsent.engine.memory_planner import (
    GIB,
    InferencePlan,
    ModelShape,
    TrainingPlan,
    activation_bytes,
    plan_inference,
    plan_training,
    shape_from_config,
)

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
SHAPE = ModelShape(layers=32, hidden=4096, intermediate=14336, body=6_979_321_856, embedding=525_336_576)
MODEL = ModelConfig(name="meta-llama/Llama-3.1-8B-Instruct")
DENSE = MODEL.model_copy(update={"quantization": Quantization(kind="none")})
TRAINABLE = 41_943_040


def training(
    gib: float | None,
    *,
    model: ModelConfig = MODEL,
    unsupported_reason: str | None = None,
    step_tokens: int = 1024,
    **engine: object,
) -> TrainingPlan:
    return plan_training(
        EngineConfig(**engine),  # type: ignore[arg-type]
        model,
        SHAPE,
        usable=None if gib is None else gib * GIB,
        trainable=TRAINABLE,
        step_tokens=step_tokens,
        max_seqlen=128,
        total_tokens=4_000_000,
        unsupported_reason=unsupported_reason,
    )


def inference(
    gib: float,
    *,
    rows: int = 10_000,
    quantization: str = "nf4",
    unsupported_reason: str | None = None,
    on_gpu: bool = True,
    **engine: object,
) -> InferencePlan:
    settings = EngineConfig(**engine)  # type: ignore[arg-type]
    return plan_inference(
        settings, quantization, SHAPE, usable=gib * GIB, on_gpu=on_gpu, rows=rows, unsupported_reason=unsupported_reason
    )


def test_the_shape_of_llama_is_read_from_its_configuration() -> None:
    assert shape_from_config(LLAMA_8B) == SHAPE
    assert shape_from_config({**LLAMA_8B, "head_dim": 64}) != SHAPE
    assert shape_from_config({"hidden_size": 4096}) is None


def test_a_card_of_16_gib_trains_on_the_4_bit_base() -> None:
    plan = training(16)
    assert (plan.engine, plan.residency, plan.checkpointing, plan.graphs) == ("packed", "nf4", False, True)
    assert plan.tokens is not None
    assert 128 <= plan.tokens <= 1024
    assert "16.0 GiB usable; base nf4 3.7 GiB" in plan.reason
    assert f"passes of up to {plan.tokens:,} tokens" in plan.reason


def test_a_card_of_80_gib_trains_on_the_dense_base_in_one_pass() -> None:
    plan = training(80)
    assert (plan.engine, plan.residency, plan.checkpointing, plan.graphs) == ("packed", "bf16", False, True)
    assert plan.tokens == 1024  # the whole step
    assert "80.0 GiB usable; base bf16 13.0 GiB" in plan.reason


def test_a_dense_base_stays_as_it_is_loaded() -> None:
    assert training(80, model=DENSE).residency == "as loaded"


def test_a_tiny_card_recomputes_activations() -> None:
    assert not training(9).checkpointing
    plan = training(6.5)
    assert (plan.engine, plan.residency, plan.checkpointing, plan.graphs) == ("packed", "nf4", True, False)
    assert activation_bytes(SHAPE, compiled=False, checkpointing=True) < activation_bytes(SHAPE, compiled=False) / 10


def test_caps_are_kept() -> None:
    assert training(80, micro_batch_tokens=300).tokens == 300
    assert training(80, residency="nf4").residency == "nf4"
    assert training(16, residency="bf16").residency == "bf16"
    assert training(140, step_tokens=100_000).tokens == 8192
    assert training(80, step_tokens=20).tokens == 128  # the longest row must fit, whatever an ordinary step holds
    assert training(80, compile="always").compiled
    assert not training(80, compile="never").compiled


def test_what_cannot_be_packed_trains_as_ever_and_says_why() -> None:
    plan = training(80, unsupported_reason="'bert' is no decoder")
    assert (plan.engine, plan.tokens, plan.reason) == ("stock", None, "'bert' is no decoder")
    assert training(80, training="stock").reason == "engine.training is stock"
    cpu = training(None)
    assert (cpu.engine, cpu.residency, cpu.graphs, cpu.compiled) == ("packed", "as loaded", False, False)


@given(first=st.floats(6, 200), second=st.floats(6, 200), step_tokens=st.integers(1, 20_000))
def test_more_memory_never_gives_fewer_tokens_on_the_same_base(first: float, second: float, step_tokens: int) -> None:
    less, more = sorted((first, second))
    small, large = training(less, step_tokens=step_tokens), training(more, step_tokens=step_tokens)
    assert small.tokens is not None
    assert large.tokens is not None
    if (small.residency, small.checkpointing) == (large.residency, large.checkpointing):
        assert small.tokens <= large.tokens
    assert not (large.checkpointing and not small.checkpointing and large.residency == small.residency)
    assert (small.residency, large.residency) != ("bf16", "nf4")


@given(gib=st.floats(16, 200), step_tokens=st.integers(1, 20_000))
def test_what_is_planned_fits_by_its_own_figures(gib: float, step_tokens: int) -> None:
    plan = training(gib, step_tokens=step_tokens)
    assert plan.tokens is not None
    base = {"nf4": 0.5625, "bf16": 2.0}[plan.residency] * SHAPE.body + 2 * SHAPE.embedding
    work = activation_bytes(SHAPE, compiled=plan.compiled, checkpointing=plan.checkpointing) * plan.tokens
    assert base + work + 14 * TRAINABLE <= gib * GIB


def test_scoring_on_a_small_card_leaves_the_adapter_live() -> None:
    plan = inference(6)
    assert (plan.engine, plan.merged) == ("packed", False)
    assert plan.tokens is not None
    assert plan.tokens >= 256
    assert "6.0 GiB free beside the base: adapter live on the base" in plan.reason


def test_scoring_on_a_card_of_24_gib_merges() -> None:
    plan = inference(24 - 4.5)
    assert (plan.engine, plan.merged) == ("packed", True)
    assert "19.5 GiB free beside the base: adapter merged into dense weights" in plan.reason


def test_scoring_keeps_its_caps_and_reasons() -> None:
    assert inference(80, batch_tokens=1000).tokens == 1000
    assert inference(80).tokens == 8192
    assert inference(80, inference="stock").reason == "engine.inference is stock"
    assert inference(80, rows=10_000_000).compiled
    assert not inference(80, rows=1_000).compiled
    assert (
        plan_inference(EngineConfig(), "nf4", None, usable=1e12, on_gpu=True, rows=1, unsupported_reason=None).engine == "stock"
    )


def test_a_base_that_cannot_be_packed_is_merged_all_the_same() -> None:
    plan = inference(80, unsupported_reason="'bert' is no decoder")
    assert (plan.engine, plan.merged, plan.compiled) == ("stock", True, False)
    assert plan.reason == "adapter merged into dense weights; padded, since 'bert' is no decoder"


def test_scoring_on_a_cpu_takes_half_of_the_memory_at_most() -> None:
    plan = inference(64, on_gpu=False, batch_tokens=77)
    assert (plan.engine, plan.merged, plan.tokens, plan.compiled) == ("packed", True, 77, False)
    assert not inference(16, on_gpu=False).merged


@given(rows=st.integers(1, 10**8), gib=st.floats(2, 100), on_gpu=st.booleans())
def test_whether_the_adapter_is_merged_does_not_depend_on_the_work(rows: int, gib: float, on_gpu: bool) -> None:
    assert inference(gib, rows=rows, on_gpu=on_gpu).merged == inference(gib, rows=1, on_gpu=on_gpu).merged


@given(first=st.floats(2, 200), second=st.floats(2, 200), quantization=st.sampled_from(["nf4", "none"]))
def test_more_memory_never_scores_in_smaller_passes(first: float, second: float, quantization: str) -> None:
    less, more = sorted((first, second))
    small, large = (inference(gib, quantization=quantization) for gib in (less, more))
    assert small.tokens is not None
    assert large.tokens is not None
    if small.merged == large.merged:
        assert small.tokens <= large.tokens
    assert large.merged or not small.merged


@pytest.mark.parametrize("gib", [0.5, 2.0])
def test_no_room_at_all_still_plans_single_rows(gib: float) -> None:
    plan = training(gib)
    assert plan.checkpointing
    assert plan.tokens == 128
