"""Licences that bind what is made from a base, the notices that they ask for, and how to cite."""

import re
from importlib.metadata import version
from typing import Final

from finsent.models.manifest import Manifest

_LLAMA: Final = re.compile(r"meta-llama/(?:Meta-)?Llama-(3(?:\.\d)?)(?:-|$)")
_BASES: Final = {"sentence-transformers/": "apache-2.0", "embedded": "apache-2.0"}

_CITATIONS: Final = {
    "meta-llama/": (
        "@article{grattafiori2024llama3,\n  title = {The Llama 3 Herd of Models},\n  author = {Grattafiori, Aaron and others},\n"
        "  journal = {arXiv preprint arXiv:2407.21783},\n  year = {2024}\n}"
    ),
    "sentence-transformers/": (
        "@inproceedings{reimers2019sentencebert,\n  title = {Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks},\n"
        "  author = {Reimers, Nils and Gurevych, Iryna},\n  booktitle = {Proceedings of EMNLP-IJCNLP},\n  year = {2019}\n}"
    ),
}
_LORA: Final = (
    "@inproceedings{hu2022lora,\n  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},\n"
    "  author = {Hu, Edward J. and others},\n  booktitle = {International Conference on Learning Representations},\n"
    "  year = {2022}\n}"
)


def licence(manifest: Manifest) -> str:
    """Licence of the base as the Hub names it; what is made from the base inherits it."""
    if found := _LLAMA.match(manifest.base_name):
        return f"llama{found[1]}"
    return next((named for start, named in _BASES.items() if manifest.base_name.startswith(start)), "other")


def licence_in_words(manifest: Manifest) -> str:
    """The licence's section, with the notice that it asks for."""
    if found := _LLAMA.match(manifest.base_name):
        return (
            f"## Licence\n\n**Built with Llama.** Llama {found[1]} is licensed under the Llama {found[1]} Community License, "
            "Copyright © Meta Platforms, Inc. All Rights Reserved. Whoever distributes this adapter, or a model made with it, "
            "hands on a copy of that licence, keeps this notice, gives it a name that begins with Llama, and is bound by its "
            "acceptable use policy."
        )
    named = licence(manifest)
    if named == "other":
        return "## Licence\n\nThe licence of the base binds this adapter. Which one it is, finsent does not know."
    return f"## Licence\n\n{named}, as the base."


def citation(manifest: Manifest) -> str:
    """BibTeX of finsent, of LoRA, of the base and of Hub datasets, where they are known."""
    own = (
        f"@software{{finsent,\n  title = {{finsent: a financial-tweet sentiment model kept alive in production}},\n"
        f"  version = {{{version('finsent')}}},\n  license = {{Apache-2.0}}\n}}"
    )
    entries = [
        own,
        _LORA,
        *(entry for start, entry in _CITATIONS.items() if manifest.base_name.startswith(start)),
        *(_dataset(source["uri"]) for source in manifest.config["data"]["sources"] if source["uri"].startswith("hf://")),
    ]
    return "## Citation\n\n```bibtex\n" + "\n\n".join(dict.fromkeys(entries)) + "\n```"


def _dataset(uri: str) -> str:
    owner, _, name = uri.removeprefix("hf://").partition("/")
    key = re.sub(r"\W+", "", f"{owner}{name}").lower()
    return (
        f"@misc{{{key},\n  title = {{{name}}},\n  author = {{{owner}}},\n"
        f"  howpublished = {{Hugging Face dataset {owner}/{name}}}\n}}"
    )
