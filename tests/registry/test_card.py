"""The model card: true to the manifest, honest about what is missing, its snippet runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finsent.config import load_config
from finsent.errors import InputError
from finsent.evaluation.evidence import Evidence
from finsent.labels import LABELS
from finsent.model.manifest import verify
from finsent.pipeline.exchange import export_adapter, import_adapter
from finsent.pipeline.predict import predict
from finsent.registry.card import render_card

CLASSES = {label: {"precision": 0.7, "recall": 0.8, "f1": 0.75, "support": 100} for label in LABELS}
EVIDENCE = Evidence(
    model_name="finsent",
    model_version="4",
    leaks=0,
    ece=0.021,
    metrics={"n": 300, "accuracy": 0.7512, "macro_f1": 0.7345, "mcc": 0.61, "per_class": CLASSES, "confusion": [[100, 0, 0]] * 3},
    intervals={
        "accuracy": {"low": 0.71, "high": 0.79, "level": 0.95},
        "macro_f1": {"low": 0.70, "high": 0.77, "level": 0.95},
    },
    per_source={"pyfin": {"n": 300, "accuracy": 0.7512, "macro_f1": 0.7345, "baseline_accuracy": 0.69}},
    baseline={
        "accuracy": 0.69,
        "macro_f1": 0.66,
        "mcnemar": {"only_a": 40, "only_b": 20, "p_one_sided": 0.01, "p_two_sided": 0.02},
    },
)


@pytest.fixture
def manifest(make_adapter):
    return verify(make_adapter(0))


def snippet(card):
    return "\n".join(block.split("```")[0] for block in card.split("```python\n")[1:])


def test_card_states_settings_scores_and_limits(manifest):
    card = render_card(manifest, EVIDENCE)
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["library_name"] == "peft"
    assert header["model-index"][0]["results"][0]["metrics"][0] == {"type": "accuracy", "name": "Accuracy", "value": 0.7512}
    for line in (
        "| LoRA | r 16, alpha 32, dropout 0.05, bias none |",
        "| base weights | NF4, double quantisation, computes in bfloat16 |",
        "| accuracy | 0.7512 | 0.7100 to 0.7900 | 0.6900 |",
        "| Bearish | 0.7000 | 0.8000 | 0.7500 | 100 |",
        "| pyfin | 300 | 0.7512 | 0.7345 | 0.6900 |",
        "pairs found across splits: 0",
        "`0` Neutral, `1` Bullish, `2` Bearish",
        "Not financial advice",
    ):
        assert line in card


def test_card_without_evidence_claims_nothing(manifest):
    card = render_card(manifest)
    assert "Not evaluated yet" in card
    assert "across splits: not audited" in card
    assert "model-index" not in card
    partial = render_card(
        manifest, EVIDENCE.model_copy(update={"intervals": None, "ece": None, "baseline": None, "per_source": None})
    )
    assert "| accuracy | 0.7512 | not measured | not measured |" in partial


def test_card_of_an_adapter_from_elsewhere_claims_no_training(manifest):
    card = render_card(manifest.model_copy(update={"data_version": None, "data_fingerprint": None}), EVIDENCE)
    assert "how is not known to finsent" in card
    assert "upper bound" in card
    assert "learning rate" not in card


def test_card_of_an_adapter_trained_on_other_data_does_not_claim_that_the_test_rows_are_new_to_it(manifest):
    unknown = EVIDENCE.model_copy(update={"leaks": None, "leaks_unknown_because": "It is not known whether it trained on these."})
    card = render_card(manifest, unknown)
    assert "of a table `tweets`" in card
    assert "It is not known whether it trained on these." in card
    assert "was not trained on" not in card


def test_card_of_the_reference_model(manifest):
    config = load_config("llama-3.1-8b")
    card = render_card(
        manifest.model_copy(
            update={
                "base_name": config.model.name,
                "embedded": None,
                "quantization": config.model.quantization,
                "config": config.model_dump(mode="json"),
            }
        )
    )
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["base_model"], header["license"]) == ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1")
    assert "`hf://TimKoornstra/financial-tweets-sentiment`" in card
    assert "| rows per step | 4 x 4 |" in card
    assert "the card says fp16" in card
    code = snippet(card)
    compile(code, "card", "exec")
    for part in ("BitsAndBytesConfig(", "AutoModelForSequenceClassification.from_pretrained(", "PeftModel.from_pretrained("):
        assert part in code
    assert 'bnb_4bit_quant_type="nf4"' in code


@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_snippet_runs_on_an_exported_folder_as_it_stands(mlflow_home, tiny_config, new_version, tmp_path, monkeypatch):
    version = new_version(0)
    monkeypatch.chdir(tmp_path)
    exported = export_adapter(tiny_config, mlflow_home, Path("out/mine"), version=version)
    folder = tmp_path / "out" / "mine"
    assert exported.base == tmp_path / "out" / "mine-base"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["mine", "mine-base"]
    verify(folder)
    code = snippet((folder / "README.md").read_text(encoding="utf-8"))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    stated = [(line.split()[0], float(line.split()[1])) for line in run.stdout.strip().splitlines()[-2:]]
    texts = ["$AAPL to the moon! Great earnings, buying more calls!", "guidance cut again, $XYZ down 8% after hours"]
    own = predict(tiny_config, mlflow_home, texts, version=version).predictions
    assert [label for label, _ in stated] == [row.label for row in own]
    # the snippet's head is rounded to the base's bfloat16, finsent's own load keeps it in float32
    assert [confidence for _, confidence in stated] == pytest.approx([row.confidence for row in own], abs=0.02)
    assert import_adapter(tiny_config, mlflow_home, folder).model_version == "2"


def test_export_overwrites_nothing(mlflow_home, tiny_config, new_version, tmp_path):
    version = new_version(0)
    (tmp_path / "mine-base").mkdir()
    (tmp_path / "mine-base" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="mine-base' exists and is not an empty folder"):
        export_adapter(tiny_config, mlflow_home, tmp_path / "mine", version=version)
    assert not (tmp_path / "mine").exists()
