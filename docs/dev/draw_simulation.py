"""Draws docs/images/simulation.png: simulated studies beside their truth, from the repository alone.

python docs/dev/draw_simulation.py [--labels labels.npz] [--seed 7] [--output docs/images/simulation.png]

Every row is one study in the slice of its most suspicious region: T2W, T2W with the drawn regions, ADC, high-b, and the
same anatomy by an unseen scanner.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {1: "#4daf4a", 2: "#a6d854", 3: "#ffd92f", 4: "#fc8d62", 5: "#e41a1c"}


def shown(image: Any, z: int) -> Any:
    """A slice in the window of its volume's middle."""
    values = image.numpy()
    low, high = np.percentile(values[4:20], [1, 99.6])
    return np.clip((values[z] - low) / (high - low + 1e-6), 0, 1)


def main() -> None:
    """Write the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    from MedRationaleLogic.commands.simulate import label_bank
    from MedRationaleLogic.simulation.study import simulate

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rows", type=int, default=7)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "simulation.png")
    options = parser.parse_args()
    bank = label_bank(options.labels)
    titles = ("T2W", "regions by category", "ADC", "high-b", "T2W, unseen scanner", "high-b, unseen scanner")
    figure, axes = plt.subplots(options.rows, len(titles), figsize=(12, 2.05 * options.rows), facecolor="black")
    index = -1
    for row in axes:
        study, biggest = None, 0
        while biggest < 60:  # a study that has something to see
            index += 1
            study = simulate(bank, options.seed, index, coarse=False)
            order = sorted(range(len(study.drawn)), key=lambda i: -study.drawn[i].category)
            biggest = int((study.t2w.regions == order[0] + 1).sum()) if order else 0
        assert study is not None
        z = int((study.t2w.regions == order[0] + 1).sum((1, 2)).argmax())
        # the diffusion slice nearest to it
        zd = min(max(round(z + (study.offsets["t2w"][0] - study.offsets["adc"][0]) / 3.0), 0), 23)
        other = simulate(bank, options.seed, index, domain="unseen", coarse=False)
        pictures = (
            shown(study.t2w.image, z), shown(study.t2w.image, z), shown(study.adc.image, zd),
            shown(study.hbv.image, zd), shown(other.t2w.image, z), shown(other.hbv.image, zd),
        )  # fmt: skip
        for axis, picture in zip(row, pictures, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
            axis.axis("off")
        for number, region in enumerate(study.drawn, 1):
            mask = (study.t2w.regions[z] == number).numpy()
            if mask.any():
                row[1].contour(mask, [0.5], colors=[COLOURS[region.category]], linewidths=1.2)
                y, x = np.argwhere(mask)[0]
                row[1].text(x, y - 2, region.category, color=COLOURS[region.category], fontsize=9, weight="bold")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, color="white", fontsize=9)
    figure.text(0.005, 0.003, "Simulated: no patient. Research use only.", color="white", fontsize=8)
    figure.subplots_adjust(0, 0.02, 1, 0.975, 0.02, 0.02)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=80, facecolor="black")
    Image.open(options.output).convert("RGB").quantize(128).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
