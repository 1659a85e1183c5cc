"""A tiny bundle for tests: the real network with few channels and seeded random weights, written by ``bundle.save``.

    bundle = tiny_bundle(tmp_path)              # <tmp_path>/tiny-0.0.1, a moment to write and to run
    explainer = Explainer(bundle, device="cpu", precision="float32")

It has learnt nothing: what it outlines is noise. It runs the whole road with real tensors on real grids, and the same
seed always gives the same weights. The text vectors are the lexicon's own, so that its values differ from each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from MedRationaleLogic.model import bundle
from MedRationaleLogic.model.bundle import Bundle, Manifest

if TYPE_CHECKING:
    from MedRationaleLogic.model.network import NetworkSpec

NAME, VERSION = "tiny", "0.0.1"
THRESHOLDS = {"lesion_peak": 0.3, "suspicion": 0.0, "evidence": 0.5, "min_volume_ml": 0.1}
"""Suspicion from 0.0 on: every candidate is reported, so that tests have regions to work on."""


def tiny_spec() -> NetworkSpec:
    """A network with every part of the real one, small enough for a test."""
    from MedRationaleLogic.model.network import spec_from_lexicon

    return spec_from_lexicon(
        t2w_filters=(8, 8, 8), diffusion_filters=(8, 8, 8), coarse_filters=(8, 8, 8), features=8, embedding=8, trunk=4,
        tower=6,
    )  # fmt: skip


def tiny_bundle(folder: Path, *, seed: int = 1, thresholds: dict[str, float] | None = None) -> Bundle:
    """Write the bundle ``<folder>/tiny-0.0.1`` and read it back, verified.

    Args:
        folder: made if it is not there; a bundle already in it is replaced.
        seed: of the weights.
        thresholds: in place of single entries of :data:`THRESHOLDS`.
    """
    import torch

    from MedRationaleLogic.model.network import RationaleNet
    from MedRationaleLogic.model.text import load_cached
    from MedRationaleLogic.pirads import lexicon

    spec = tiny_spec()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = RationaleNet(spec)
    net.phrases.copy_(load_cached())
    manifest = Manifest(
        name=NAME,
        version=VERSION,
        sha256="",
        network=spec.to_dict(),
        lexicon_version=lexicon.load().version,
        thresholds=THRESHOLDS | (thresholds or {}),
        calibration={attribute.id: 1.0 for attribute in spec.attributes},
        training={"data": "none: random weights", "seed": seed},
        results={},
        licence="Apache-2.0",
    )
    return bundle.save(net, folder / f"{NAME}-{VERSION}", manifest)
