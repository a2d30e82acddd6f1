import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from finsent.config import Config, ModelConfig, Quantization
from finsent.errors import BaseModelError, InputError, ServiceError
from finsent.models.adapter import add_lora
from finsent.models.base_model import fetch_from_hub, load_base, locate_base
from finsent.workspace import Workspace


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A small BERT in the Hub's layout, as `minilm` finds it."""
    config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=200)
    folder = tmp_path / "bert"
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_an_unreachable_base_says_what_to_do(home: Workspace) -> None:
    with pytest.raises(BaseModelError, match=r"'nobody/no-such-model'.*model\.name"):
        locate_base(ModelConfig(name="nobody/no-such-model"), home)
    with pytest.raises(BaseModelError, match="neither a folder here nor a valid Hub id"):
        locate_base(ModelConfig(name="./no/such/folder"), home)


def test_a_folder_without_weights_is_refused(home: Workspace, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"lacks config\.json"):
        locate_base(ModelConfig(name=str(tmp_path)), home)


def test_llama_base_is_quantised_but_its_head_is_not(home: Workspace, tiny_config: Config) -> None:
    model = load_base(locate_base(tiny_config.model, home), tiny_config.model, "cpu")
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert kinds["score"] == "Linear"
    assert sum(kind == "Linear4bit" for kind in kinds.values()) == 7
    state = model.model.layers[0].self_attn.q_proj.weight.quant_state
    assert state.quant_type == "nf4"
    assert state.nested


@pytest.mark.parametrize("kind", ["none", "nf4"])
def test_an_encoder_with_a_biased_head_keeps_it_trainable(home: Workspace, bert: Path, kind: str) -> None:
    config = ModelConfig(name=str(bert), quantization=Quantization(kind=kind, compute_dtype="float32"), padding_side="right")
    model = load_base(locate_base(config, home), config, "cpu")
    from finsent.config import LoraConfig

    peft_model = add_lora(model, LoraConfig(targets=("query", "key", "value")), config.name)
    trainable = {name for name, parameter in peft_model.named_parameters() if parameter.requires_grad}
    assert any("classifier" in name and name.endswith("bias") for name in trainable)
    assert not any("pooler" in name for name in trainable)
    assert all(p.dtype == torch.float32 for p in peft_model.parameters() if p.requires_grad)


def test_gradients_stay_right_after_an_evaluation(home: Workspace, tiny_config: Config) -> None:
    """bitsandbytes' CPU path repacks weights at the first eval forward; afterwards gradients would be silently wrong."""
    torch.manual_seed(0)
    model = add_lora(load_base(locate_base(tiny_config.model, home), tiny_config.model, "cpu"), tiny_config.lora, "embedded")
    model.config.pad_token_id = 0
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.05)
    ids = torch.randint(3, 500, (4, 12))

    def gradients() -> torch.Tensor:
        model.zero_grad()
        torch.manual_seed(1)
        model.train()
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone()

    before = gradients()
    model.eval()
    with torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert torch.equal(gradients(), before)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], None]]:
    """`hub(status, code)`: what the server answers to everything from now on, its error code in the Hub's header."""
    answer: list[tuple[int, str]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code = answer[-1]
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name, value in (
        ("HF_HUB_OFFLINE", False),
        ("ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}"),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", f"http://127.0.0.1:{server.server_address[1]}")
    yield lambda status, code: answer.append((status, code))
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(
    name: str, revision: str | None = None, error: type[InputError | BaseModelError] = InputError
) -> tuple[Path, str | None]:
    return fetch_from_hub(name, revision, ["*.json"], what="adapter", correct="--revision", instead="give a folder", error=error)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "GatedRepo", r"adapter 'owner/name' is gated\. Accept its licence on its Hub page and set HF_TOKEN"),
        (401, "RepoNotFound", r"'owner/name' is not on the Hub \(or private: set HF_TOKEN\), nor a local folder"),
        (404, "RepoNotFound", r"'owner/name' is not on the Hub"),
        (404, "RevisionNotFound", r"'owner/name' has no revision 'v9'\. Correct --revision"),
        (418, "", r"cannot be reached \(\w+\) and is not in the local cache\. Connect to the Hub, or give a folder"),
    ],
)
def test_each_answer_says_what_to_do(hub: Callable[[int, str], None], status: int, code: str, said: str) -> None:
    hub(status, code)
    with pytest.raises(InputError, match=said):
        fetch("owner/name", "v9")
    with pytest.raises(BaseModelError, match=said):
        fetch("owner/name", "v9", BaseModelError)


@pytest.mark.parametrize("status", [429, 500, 503, None])
def test_an_outage_of_the_hub_is_tried_again(
    hub: Callable[[int, str], None], status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status is None:  # nobody listens
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    else:
        hub(status, "")
    with pytest.raises(ServiceError, match="cannot be reached") as caught:
        fetch("owner/name", "v9", BaseModelError)
    assert caught.value.retryable


def test_a_setting_that_forbids_to_ask_the_hub_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match="cannot be reached"):
        fetch("owner/name", "v9", BaseModelError)


def test_a_name_that_is_no_hub_id_is_said_without_asking() -> None:
    with pytest.raises(InputError, match="neither a folder here nor a valid Hub id"):
        fetch("a/b/c")
