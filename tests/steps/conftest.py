"""A base in the shape of Llama 3.1, small and random, in a folder as the Hub's, and a registered adapter on it."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from finsent.config import Config, load_config
from finsent.workspace import Workspace
from tests.adapters import build_adapter
from tests.homes import BuildOnce
from tests.steps.promotion import evaluated  # noqa: F401 - a fixture


@dataclass(frozen=True)
class OnLlama:
    """A registered version on the small Llama, nothing trained."""

    config: Config
    home: Workspace
    version: str
    adapter: Path


@pytest.fixture(scope="session")
def llama_base(build_once: BuildOnce) -> Path:
    """Saved as the base is published: a language model in bfloat16 without a head, a tokenizer without a padding token."""
    return build_once("llama", _build_llama)


def _build_llama(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    begin, end = "<|begin_of_text|>", "<|eot_id|>"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[begin, end], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["to the moon, buying more calls", "guidance cut again, down after hours"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end).save_pretrained(folder)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=400,
        bos_token_id=0, eos_token_id=1, tie_word_embeddings=False, initializer_range=0.09, max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


@pytest.fixture
def on_llama(llama_base: Path, mlflow_home: Workspace) -> Callable[[str], OnLlama]:
    """`on_llama(name)`: register an adapter, made by the reference profile, on the base of that name (a folder or Hub id)."""
    from finsent.registry import tracking
    from finsent.registry.client import Registry

    def register(name: str = str(llama_base)) -> OnLlama:
        config = load_config("llama-3.1-8b", overrides=[f"model.name={name}", "gate.bootstrap_resamples=100"])
        adapter = build_adapter(mlflow_home, config, 0)
        with tracking.start_run(config, mlflow_home, kind="train") as run_id:
            version = Registry(mlflow_home, config.registered_model).register(adapter, run_id=run_id, profile=config.profile)
        return OnLlama(config, mlflow_home, version, adapter)

    return register


@pytest.fixture
def on_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], str]:
    """`on_hub(folder, name)`: put a folder into the Hub's cache as a repository's branch `main`; returns the commit."""
    cache = tmp_path / "hub-cache"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))  # for new processes
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    def publish(folder: Path, name: str) -> str:
        commit = hashlib.sha256(name.encode()).hexdigest()[:40]
        repository = cache / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        return commit

    return publish
