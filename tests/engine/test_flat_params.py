from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from finsent.config import Config
from finsent.engine.flat_params import collect_gradients, flatten_params, refresh_copies, using_master_weights
from finsent.errors import FinsentError
from finsent.training.checkpoint import resume_from_newest, save_checkpoint
from finsent.training.optimizer import make_optimizer

# 8-bit states: from 4,096 values on, in blocks of 256; sizes around both borders, and no multiples
SHAPES = {"a": (80, 80), "lora_b": (63, 101), "lora_c": (16, 256), "small": (17, 13), "lora_small": (4095,), "d": (4097,)}


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    module = torch.nn.Module()
    for name, shape in SHAPES.items():
        module.register_parameter(name, torch.nn.Parameter(torch.randn(shape)))
    module.register_parameter("frozen", torch.nn.Parameter(torch.randn(5), requires_grad=False))
    return module


def loss_of(module: Any, step: int) -> Any:
    """Something whose gradient differs with parameter, value and step."""
    torch.manual_seed(100 + step)
    return sum((p * torch.randn(p.shape)).sin().sum() + p.square().mean() for p in module.parameters() if p.requires_grad)


def trainable(module: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


def make(config: Config, name: str, parameters: Any) -> Any:
    return make_optimizer(
        config.recipe.model_copy(update={"optimizer": name, "learning_rate": 0.01, "weight_decay": 0.01}), parameters
    )


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["paged_adamw_8bit", "adamw_8bit", "paged_adamw_32bit", "adamw_torch"])
def test_flat_params_train_bit_for_bit_as_separate_tensors_do(tiny_config: Config, name: str) -> None:
    separate, flat = net(), net()
    classes = {
        "adamw_torch": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.01, fused=True),
        "paged_adamw_32bit": lambda p: bnb.optim.AdamW32bit(p, lr=0.01, weight_decay=0.01),
    }
    plain = classes.get(name, lambda p: bnb.optim.AdamW8bit(p, lr=0.01, weight_decay=0.01))(
        [p for p in separate.parameters() if p.requires_grad]
    )
    flat_params = flatten_params(flat)
    optimizer = make(tiny_config, name, flat_params.optimizer_params)
    with one_thread():
        for step in range(12):
            loss_of(separate, step).backward()
            plain.step()
            plain.zero_grad()
            loss_of(flat, step).backward()
            collect_gradients(flat_params)
            optimizer.step()
            flat_params.gradient.zero_()
            refresh_copies(flat_params)
    one, other = trainable(separate), trainable(flat)
    assert all(torch.equal(one[key], other[key]) for key in SHAPES)
    assert not torch.equal(one["a"], trainable(net())["a"])


def test_eight_bit_states_are_those_of_separate_tensors(tiny_config: Config) -> None:
    separate, flat = net(), net()
    plain = bnb.optim.AdamW8bit([p for p in separate.parameters() if p.requires_grad], lr=0.01, weight_decay=0.01)
    flat_params = flatten_params(flat)
    optimizer = make(tiny_config, "adamw_8bit", flat_params.optimizer_params)
    for step in range(4):
        loss_of(separate, step).backward()
        plain.step()
        plain.zero_grad()
        loss_of(flat, step).backward()
        collect_gradients(flat_params)
        optimizer.step()
        flat_params.gradient.zero_()
    quantised = optimizer.state[flat_params.optimizer_params[0]]
    blocks = 0
    for parameter, place, _ in flat_params.in_float32:
        name = next(key for key, p in flat.named_parameters() if p is parameter)
        own = plain.state[dict(separate.named_parameters())[name]]
        if parameter.numel() < 4096:
            assert own["state1"].dtype == torch.float32
            continue
        assert own["state1"].dtype == torch.uint8
        start = place.storage_offset()
        assert torch.equal(own["state1"].flatten(), quantised["state1"].flatten()[start : start + parameter.numel()])
        scales = quantised["absmax1"][start // 256 : start // 256 + len(own["absmax1"])]
        assert torch.equal(own["absmax1"], scales)
        blocks += len(scales)
    assert blocks == len(quantised["absmax1"])
    assert [p.numel() for p in flat_params.optimizer_params[1:]] == [17 * 13, 4095]


def test_parameters_live_in_the_flat_tensor() -> None:
    module = net()
    before = trainable(module)
    flat_params = flatten_params(module)
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters() if p.requires_grad)
    flat_params.master.add_(1)
    assert all(torch.equal(before[name] + 1, p) for name, p in module.named_parameters() if p.requires_grad)


def test_gradients_add_up_over_micro_batches() -> None:
    whole, parts = net(), net()
    flat_params = flatten_params(parts)
    for step in range(3):
        loss_of(whole, step).backward()
        loss_of(parts, step).backward()
        collect_gradients(flat_params)
    assert all(p.grad is None for p in parts.parameters())
    for parameter, _, grad in flat_params.in_float32:
        name = next(key for key, p in parts.named_parameters() if p is parameter)
        assert torch.allclose(dict(whole.named_parameters())[name].grad, grad, atol=1e-6)
    assert sum(int(p.grad.ne(0).sum()) for p in flat_params.optimizer_params) == int(flat_params.gradient.ne(0).sum())


def test_a_parameter_that_takes_no_part_is_named() -> None:
    for working, idle in ((None, "lora_b"), (None, "a"), (torch.bfloat16, "lora_b"), (torch.bfloat16, "a")):
        module = net()
        flat_params = flatten_params(module, working)
        sum(p.float().sum() for name, p in module.named_parameters() if p.requires_grad and name != idle).backward()
        with pytest.raises(FinsentError, match=f"'{idle}' gets no gradient"):
            collect_gradients(flat_params)


class _Lora(torch.nn.Module):
    """A layer with an adapter, whose product autocast computes in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lora_A = torch.nn.Linear(96, 64, bias=False)
        self.lora_B = torch.nn.Linear(64, 96, bias=False)
        self.head = torch.nn.Linear(96, 3, bias=False)

    def forward(self, x: Any) -> Any:
        adapted = self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
        return self.head(adapted.to(self.head.weight.dtype))


def test_copies_in_bfloat16_compute_what_autocast_does(tiny_config: Config) -> None:
    """The same casts of the same values, so the very same gradients, step after step."""
    cast, copied = _Lora(), _Lora()
    ordinary, working = flatten_params(cast), flatten_params(copied, torch.bfloat16)
    optimizers = [make(tiny_config, "adamw_torch", flat_params.optimizer_params) for flat_params in (ordinary, working)]
    assert {p.dtype for p in copied.parameters()} == {torch.bfloat16, torch.float32}
    for step in range(5):
        torch.manual_seed(step)
        x, labels = torch.randn(32, 96), torch.randint(0, 3, (32,))
        for model, flat_params in ((cast, ordinary), (copied, working)):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(x.bfloat16())
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            collect_gradients(flat_params)
        wanted, found = _gradients(ordinary), _gradients(working)
        assert wanted.keys() == found.keys() == {"lora_A.weight", "lora_B.weight", "head.weight"}
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)
        for flat_params, optimizer in zip((ordinary, working), optimizers, strict=True):
            optimizer.step()
            flat_params.gradient.zero_()
            refresh_copies(flat_params)
    with using_master_weights(working):
        assert all(torch.equal(one, other) for one, other in zip(cast.parameters(), copied.parameters(), strict=True))


def _gradients(flat_params: Any) -> dict[str, Any]:
    """Gradients by name."""
    return dict(zip(flat_params.names, [item[2] for item in (*flat_params.in_float32, *flat_params.in_copies)], strict=True))


def test_master_weights_are_shown_for_a_save_and_puts_the_copies_back() -> None:
    module = net()
    before = trainable(module)
    flat_params = flatten_params(module, torch.bfloat16)
    assert module.lora_b.dtype == torch.bfloat16
    assert module.a.dtype == torch.float32

    def load() -> None:
        with using_master_weights(flat_params):
            assert all(torch.equal(before[name], p) for name, p in module.named_parameters() if p.requires_grad)
            module.lora_b.data.fill_(0.5)
            raise KeyError

    with pytest.raises(KeyError):
        load()
    assert module.lora_b.dtype == torch.bfloat16
    assert bool((module.lora_b == 0.5).all())
    assert torch.equal(module.lora_small, before["lora_small"].bfloat16())


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_32bit", "adamw_torch"])
@pytest.mark.parametrize("working", [None, torch.bfloat16])
def test_a_checkpoint_brings_weights_and_states_back(tiny_config: Config, tmp_path: Path, name: str, working: Any) -> None:
    def go_on(module: Any, flat_params: Any, optimizer: Any, steps: range) -> dict[str, Any]:
        for step in steps:
            loss_of(module, step).float().backward()
            collect_gradients(flat_params)
            optimizer.step()
            flat_params.gradient.zero_()
            refresh_copies(flat_params)
        with using_master_weights(flat_params):  # padding is left out: nothing depends on it
            return trainable(module)

    first = net()
    flat_params = flatten_params(first, working)
    optimizer = make(tiny_config, name, flat_params.optimizer_params)
    go_on(first, flat_params, optimizer, range(3))
    with using_master_weights(flat_params):
        save_checkpoint(tmp_path, 3, first, optimizer)
    wanted = go_on(first, flat_params, optimizer, range(3, 6))

    second = net(seed=9)
    others = flatten_params(second, working)
    again = make(tiny_config, name, others.optimizer_params)
    with using_master_weights(others):
        assert resume_from_newest(tmp_path, second, again) == 3
    found = go_on(second, others, again, range(3, 6))
    assert all(torch.equal(found[name], wanted[name]) for name in SHAPES)


def test_a_checkpoint_of_another_order_is_refused(tmp_path: Path) -> None:
    from finsent.errors import InputError

    first, second = torch.nn.Linear(8, 8), torch.nn.Sequential(torch.nn.Linear(8, 8))
    one, other = flatten_params(first), flatten_params(second)
    assert one.layout != other.layout
    save_checkpoint(tmp_path, 1, first, torch.optim.AdamW(one.optimizer_params), layout=one.layout)
    with pytest.raises(InputError, match=r"another engine or version.*engine\.training"):
        resume_from_newest(tmp_path, second, torch.optim.AdamW(other.optimizer_params), layout=other.layout)
