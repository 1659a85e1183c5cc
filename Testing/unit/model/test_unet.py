"""The U-Net, held against MONAI's DynUNet, whose network it is."""

from __future__ import annotations

import pytest
import torch

from MedRationaleLogic.model.unet import Triple, UNet

SHAPES = [
    (4, 96, (24, 48, 96, 128), 1, 2),
    (1, 24, (16, 32, 64, 96), 1, 2),
    (4, 1, (12, 24, 48, 64), 1, 1),
    (2, 3, (8, 16, 32), 2, 0),
]
"""Inputs, outputs, filters, halvings in plane only, levels with kernels in plane only: our stems and localiser, and one
of another depth."""


def grids(levels: int, flat: int, planar: int) -> tuple[list[Triple], list[Triple]]:
    strides: list[Triple] = [(1, 1, 1), *((1, 2, 2) if k < flat else (2, 2, 2) for k in range(levels - 1))]
    kernels: list[Triple] = [(1, 3, 3) if k < planar else (3, 3, 3) for k in range(levels)]
    return kernels, strides


def of_monai(inputs: int, outputs: int, filters: tuple[int, ...], flat: int, planar: int) -> torch.nn.Module:
    nets = pytest.importorskip("monai.networks.nets")
    kernels, strides = grids(len(filters), flat, planar)
    return nets.DynUNet(
        3, inputs, outputs, kernels, strides, strides[1:], filters=list(filters),
        norm_name=("INSTANCE", {"affine": True}),
        act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
    )  # fmt: skip


@pytest.mark.parametrize(("inputs", "outputs", "filters", "flat", "planar"), SHAPES)
def test_it_is_monais_network(inputs: int, outputs: int, filters: tuple[int, ...], flat: int, planar: int) -> None:
    torch.manual_seed(3)
    peer = of_monai(inputs, outputs, filters, flat, planar)
    after = torch.rand(())
    torch.manual_seed(3)
    net = UNet(inputs, outputs, filters, *grids(len(filters), flat, planar))
    assert torch.equal(after, torch.rand(())), "as many numbers were drawn"
    mine, theirs = net.state_dict(), peer.state_dict()
    assert list(mine) == [name for name in theirs if not name.startswith("skip_layers.")]
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items()), "a seed gives the same weights"
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in peer.named_parameters()]
    x = torch.randn(2, inputs, 8, 32, 32)
    assert torch.equal(net(x), peer(x))
    net(x).square().mean().backward()
    peer(x).square().mean().backward()
    gradients = dict(peer.named_parameters())
    assert all(torch.equal(p.grad, gradients[name].grad) for name, p in net.named_parameters())


def test_a_checkpoint_of_monais_network_loads() -> None:
    peer = of_monai(*SHAPES[1])
    inputs, outputs, filters, flat, planar = SHAPES[1]
    holder = torch.nn.ModuleDict({"body": UNet(inputs, outputs, filters, *grids(len(filters), flat, planar))})
    holder.load_state_dict({f"body.{name}": value for name, value in peer.state_dict().items()})
    x = torch.randn(1, inputs, 4, 16, 16)
    assert torch.equal(holder["body"](x), peer(x))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        holder.load_state_dict({**holder.state_dict(), "body.else": torch.zeros(1)})


@pytest.mark.parametrize("kernels", [[(3, 3, 3)] * 2, [(3, 3, 3)] * 4])
def test_levels_that_do_not_fit_are_refused(kernels: list[Triple]) -> None:
    with pytest.raises(ValueError, match="at least three levels"):
        UNet(1, 1, (4, 8, 16), kernels, [(1, 1, 1), (2, 2, 2), (2, 2, 2)])


def test_reading_needs_nothing_of_monai() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from MedRationaleLogic.inference.explainer import Explainer;"
        "Explainer(None, 'cpu').bundle.network();"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('monai', 'transformers', 'lightning')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
