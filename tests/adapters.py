"""Builds an adapter folder with manifest and probe, without training."""

import json
from pathlib import Path

from finsent.config import Config
from finsent.workspace import Workspace


def build_adapter(home: Workspace, config: Config, seed: int) -> Path:
    import torch

    from finsent.labels import LABELS
    from finsent.models.adapter import add_lora, head_sha256, load_adapter, load_tokenizer, save_adapter
    from finsent.models.base_model import load_base, locate_base
    from finsent.models.manifest import PROBE, Manifest, write_manifest
    from finsent.models.predict import predict_logits

    texts = [
        "$AAPL to the moon",
        "selling all my $TSLA, it will crash",
        "fed meets on tuesday",
        "beat on earnings",
        "puts printing",
    ]
    base = locate_base(config.model, home)
    tokenizer = load_tokenizer(base, config.model, texts * 20)
    torch.manual_seed(seed)
    model = load_base(base, config.model, "cpu")
    model.config.pad_token_id = tokenizer.pad_token_id
    peft_model = add_lora(model, config.lora, config.model.name)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:  # zero until trained, and then the adapter would do nothing
            torch.nn.init.normal_(parameter.data, std=0.05)
    folder = home.root / f"adapter-{seed}"
    folder.mkdir(parents=True)
    save_adapter(peft_model, tokenizer, folder)
    (folder / "README.md").unlink(missing_ok=True)
    manifest = Manifest(
        base_name=config.model.name,
        base_revision=base.revision,
        base_fingerprint=base.fingerprint,
        embedded=config.model.embedded,
        quantization=config.model.quantization,
        labels=LABELS,
        max_length=config.model.max_length,
        padding_side=config.model.padding_side,
        pad_token_id=tokenizer.pad_token_id,
        data_version=1,
        data_fingerprint="ab" * 16,
        split_rule="by hash of the near-duplicate group",
        config=config.model_dump(mode="json"),
        git_sha=None,
        lock_hash="0" * 64,
    )
    write_manifest(folder, manifest)
    loaded = load_adapter(folder, home)
    probe = {"texts": texts, "logits": predict_logits(loaded, texts).tolist(), "head_sha256": head_sha256(loaded.model)}
    (folder / PROBE).write_text(json.dumps(probe), encoding="utf-8")
    write_manifest(folder, manifest)
    return folder
