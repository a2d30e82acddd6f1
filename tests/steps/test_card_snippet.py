"""The published card's code, against `finsent predict`: stock transformers and PEFT in a new process, no finsent."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from finsent.models.adapter import load_adapter
from finsent.models.import_export import PROBE_TEXTS
from finsent.models.manifest import verify_manifest
from finsent.models.predict import predict_logits
from finsent.steps.context import make_context
from finsent.steps.import_export import export_adapter
from finsent.steps.predict import predict

if TYPE_CHECKING:
    from tests.steps.conftest import OnLlama

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading

PUBLISHED = """
import torch
from transformers import AutoTokenizer, AutoModelForSequenceClassification, BitsAndBytesConfig
from peft import PeftModel

bnb_config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_use_double_quant=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_dtype=torch.bfloat16
)
base_model = AutoModelForSequenceClassification.from_pretrained(
    "meta-llama/Llama-3.1-8B-Instruct",
    num_labels=3,
    quantization_config=bnb_config,
    device_map="auto"
)
tokenizer = AutoTokenizer.from_pretrained("path/to/adapter")
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
base_model.config.pad_token_id = tokenizer.pad_token_id
model = PeftModel.from_pretrained(base_model, "path/to/adapter")
model.eval()
"""
"""The reference card's settings (Llama-3.1-8B-Instruct, NF4, double quantisation, bfloat16), loaded as cards of its kind do."""


def blocks(card: str) -> list[str]:
    return [part.split("```")[0] for part in card.split("```python\n")[1:]]


def run(code: str, folder: Path, texts: list[str]) -> tuple[list[str], np.ndarray]:
    """Labels and logits [texts, 3] that the code has found; only paths and texts are replaced in it."""
    shown = "import json\nprint(json.dumps([[labels[i] for i in logits.argmax(dim=-1).tolist()], logits.tolist()]))\n"
    (line,) = [line for line in code.splitlines() if line.startswith("texts = [")]
    code = code.replace(line, f"texts = {texts!r}")
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{code}\n{shown}"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    labels, logits = json.loads(process.stdout.splitlines()[-1])
    return labels, np.array(logits)


def own(at: "OnLlama", texts: list[str]) -> tuple[list[str], np.ndarray]:
    result = predict(make_context(at.config, at.home), texts, version=at.version)
    return [row.label for row in result.predictions], predict_logits(load_adapter(at.adapter, at.home), texts)


def assert_same(theirs: tuple[list[str], np.ndarray], ours: tuple[list[str], np.ndarray]) -> None:
    """Equal labels, and logits within what rounding the head and activations to bfloat16 does."""
    assert theirs[0] == ours[0]
    assert len(set(ours[0])) > 1  # texts that all get one label would prove little
    assert np.sqrt(np.square(theirs[1] - ours[1]).mean()) < 3e-2 * ours[1].std()  # 1.8e-2 with AVX512-BF16 kernels


@pytest.mark.long
def test_the_exported_cards_code_gives_predicts_labels_and_logits(on_llama: Callable[..., Any], tmp_path: Path) -> None:
    at, folder = on_llama(), tmp_path / "exported"
    export_adapter(make_context(at.config, at.home), folder, version=at.version)
    code = "\n".join(blocks((folder / "README.md").read_text(encoding="utf-8")))
    assert_same(run(code, folder, list(PROBE_TEXTS)), own(at, list(PROBE_TEXTS)))


def test_the_published_cards_code_gives_predicts_labels_and_logits(
    on_llama: Callable[..., Any], llama_base: Path, tmp_path: Path
) -> None:
    at, folder = on_llama(), tmp_path / "exported"
    export_adapter(make_context(at.config, at.home), folder, version=at.version)
    inference = blocks((folder / "README.md").read_text(encoding="utf-8"))[1]
    loading = PUBLISHED.replace("meta-llama/Llama-3.1-8B-Instruct", str(llama_base)).replace("path/to/adapter", str(folder))
    assert_same(run(loading + inference, tmp_path, list(PROBE_TEXTS)), own(at, list(PROBE_TEXTS)))


@pytest.mark.long
def test_the_code_for_a_base_on_the_hub_runs_as_it_stands(
    on_llama: Callable[..., Any], on_hub: Callable[[Path, str], str], llama_base: Path, tmp_path: Path
) -> None:
    commit = on_hub(llama_base, "tester/small-llama")
    at, folder = on_llama("tester/small-llama"), tmp_path / "exported"
    exported = export_adapter(make_context(at.config, at.home), folder, version=at.version)
    assert exported.base is None
    assert verify_manifest(folder).base_revision == commit
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "base_model: tester/small-llama" in card
    code = "\n".join(blocks(card))
    assert f'revision="{commit}"' in code
    assert_same(run(code, folder, list(PROBE_TEXTS)), own(at, list(PROBE_TEXTS)))


def test_the_card_tells_of_no_folder_but_in_the_code(on_llama: Callable[..., Any], llama_base: Path, tmp_path: Path) -> None:
    at, folder = on_llama(), tmp_path / "exported"
    export_adapter(make_context(at.config, at.home), folder, version=at.version)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "base_model:" not in card  # a path is no model of the Hub's
    assert card.count(str(llama_base.parent)) == 1
    assert "put there where yours is" in card
