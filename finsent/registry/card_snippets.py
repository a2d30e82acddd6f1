"""The code blocks of a card: loading and inference with stock transformers and PEFT, runnable as they stand."""

from finsent.models.manifest import Manifest


def loading_an_adapter(manifest: Manifest, base: str, comment: str) -> str:
    """Two blocks of Python, as published cards have them. `base` is what they load the base from, `comment` a line above it."""
    q = manifest.quantization
    imports, quantization, argument = "AutoModelForSequenceClassification, AutoTokenizer", "", ""
    if q.kind == "nf4":
        imports += ", BitsAndBytesConfig"
        skip = ", ".join(f'"{name}"' for name in q.skip_modules)
        quantization = (
            "bnb_config = BitsAndBytesConfig(\n    load_in_4bit=True,\n"
            f'    bnb_4bit_quant_type="nf4",\n    bnb_4bit_use_double_quant={q.double},\n'
            f"    bnb_4bit_compute_dtype=torch.{q.compute_dtype},\n    llm_int8_skip_modules=[{skip}],\n)\n"
        )
        argument = "    quantization_config=bnb_config,\n"
    revision = f'    revision="{manifest.base_revision}",\n' if manifest.base_revision else ""
    above = f"# {comment}\n" if comment else ""
    return (
        "```python\nimport torch\nfrom peft import PeftModel\n"
        f"from transformers import {imports}\n\n"
        f'{above}base_model_name = "{base}"\nadapter_path = "."  # this folder\n\n'
        f"{quantization}base_model = AutoModelForSequenceClassification.from_pretrained(\n"
        f"    base_model_name,\n{revision}    num_labels={len(manifest.labels)},\n{argument}"
        f'    dtype=torch.{q.compute_dtype},\n    device_map="auto",\n)\n'
        f"{_tokenizer('adapter_path')}"
        "base_model.config.pad_token_id = tokenizer.pad_token_id\n"
        "model = PeftModel.from_pretrained(base_model, adapter_path)\nmodel.eval()\n```\n\n"
        f"{_inference(manifest)}"
    )


def loading_merged(manifest: Manifest, precision: str) -> str:
    """Two blocks of Python for a merged checkpoint, which needs neither PEFT nor the base."""
    return (
        "```python\nimport torch\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        'model_path = "."  # this folder\n\n'
        "model = AutoModelForSequenceClassification.from_pretrained(\n"
        f'    model_path, dtype=torch.{precision}, device_map="auto"\n)\n'
        f"{_tokenizer('model_path')}model.eval()\n```\n\n{_inference(manifest)}"
    )


def _tokenizer(path: str) -> str:
    return (
        f"tokenizer = AutoTokenizer.from_pretrained({path})\n"
        "if tokenizer.pad_token is None:\n    tokenizer.pad_token = tokenizer.eos_token\n"
    )


def _inference(manifest: Manifest) -> str:
    labels = ", ".join(f'{index}: "{label}"' for index, label in enumerate(manifest.labels))
    return (
        "```python\n"
        f"labels = {{{labels}}}\n"
        'texts = ["$AAPL to the moon! Great earnings, buying more calls!", "guidance cut again, $XYZ down 8% after hours"]\n\n'
        'inputs = tokenizer(\n    texts, return_tensors="pt", padding=True, truncation=True, '
        f"max_length={manifest.max_length}\n).to(model.device)\n"
        "with torch.no_grad():\n    logits = model(**inputs).logits.float()\n"
        f"probabilities = torch.softmax(logits / {manifest.temperature:.6g}, dim=-1)  # calibrated\n"
        "for text, index, row in zip(texts, logits.argmax(dim=-1).tolist(), probabilities.tolist()):\n"
        '    print(f"{labels[index]:8} {row[index]:.3f}  {text}")\n```'
    )
