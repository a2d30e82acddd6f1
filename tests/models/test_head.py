"""The hash of the trained head: equal for equal weights, different for anything else, never empty."""

import pytest
import torch

from finsent.errors import ArtifactError
from finsent.models.adapter import hash_weights, head_sha256, load_adapter

NAME = "base_model.model.score.weight"


def test_hash_sees_values_names_and_absence():
    head = [(NAME, torch.ones(3, 4))]
    assert hash_weights(head) == hash_weights([(NAME, torch.ones(3, 4, dtype=torch.bfloat16))])
    assert hash_weights(head) != hash_weights([(NAME, torch.full((3, 4), 1.001))])
    assert hash_weights(head) != hash_weights([(NAME, torch.ones(4, 3))])
    assert hash_weights(head) != hash_weights([("other", head[0][1])])
    with pytest.raises(ArtifactError, match="no trained classification head"):
        hash_weights([])


@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_hash_of_a_loaded_model_is_that_of_the_saved_head(make_adapter, home):
    from safetensors.torch import load_file

    weights = load_file(make_adapter(0) / "adapter_model.safetensors")
    loaded = load_adapter(make_adapter(0), home)
    assert head_sha256(loaded.model) == hash_weights((name, weights[name]) for name in weights if "score" in name)
    with torch.no_grad():
        next(p for n, p in loaded.model.named_parameters() if "score.modules_to_save" in n).add_(1e-3)
    assert head_sha256(loaded.model) != hash_weights((name, weights[name]) for name in weights if "score" in name)


def test_a_model_without_a_trained_head_is_refused():
    with pytest.raises(ArtifactError, match="cannot classify"):
        head_sha256(torch.nn.Linear(2, 2))
