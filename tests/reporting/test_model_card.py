"""Model cards: true to manifest and evidence, explicit about what is missing, valid code and metadata."""

from dataclasses import astuple
from itertools import pairwise

import pytest
import yaml

from finsent.config import load_config
from finsent.models.manifest import verify_manifest
from finsent.registry.gate import evaluate_gate
from finsent.reporting.model_card import render_card_page, render_merged_card, render_model_card
from finsent.reporting.summaries import gate_preview


@pytest.fixture
def manifest(make_adapter):
    return verify_manifest(make_adapter(0))


def snippet(card):
    return "\n".join(block.split("```")[0] for block in card.split("```python\n")[1:])


def test_card_states_settings_scores_and_limits(manifest, specimen):
    evidence = specimen.evidence
    metrics, interval = evidence.metrics, evidence.intervals["accuracy"]
    found = evaluate_gate(evidence, load_config().gate, "3")
    verdict = gate_preview("4", found.decision, found.reasons, map(astuple, found.rules))
    card = render_model_card(manifest.model_copy(update={"abstain_below": 0.7359}), evidence, decision=verdict)
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["library_name"] == "peft"
    stated = header["model-index"][0]["results"][0]["metrics"]
    assert stated[0] == {"type": "accuracy", "name": "Accuracy", "value": round(metrics["accuracy"], 4)}
    bearish, champion, source = metrics["per_class"]["Bearish"], evidence.champion["metrics"], evidence.slices["source"]["fiqa"]
    for line in (
        "| LoRA | r 16, alpha 32, dropout 0.05, bias none |",
        "| base weights | NF4, double quantisation, computes in bfloat16 |",
        f"| accuracy | {metrics['accuracy']:.4f} | {interval['low']:.4f} to {interval['high']:.4f} |",
        f"| Brier score | {evidence.calibration['brier']:.4f} |",
        f"| Bearish | {bearish['precision']:.4f} | {bearish['recall']:.4f} | {bearish['f1']:.4f} | {bearish['support']} |",
        f"| source = fiqa | {source['n']} | {source['accuracy']:.4f} |",
        f"| champion, version 3 | {champion['accuracy']:.4f} |",
        "| case | stay | 300 | 24.0% |",
        "This test set can detect differences above",
        "used twice with exactly these rows",
        "| abstains below | 0.7359 |",
        f"On these rows it answers {evidence.calibration['abstention']['coverage']:.1%}",
        "pairs found across splits: 0",
        "would have reported an accuracy of 0.900",
        "612 tweets/s",
        "Version 4 would be refused by the gate",
        "under case (300 texts): 0.24, required at most 0.2.",
        "`0` Neutral, `1` Bullish, `2` Bearish",
        "Not financial advice",
        "@software{finsent,",
    ):
        assert line in card


def test_a_card_says_so_where_the_version_always_answers(manifest, specimen):
    always = manifest.model_copy(update={"abstain_below": 0.0})
    found = {**specimen.evidence.calibration["abstention"], "threshold": 0.0}
    evidence = specimen.evidence.model_copy(update={"calibration": {**specimen.evidence.calibration, "abstention": found}})
    for card in (render_model_card(always), render_model_card(always, evidence)):
        assert "| abstains below | never: always answers |" in card
        assert "It always answers" in card
        assert "Below a confidence" not in card


def test_slices_too_small_to_be_judged_are_left_out_but_no_source(manifest, specimen):
    card = render_model_card(
        manifest.model_copy(update={"config": {**manifest.config, "gate": {"min_slice_rows": 400}}}), specimen.evidence
    )
    assert "| source = fiqa |" in card
    assert "| length = 9 to 16 words |" in card
    assert "| emoji = emoji |" not in card


def test_card_without_evidence_claims_nothing(manifest, specimen):
    card = render_model_card(manifest)
    assert "Not evaluated yet" in card
    assert "across splits: not audited" in card
    assert "model-index" not in card
    for heading in ("## Robustness", "## Promotion", "## Speed", "## Against"):
        assert heading not in card
    gone = dict.fromkeys(
        ("intervals", "ece", "baselines", "slices", "calibration", "robustness", "speed", "test_set_uses", "champion")
    )
    partial = render_model_card(manifest, specimen.evidence.model_copy(update=gone))
    assert "| not measured | not measured |" in partial
    assert "## Robustness\n\nNot measured." in partial
    assert "is not on record" in partial
    assert "No decision of the registry gate was known" in partial


def test_card_of_an_adapter_from_elsewhere_claims_no_training(manifest, specimen):
    card = render_model_card(manifest.model_copy(update={"data_version": None, "data_fingerprint": None}), specimen.evidence)
    assert "how is not known to finsent" in card
    assert "upper bound" in card
    assert "learning rate" not in card
    assert "fitted no temperature" in card


def test_card_of_an_adapter_trained_on_other_data_does_not_claim_that_the_test_rows_are_new_to_it(manifest, specimen):
    unknown = {"leaks": None, "leaks_unknown_reason": "It is not known whether it trained on these."}
    card = render_model_card(manifest, specimen.evidence.model_copy(update=unknown))
    assert "of a table `tweets`" in card
    assert "It is not known whether it trained on these." in card
    assert "was not trained on" not in card


@pytest.mark.parametrize(
    ("base", "licence", "said"),
    [
        (
            "meta-llama/Llama-3.1-8B-Instruct",
            "llama3.1",
            "Built with Llama.** Llama 3.1 is licensed under the Llama 3.1 Community",
        ),
        ("meta-llama/Llama-3.2-1B", "llama3.2", "Llama 3.2 Community License"),
        ("meta-llama/Meta-Llama-3-8B", "llama3", "Llama 3 Community License"),
        ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0", "apache-2.0, as the base"),
        ("someone/a-model", "other", "finsent does not know"),
    ],
)
def test_the_licence_of_the_base_binds_the_card(manifest, base, licence, said):
    card = render_model_card(manifest.model_copy(update={"base_name": base, "embedded": None}))
    assert yaml.safe_load(card.split("---\n")[1])["license"] == licence
    assert said in card


def test_a_card_is_a_page_too_and_obeys_no_markup_of_others(manifest, specimen):
    evidence = specimen.evidence
    rude = {"<img src=x>|y": evidence.slices["source"]["fiqa"]}
    card = render_model_card(manifest, evidence.model_copy(update={"slices": {"source": rude}}))
    page = render_card_page(card)
    assert "<h1>Financial-tweet sentiment" in page
    assert "<table>" in page
    assert ">source = &lt;img src=x&gt;|y</td>" in page
    assert "Metadata of the card" in page
    assert "library_name: peft" in page
    assert "<img" not in page
    assert render_card_page("no header, no title").count("Model card") == 1


def test_nothing_of_others_reorders_a_page(manifest, specimen):
    rude = {"up\u202enwod \u2066": specimen.evidence.slices["source"]["fiqa"]}
    page = render_card_page(render_model_card(manifest, specimen.evidence.model_copy(update={"slices": {"source": rude}})))
    assert "up\\u202enwod" in page
    assert not any(mark in page for mark in "\u202e\u2066")


def test_card_of_the_reference_model(manifest):
    config = load_config("llama-3.1-8b")
    card = render_model_card(
        manifest.model_copy(
            update={
                "base_name": config.model.name,
                "embedded": None,
                "quantization": config.model.quantization,
                "config": config.model_dump(mode="json"),
                "sources": ("hf://TimKoornstra/financial-tweets-sentiment",),
            }
        )
    )
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["base_model"], header["license"]) == ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1")
    assert "`hf://TimKoornstra/financial-tweets-sentiment`" in card
    assert "| rows per step | 4 x 4 |" in card
    assert "title = {The Llama 3 Herd of Models}" in card
    assert "Hugging Face dataset TimKoornstra/financial-tweets-sentiment" in card
    assert "the card says fp16" in card
    code = snippet(card)
    compile(code, "card", "exec")
    for part in ("BitsAndBytesConfig(", "AutoModelForSequenceClassification.from_pretrained(", "PeftModel.from_pretrained("):
        assert part in code
    assert 'bnb_4bit_quant_type="nf4"' in code


def test_card_of_a_merged_checkpoint_states_origin_scores_and_needs_no_peft(manifest, specimen):
    card = render_merged_card(manifest, "bfloat16", "It is close to its adapter.", specimen.evidence)
    header = yaml.safe_load(card.split("---\n")[1])
    assert (header["library_name"], "merged-lora" in header["tags"]) == ("transformers", True)
    assert "model-index" not in header  # the scores are the adapter's
    for line in (
        "with its LoRA adapter merged in, bfloat16",
        "rounded once to bfloat16",
        "It is close to its adapter.",
        "from a fresh load of the adapter on its base, before they were merged",
        "The model is valid only in this precision",
    ):
        assert line in card
    assert "## Promotion" not in card
    code = snippet(card)
    compile(code, "card", "exec")
    assert "peft" not in code


def test_a_card_has_no_stray_blank_lines_in_its_tables(manifest, specimen):
    for card in (render_model_card(manifest, specimen.evidence), render_merged_card(manifest, "float32", "Close.")):
        lines = card.splitlines()
        for above, below in pairwise(lines):
            assert not above.startswith("| :---") or below.startswith("| ")
        assert "\n\n\n" not in card
        assert card.endswith("```\n")


def test_the_card_speaks_of_what_was_read_and_not_of_the_profile(manifest):
    config = load_config("llama-3.1-8b", overrides=["data.languages=[de,fr]"]).model_dump(mode="json")
    read = {"config": config, "sources": ("desk.csv",), "split_rule": "by time, validation from 2026-01-01, test from 2026-02-01"}
    card = render_model_card(manifest.model_copy(update=read))
    assert "Sources: `desk.csv`." in card
    assert "Split rule: by time, validation from" in card
    assert "financial-tweets-sentiment" not in card, "a data set that was never used"
    assert yaml.safe_load(card.split("---\n")[1])["language"] == ["de", "fr"]
    assert "in the languages de, fr" in card
    unknown = render_model_card(manifest.model_copy(update={"config": {**config, "data": {**config["data"], "languages": []}}}))
    assert "English" not in unknown
    assert "language" not in yaml.safe_load(unknown.split("---\n")[1])
    assert "Sources:" not in unknown
