import pytest
import torch

from finsent.config import Config, Recipe, load_config
from finsent.training.optimizer import learning_rate, make_optimizer


def test_cosine_starts_at_the_peak_and_ends_near_zero() -> None:
    recipe = load_config("llama-3.1-8b").recipe
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(2e-4)
    assert rates == sorted(rates, reverse=True)
    assert rates[50] == pytest.approx(1e-4)
    assert rates[-1] < 1e-6


def test_warm_up_rises_to_the_peak() -> None:
    recipe = Recipe(warmup_ratio=0.1, schedule="linear", learning_rate=1.0)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert max(rates) == 1.0
    assert Recipe(schedule="constant", learning_rate=1.0).learning_rate == learning_rate(
        Recipe(schedule="constant", learning_rate=1.0), 99, 100
    )


@pytest.mark.parametrize("name", ["paged_adamw_8bit", "adamw_8bit", "paged_adamw_32bit", "adamw_torch"])
def test_every_optimiser_by_its_cards_name_descends_on_a_cpu(name: str, tiny_config: Config) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(80, 80))
    optimizer = make_optimizer(tiny_config.recipe.model_copy(update={"optimizer": name, "learning_rate": 0.05}), [weight])
    losses = []
    for _ in range(20):
        loss = weight.square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
