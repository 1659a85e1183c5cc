"""Where and how precisely the network runs: chosen by measuring, said in the provenance."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
#: What a run needs beside the weights, in bytes (measured with a 30-slice 400 x 400 study, docs/results.md).
NEEDED_CUDA = 2 * 2**30
NEEDED_CPU = 3 * 2**29


class DeviceError(RuntimeError):
    """The device that was asked for cannot be used; the text says why and what to do."""


@dataclass(frozen=True)
class Placement:
    """The outcome of the choice.

    Attributes:
        device: "cpu" or "cuda".
        bfloat16: whether convolutions run in bfloat16.
        notes: fall-backs and their reason.
    """

    device: str
    bfloat16: bool
    notes: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """For provenance."""
        return "bfloat16" if self.bfloat16 else "float32"


def choose(device: Device = "auto", precision: Literal["auto", "float32", "bfloat16"] = "auto") -> Placement:
    """Where to run.

    Args:
        device: "auto" takes a CUDA device with enough free memory, else the CPU and says why.
        precision: "auto" takes bfloat16 where a probe shows that it is faster.

    Raises:
        DeviceError: "cuda" was asked for and there is none, or it has too little free memory; an unknown word.
    """
    import torch

    notes: list[str] = []
    if precision not in ("auto", "float32", "bfloat16"):
        raise DeviceError(f"unknown precision {precision!r}; choose auto, float32 or bfloat16")
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"unknown device {device!r}; choose auto, cpu or cuda")
    place = "cpu"
    if device != "cpu":
        reason = ""
        if not torch.cuda.is_available():
            reason = "this PyTorch sees no CUDA device"
        else:
            free, total = torch.cuda.mem_get_info()
            if free < NEEDED_CUDA:
                reason = (
                    f"the CUDA device has {free / 2**30:.1f} of {total / 2**30:.1f} GB free, "
                    f"{NEEDED_CUDA / 2**30:.0f} GB are needed"
                )
        if not reason:
            place = "cuda"
        elif device == "cuda":
            raise DeviceError(f"CUDA was asked for, but {reason}; choose auto or cpu")
        elif torch.cuda.is_available():
            notes.append(f"ran on the CPU: {reason}")
    if place == "cpu":
        free_cpu = available_memory()
        if free_cpu is not None and free_cpu < NEEDED_CPU:
            notes.append(f"little memory: {free_cpu / 2**30:.1f} GB available, {NEEDED_CPU / 2**30:.1f} GB are advised")
    bfloat16 = precision == "bfloat16" or (precision == "auto" and bfloat16_is_faster(place))
    return Placement(place, bfloat16, tuple(notes))


def available_memory() -> int | None:
    """Bytes that can still be taken on this machine, or None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


@cache
def bfloat16_is_faster(device: str) -> bool:
    """Whether a small convolution takes at most 0.8 of its float32 time in bfloat16; measured once a process.

    CPUs without native bfloat16 emulate it slowly, and no flag tells reliably on all systems; a probe does.
    """
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    convolution = torch.nn.Conv3d(16, 16, 3, padding=1)
    x = torch.zeros(1, 16, 16, 64, 64)
    times: dict[bool, list[float]] = {False: [], True: []}
    with torch.inference_mode():
        for turn in range(6):
            for half in (False, True):
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    convolution(x)
                if turn:  # the first pass pays for set-up
                    times[half].append(time.perf_counter() - start)
    return min(times[True]) <= 0.8 * min(times[False])
