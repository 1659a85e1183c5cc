"""The peer: a plain U-Net with picai_baseline's architecture on the same items, the same losses, the same budget.

The architecture is MONAI's U-Net with the channels and strides that picai_baseline publishes for its U-Net
(https://github.com/DIAGNijmegen/picai_baseline): six levels of 32 to 1,024 channels, no residual units, T2W, ADC and
high-b as three channels of one image. Data, grid, losses and schedule are ours, so that only the model differs.

``python -m MedRationaleLogic.training.baseline --bank BANK --data DATA --output DIR --steps N``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from MedRationaleLogic.model.grids import FINE, SEQUENCES
from MedRationaleLogic.training.data import Item
from MedRationaleLogic.training.losses import lesion_loss, zone_loss
from MedRationaleLogic.training.module import DROP, RationaleTask
from MedRationaleLogic.training.run import AtStop, FromStep, Progress, add_data_arguments, fitting_precision, mixture

CHANNELS: Final = (32, 64, 128, 256, 512, 1024)
STRIDES: Final = ((2, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2))
#: In-plane size that the strides need.
PADDED: Final = 128


class PlainUnet(nn.Module):
    """T2W, ADC and high-b to zone and lesion logits on the fine grid."""

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        self.body = UNet(3, len(SEQUENCES), 4, channels, STRIDES)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, 24, 112, 112) to zones (n, 3, ...) and lesion (n, 1, ...)."""
        margin = [(PADDED - size) // 2 for size in image.shape[-2:]]
        padded = F.pad(image, (margin[1], margin[1], margin[0], margin[0]))
        out = self.body(padded)
        out = out[..., margin[0] : PADDED - margin[0], margin[1] : PADDED - margin[1]]
        return out[:, :3], out[:, 3:]


def stack(batch: dict[str, Tensor], presence: Tensor) -> Tensor:
    """The three sequences on the fine grid, (n, 3, z, y, x); what is absent is 0."""
    n = len(presence)
    channels = [batch["t2w"]]
    for name in ("adc", "hbv"):
        grid = F.affine_grid(batch[f"theta_{name}"].float(), [n, 1, *FINE.shape], align_corners=True)
        channels.append(F.grid_sample(batch[name], grid, align_corners=True, padding_mode="zeros"))
    return torch.cat(channels, 1) * presence[:, :, None, None, None]


class UnetTask(L.LightningModule):
    """Segmentation by the peer; same optimiser and schedule as :class:`RationaleTask`."""

    def __init__(self, channels: Sequence[int] = CHANNELS, lr: float = 1e-3, steps: int = 1000) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = PlainUnet(channels)
        self.lr, self.steps = lr, steps

    configure_optimizers = RationaleTask.configure_optimizers

    def training_step(self, batch: dict[str, Tensor], _index: int) -> Tensor:
        presence = batch["presence"]
        kept = presence * (torch.rand(presence.shape, device=presence.device) > DROP).to(presence)
        presence = torch.where(kept.sum(1, keepdim=True) > 0, kept, presence)
        zones, lesion = self.net(stack(batch, presence))
        losses = {
            "zones": zone_loss(zones, batch["zones"], batch["gland_only"]),
            "lesion": lesion_loss(lesion, batch["lesion"]),
        }
        total = torch.stack(list(losses.values())).sum()
        self.log_dict({f"train/{k}": v for k, v in losses.items()})
        self.log("train/loss", total, prog_bar=True)
        return total


class Milestones(Callback):
    """Keeps the averaged weights at a quarter and half of the budget, for the learning curve."""

    def __init__(self, output: Path, steps: int) -> None:
        self.output, self.at = output, {steps // 4: "quarter", steps // 2: "half"}

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        name = self.at.get(trainer.global_step)
        if name:
            trainer.save_checkpoint(self.output / f"{name}.ckpt")


def train(output: Path, dataset: Dataset[Item], *, steps: int, batch: int = 2, lr: float = 1e-3, seed: int = 0,
          workers: int = 1, precision: str = "auto", accelerator: str = "cpu",
          channels: Sequence[int] = CHANNELS) -> Path:  # fmt: skip
    """Train, going on from the last checkpoint in ``output`` if there is one; returns the last checkpoint."""
    L.seed_everything(seed, workers=True, verbose=False)
    last = output / "last.ckpt"
    trainer = L.Trainer(
        accelerator=accelerator, devices=1, max_steps=steps,
        precision=fitting_precision(precision, accelerator),  # type: ignore[arg-type]
        logger=CSVLogger(str(output), name="", flush_logs_every_n_steps=20),
        callbacks=[ModelCheckpoint(output, save_last=True, every_n_train_steps=min(100, steps), save_top_k=0,
                                   enable_version_counter=False),
                   Progress(25), EMAWeightAveraging(decay=0.995, update_starting_at_step=min(50, steps // 10)),
                   Milestones(output, steps), *([AtStop(steps, last)] if steps % min(100, steps) else [])],
        gradient_clip_val=1.0, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=10,
    )  # fmt: skip
    done = int(torch.load(last, map_location="cpu", weights_only=True)["global_step"]) if last.exists() else 0
    loader = DataLoader(dataset, batch_size=batch, sampler=FromStep(done * batch, len(dataset)),  # type: ignore[arg-type]
                        num_workers=workers, persistent_workers=workers > 0)  # fmt: skip
    trainer.fit(UnetTask(channels, lr, steps), loader, ckpt_path=str(last) if last.exists() else None,
                weights_only=True)  # fmt: skip
    return last


def load(checkpoint: Path) -> PlainUnet:
    """The network of a checkpoint, in evaluation mode."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    task = UnetTask(tuple(state["hyper_parameters"]["channels"]))
    task.load_state_dict(state["state_dict"])
    return task.net.eval()


@torch.inference_mode()
def predict(net: PlainUnet, item: Item) -> tuple[Tensor, Tensor]:
    """(zones uint8 (z, y, x), lesion probability float32 (z, y, x)) of one item, all its sequences used."""
    batch = {k: v[None] for k, v in item.items()}
    with torch.autocast("cpu", torch.bfloat16):
        zones, lesion = net(stack(batch, batch["presence"]))
    return zones[0].argmax(0).to(torch.uint8), torch.sigmoid(lesion[0, 0].float())


def grad_cam(net: PlainUnet, item: Item, target: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju 2017) of the lesion logit summed over a region.

    Taken at the input of the last up-convolution, half the fine grid's resolution: the finest layer that is not the
    prediction itself.

    Args:
        net: the peer.
        item: one study.
        target: bool (z, y, x) on the fine grid, the region that is to be explained.

    Returns:
        float32 (z, y, x), 0..1, 0 everywhere where nothing speaks for the region.
    """
    kept: list[Tensor] = []
    layer = net.body.model[1]  # the skip connection: the finest encoder's output beside what comes from below
    handle = layer.register_forward_hook(lambda _m, _i, out: kept.append(out))
    try:
        batch = {k: v[None] for k, v in item.items()}
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
            _, lesion = net(stack(batch, batch["presence"]))
        gradient = torch.autograd.grad(lesion[0, 0].float()[target].sum(), kept[0])[0]
    finally:
        handle.remove()
    weights = gradient.float().mean((2, 3, 4), keepdim=True)
    heat = F.relu((weights * kept[0].detach().float()).sum(1, keepdim=True))
    heat = F.interpolate(heat, (FINE.shape[0], PADDED, PADDED), mode="trilinear", align_corners=False)[0, 0]
    margin = [(PADDED - size) // 2 for size in FINE.shape[-2:]]
    heat = heat[:, margin[0] : PADDED - margin[0], margin[1] : PADDED - margin[1]]
    return heat / heat.max().clamp(min=1e-12)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Train the plain U-Net (research use only).")
    add_data_arguments(parser)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    items, _, facts = mixture(args)
    last = train(args.output, items, steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed,
                 precision=args.precision, accelerator=args.accelerator)  # fmt: skip
    (args.output / "run.json").write_text(
        json.dumps({"command": vars(args), "checkpoint": str(last), **facts}, indent=1, default=str), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
