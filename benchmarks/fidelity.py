"""Parity of the fast engines with the stock engine: logits and first gradients on one base, with an adapter whose B is not zero.

    python benchmarks/fidelity.py FOLDER --json fidelity.json
    python benchmarks/fidelity.py FOLDER --json fidelity.json --parts packed merged gradient

FOLDER holds the random base (16 GB, built on first use; other benchmarks share it). The adapter's updates are 1.5 % of the
weights' norm. Every part is compared with the stock engine on NF4 with the adapter live (the card's way), `fp8` with the merged
bf16 weights: `again` is the stock engine in other batches, its own noise; `off` is the base without its adapter, as if the
adapter were lost; `gradient` compares the gradients of 16 rows. Random weights amplify differences more than trained ones do:
`finsent` measures a real adapter on its workspace's held-out rows.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import llama8b
import measuring
import numpy as np
import torch
from numpy.typing import NDArray

from finsent.labels import LABELS
from finsent.models.adapter import LoadedAdapter, load_adapter
from finsent.models.predict import predict_logits, probabilities

ENGINES: Final = ("packed", "merged", "fp8")
"""Packed rows with the adapter live on NF4; merged into bf16; that in fp8."""
LIMITS: Final = {"packed": 2e-2, "merged": 2e-2}
"""Largest rms difference of logits in their standard deviations, bf16 (issue of the packed engine)."""
LEAST_COSINE: Final = 0.999


def compare(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, float]:
    """How far `logits` are from `reference`, both [N, classes].

    `rms_over_std` goes by the standard deviation of all reference logits, `rms_over_row_std` by that around each class's
    mean: where the classes' means lie far apart the former flatters.
    """
    difference = logits.astype(np.float64) - reference
    rms = float(np.sqrt((difference**2).mean()))
    centred = reference - reference.mean(axis=0)
    shift = np.abs(probabilities(logits, 1.0) - probabilities(reference, 1.0))
    return {
        "rms_over_std": float(f"{rms / float(reference.std()):.3g}"),
        "rms_over_row_std": float(f"{rms / float(centred.std()):.3g}"),
        "agreement": round(float((logits.argmax(1) == reference.argmax(1)).mean()), 4),
        "largest_logit_difference": float(f"{np.abs(difference).max():.3g}"),
        "largest_probability_difference": float(f"{shift.max():.3g}"),
    }


def stock_logits(adapter: Path, texts: Sequence[str], arguments: argparse.Namespace) -> dict[str, NDArray[np.float32]]:
    """The reference, the same in small batches of other neighbours, and the base with its head alone."""
    loaded = load_adapter(adapter, llama8b.home_in(arguments.folder))
    found = {"reference": predict_logits(loaded, texts), "again": predict_logits(loaded, texts, token_budget=256)}
    with loaded.model.disable_adapter():
        # PEFT takes its own head away with the adapter; the saved one is put in, so that only the updates are missing
        found["off"] = predict_logits(with_saved_head(loaded), texts)
    del loaded
    measuring.free()
    return found


def with_saved_head(loaded: LoadedAdapter) -> LoadedAdapter:
    """The same, its trained head also in the place that counts while the adapter is off."""
    wrapper = loaded.model.base_model.model.score
    wrapper.original_module.weight.data = wrapper.modules_to_save["default"].weight.data.to(wrapper.original_module.weight.dtype)
    return loaded


def engine_logits(
    name: str, base: Path, adapter: Path, texts: Sequence[str], arguments: argparse.Namespace
) -> NDArray[np.float32]:
    """Logits of one of the fast engines, as `prepare_for_inference` gives it."""
    from finsent.engine.fp8 import convert_to_fp8
    from finsent.engine.packed_forward import build_packed_model
    from finsent.models.load import prepare_for_inference

    loaded = load_adapter(adapter, llama8b.home_in(arguments.folder))
    if name == "packed":
        loaded = replace(loaded, packed=build_packed_model(loaded.model))
    else:
        config = llama8b.configure(base, "llama-3.1-8b", arguments.set)
        loaded = prepare_for_inference(loaded, config.engine, rows=len(texts))
    if name == "fp8":
        assert loaded.packed is not None, "a Llama is packed"
        loaded = replace(loaded, packed=convert_to_fp8(loaded.packed), precision="fp8")
    logits = predict_logits(loaded, texts)
    del loaded
    measuring.free()
    return logits


def first_gradient(
    engine: str, base: Path, texts: Sequence[str], arguments: argparse.Namespace
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Gradient over 16 rows, before clipping, of `adapters` and `head`, each end to end; and the loss.

    Dropout is off: engines draw it in other orders. B gets small values, else A would have no gradient.
    """
    from finsent.engine.flat_params import refresh_copies
    from finsent.training.setup import set_up

    overrides = [f"engine.training={engine}", "lora.dropout=0.0", *arguments.set]
    config = llama8b.configure(base, "llama-3.1-8b", overrides)
    run = set_up(config, llama8b.home_in(arguments.folder), texts[:16])
    draw = np.random.default_rng(arguments.seed)
    for parameter, place, *_ in sorted(
        [*run.flat_params.in_float32, *run.flat_params.in_copies], key=lambda item: item[1].data_ptr()
    ):
        if place.dim() == 2 and place.shape[1] == config.lora.r:
            place.copy_(torch.from_numpy(draw.normal(0, 0.01, parameter.shape).astype(np.float32)))
    refresh_copies(run.flat_params)
    run.model.train()
    loss = float(run.backward(run.tokens, llama8b.draw_labels(16, seed=arguments.seed).tolist(), 16))
    scale = run.accelerator.scaler.get_scale() if run.accelerator.scaler is not None else 1.0
    found: dict[str, list[NDArray[np.float32]]] = {"adapters": [], "head": []}
    by_place = sorted([*run.flat_params.in_float32, *run.flat_params.in_copies], key=lambda item: item[1].data_ptr())
    for _, place, gradient, *_ in by_place:
        kind = "head" if place.shape[0] == len(LABELS) else "adapters"
        found[kind].append((gradient / scale).cpu().numpy().ravel())
    del run
    measuring.free()
    return {kind: np.concatenate(parts) for kind, parts in found.items()}, loss


def compare_gradients(base: Path, texts: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Cosine of the first gradients of the stock and the packed engine, and their losses."""
    stock, stock_loss = first_gradient("stock", base, texts, arguments)
    other, loss = first_gradient("packed", base, texts, arguments)
    found: dict[str, Any] = {"parameters": sum(value.size for value in stock.values()), "losses": [stock_loss, loss]}
    for name, reference in stock.items():  # the head's gradient is the larger by far, and would hide the adapters'
        one, two = reference.astype(np.float64), other[name].astype(np.float64)
        norms = float(np.linalg.norm(one)), float(np.linalg.norm(two))
        found[f"cosine_{name}"] = round(float(np.dot(one, two)) / (norms[0] * norms[1]), 7)
        found[f"norms_{name}"] = [float(f"{norm:.6g}") for norm in norms]
    found["within_limit"] = min(found["cosine_adapters"], found["cosine_head"]) >= LEAST_COSINE
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama8b.add_options(parser)
    parser.add_argument("--parts", nargs="*", choices=[*ENGINES, "gradient"], default=[*ENGINES, "gradient"])
    parser.add_argument("--rows", type=int, default=256)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts in their order, one JSON file as they go."""
    arguments = parse(argv)
    base, _ = llama8b.build_base(arguments.folder, tiny=arguments.tiny)
    config = llama8b.configure(base, "llama-3.1-8b", arguments.set)
    adapter = llama8b.make_adapter(base, arguments.folder / "fidelity-adapter", config)
    count = max(arguments.rows, 16)
    texts = llama8b.write_texts(
        llama8b.draw_lengths(count, seed=arguments.seed, lengths=arguments.lengths), seed=arguments.seed
    ).texts
    found: dict[str, Any] = {
        "benchmark": "fidelity",
        "tiny": arguments.tiny,
        "environment": measuring.environment("cuda:0" if torch.cuda.is_available() else "cpu"),
        "rows": arguments.rows,
        "results": [],
        "finished": False,
    }
    logits: dict[str, NDArray[np.float32]] = {}
    with measuring.part("again", arguments.json, found) as result:
        logits |= stock_logits(adapter, texts[: arguments.rows], arguments)
        result.update({"against": "stock"} | compare(logits["again"], logits["reference"]))
    with measuring.part("off", arguments.json, found) as result:
        result.update({"against": "stock"} | compare(logits["off"], logits["reference"]))
    for name in arguments.parts:
        with measuring.part(name, arguments.json, found) as result:
            if name == "gradient":
                result.update({"against": "stock"} | compare_gradients(base, texts, arguments))
                continue
            logits[name] = engine_logits(name, base, adapter, texts[: arguments.rows], arguments)
            result.update({"against": "stock"} | compare(logits[name], logits["reference"]))
            if name in LIMITS:
                result["within_limit"] = result["rms_over_std"] <= LIMITS[name]
            if name == "fp8" and "merged" in logits:
                result["to_merged"] = compare(logits[name], logits["merged"])
    return measuring.finish(arguments.json, found)


if __name__ == "__main__":
    raise SystemExit(main())
