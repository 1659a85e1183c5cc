"""An nnU-Net-shaped encoder-decoder (Isensee 2021): two convolutions a level, instance norm, strides and their undoing.

The same network as MONAI's ``DynUNet`` with these settings: same layers under the same names, same draws of the first
weights, same numbers out (tested to the bit). It stands here because reading a study needs nothing else of MONAI, whose
import takes longer than PyTorch's and the study together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

__all__ = ["UNet"]

SLOPE: Final = 0.01
Triple = tuple[int, int, int]
"""Along z, y and x."""


class _Convolution(nn.Sequential):
    """One convolution without bias, that keeps the grid but for its stride."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        z, y, x = ((k - s + 1) // 2 for k, s in zip(kernel, stride, strict=True))
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, (z, y, x), bias=False)


class _Up(nn.Sequential):
    """A transposed convolution that undoes a stride."""

    def __init__(self, inputs: int, outputs: int, stride: Triple) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(inputs, outputs, stride, stride, bias=False)


class _Out(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        self.conv.conv = nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _Block(nn.Module):
    """Twice: convolution, instance norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.conv1 = _Convolution(inputs, outputs, kernel, stride)
        self.conv2 = _Convolution(outputs, outputs, kernel, (1, 1, 1))
        self.lrelu = nn.LeakyReLU(SLOPE, inplace=True)
        self.norm1 = nn.InstanceNorm3d(outputs, affine=True)
        self.norm2 = nn.InstanceNorm3d(outputs, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lrelu(self.norm1(self.conv1(x)))
        out: Tensor = self.lrelu(self.norm2(self.conv2(x)))
        return out


class _UpBlock(nn.Module):
    """Back to the finer grid, joined with what was there, and a block over both."""

    def __init__(self, inputs: int, outputs: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.transp_conv = _Up(inputs, outputs, stride)
        self.conv_block = _Block(2 * outputs, outputs, kernel, (1, 1, 1))

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        out: Tensor = self.conv_block(torch.cat((self.transp_conv(x), beside), 1))
        return out


class UNet(nn.Module):
    """See the module's text.

    Args:
        inputs, outputs: channels.
        filters: channels of each level, finest first; at least three levels.
        kernels: of each level's convolutions, (z, y, x).
        strides: into each level from the one above, (z, y, x); the first is (1, 1, 1).

    Raises:
        ValueError: fewer than three levels, or lists of different lengths.
    """

    def __init__(
        self, inputs: int, outputs: int, filters: Sequence[int], kernels: Sequence[Triple],
        strides: Sequence[Triple],
    ) -> None:  # fmt: skip
        super().__init__()
        if len(filters) < 3 or not len(filters) == len(kernels) == len(strides):
            raise ValueError("a U-Net needs at least three levels, and filters, a kernel and a stride for each")
        channels = [inputs, *filters]
        levels = [_Block(channels[k], channels[k + 1], kernels[k], strides[k]) for k in range(len(filters))]
        self.input_block = levels[0]
        self.downsamples = nn.ModuleList(levels[1:-1])
        self.bottleneck = levels[-1]
        self.upsamples = nn.ModuleList(
            _UpBlock(filters[k], filters[k - 1], kernels[k], strides[k]) for k in range(len(filters) - 1, 0, -1)
        )
        self.output_block = _Out(filters[0], outputs)
        torch.rand(1)  # MONAI draws a number here: a seed gives the same first weights as there
        self.apply(_first_weights)
        self.register_load_state_dict_pre_hook(_without_second_names)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, z, y, x) to (n, outputs, z, y, x); each axis a multiple of its strides' product."""
        beside = [self.input_block(x)]
        for down in self.downsamples:
            beside.append(down(beside[-1]))
        x = self.bottleneck(beside[-1])
        for up in self.upsamples:
            x = up(x, beside.pop())
        out: Tensor = self.output_block(x)
        return out


def _first_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _without_second_names(_module: nn.Module, state: dict[str, Any], prefix: str, *_more: Mapping[str, Any]) -> None:
    """Checkpoints of MONAI's network know every layer by a second name, within ``skip_layers``."""
    for name in [n for n in state if n.startswith(f"{prefix}skip_layers.")]:
        del state[name]
