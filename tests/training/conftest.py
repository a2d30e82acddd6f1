from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from finsent.config import Config
from finsent.training.trainer import LabelledTexts, TrainingResult, train
from finsent.workspace import Workspace

UP = ["calls printing", "to the moon", "great beat", "loading up"]
DOWN = ["puts printing", "going to zero", "awful miss", "dumping it all"]
FLAT = ["reports on friday", "meets on tuesday", "names new cfo", "opens an office"]


@pytest.fixture(scope="session")
def rows() -> LabelledTexts:
    """Forty-eight texts that anything can learn."""
    texts = [f"${name} {phrase}" for name in ("AAPL", "TSLA", "NVDA", "AMD") for phrase in (*FLAT, *UP, *DOWN)]
    return LabelledTexts(texts, np.array(([0] * 4 + [1] * 4 + [2] * 4) * 4, dtype=np.int64))


@pytest.fixture
def run(
    tiny_config: Config, home: Workspace, rows: LabelledTexts, tmp_path: Path
) -> Callable[..., tuple[TrainingResult, list[dict[str, float]]]]:
    """`run(folder, engine=..., **recipe)`: train and collect the figures of each step."""

    def start(
        folder: str,
        *,
        stop_at: int | None = None,
        engine: Mapping[str, object] | None = None,
        lora: Mapping[str, object] | None = None,
        model: Mapping[str, object] | None = None,
        **recipe: object,
    ) -> tuple[TrainingResult, list[dict[str, float]]]:
        settings = {"epochs": 2.0, "batch_size": 16, "token_dropout": 0.0, "evaluate_every_epoch": False, **recipe}
        changed = {"recipe": settings, "engine": engine or {}, "lora": lora or {}, "model": model or {}}
        config = tiny_config.model_copy(
            update={name: getattr(tiny_config, name).model_copy(update=dict(values)) for name, values in changed.items()}
        )
        figures: list[dict[str, float]] = []

        def collect(step: int, values: dict[str, float]) -> None:
            figures.append(values)
            if stop_at is not None and step == stop_at:
                raise KeyboardInterrupt

        return train(config, home, rows, rows, tmp_path / folder, collect), figures

    return start
