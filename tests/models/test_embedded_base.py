import resource
from pathlib import Path

import pytest
import torch
from transformers import LlamaForSequenceClassification

from finsent.config import Config, EmbeddedBase
from finsent.errors import DeviceError
from finsent.models.embedded_base import build_embedded_base, train_tokenizer

SPEC = EmbeddedBase(hidden_size=128, intermediate_size=128, layers=2, heads=4, kv_heads=2, vocab_size=400, seed=3)


def test_equal_specs_give_equal_bytes_and_other_seeds_others(tmp_path: Path) -> None:
    first = (build_embedded_base(SPEC, tmp_path / "a") / "model.safetensors").read_bytes()
    torch.manual_seed(99)  # the global seed plays no part
    assert (build_embedded_base(SPEC, tmp_path / "b") / "model.safetensors").read_bytes() == first
    other = SPEC.model_copy(update={"seed": 4})
    assert (build_embedded_base(other, tmp_path / "a") / "model.safetensors").read_bytes() != first


def test_it_lies_in_the_hub_layout_and_is_built_once(tmp_path: Path) -> None:
    folder = build_embedded_base(SPEC, tmp_path)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert build_embedded_base(SPEC, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("left", [None, 0, 100], ids=["gone", "emptied", "cut off"])
def test_a_damaged_one_is_built_again(tmp_path: Path, name: str, left: int | None, caplog: pytest.LogCaptureFixture) -> None:
    folder = build_embedded_base(SPEC, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / name).unlink()
    if left is not None:
        (folder / name).write_bytes(before[name][:left])
    assert build_embedded_base(SPEC, tmp_path) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert "is damaged: it is built again" in caplog.text


def test_a_full_disk_is_said_and_nothing_half_written_stays(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (4096, 64):  # no room for the weights, not even for the configuration
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(DeviceError, match=r"embedded base cannot be written to .*embedded-.*File too large.* Make room"):
                build_embedded_base(SPEC, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list(tmp_path.iterdir()) == []
    assert build_embedded_base(SPEC, tmp_path).is_dir()


def test_first_layer_heads_start_by_looking_back_a_fixed_distance(tmp_path: Path) -> None:
    model = LlamaForSequenceClassification.from_pretrained(build_embedded_base(SPEC, tmp_path), attn_implementation="eager")
    ids = torch.randint(3, 400, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True).attentions[0][0]
    for head in (1, 2, 3):
        looks_at = attention[head, 6:].argmax(dim=-1)
        expected = torch.arange(6, 24) - head
        assert (looks_at == expected).float().mean() > 0.8
    assert attention[0, 20, :21].max() < 0.4  # head 0 reads everywhere


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [f"$AAPL calls printing 🚀 see https://x.co/{i} @desk{i} up {i}% today" for i in range(50)]


def test_urls_handles_cashtags_and_numbers_are_one_token_each(texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, 600, 64)
    one = tokenizer("$TSLA up 5% @joe https://a.b/c")["input_ids"]
    other = tokenizer("$NVDA.X up 1,234.5% @someone_else http://longer.example/path?q=1")["input_ids"]
    assert one == other


def test_special_tokens_are_distinct_and_any_text_survives(texts: list[str], tiny_config: Config) -> None:
    tokenizer = train_tokenizer(texts, 600, 64)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    ids = tokenizer("漢字 ﬁ \u0000 never seen")["input_ids"]
    assert ids[0] == 1
    assert ids[-1] == 2
    assert 0 not in ids
    long = tokenizer("word " * 500, truncation=True, max_length=tiny_config.model.max_length)["input_ids"]
    assert len(long) == tiny_config.model.max_length
    assert long[-1] == 2
