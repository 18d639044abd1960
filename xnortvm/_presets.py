# SPDX-License-Identifier: Apache-2.0
"""The table of target presets: one row is one name that ``target=`` accepts."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NamedTuple

LISTING = "`xnortvm targets` lists what there is"


class Preset(NamedTuple):
    """One row of the table.

    Attributes
    ----------
    spec : str
        The target in its familiar spelling.
    title : str
        What it is, for people.
    """

    spec: str
    title: str

    def to_json(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        return self._asdict()


# CPUs of boards are named by their biggest core; aarch64 code for it runs on the small ones too.
# Hopper's "a" architectures have the binary tensor core instruction wgmma.b1, "sm_90" has not.
PRESETS: MappingProxyType[str, Preset] = MappingProxyType(
    {
        "host": Preset("llvm", "this machine, all its features"),
        # x86-64
        "x86-64-v2": Preset("llvm -mcpu=x86-64-v2", "any x86-64 since 2009: SSE4.2, POPCNT"),
        "x86-64-v3": Preset("llvm -mcpu=x86-64-v3", "any x86-64 since 2015: AVX2, FMA"),
        "x86-64-v4": Preset("llvm -mcpu=x86-64-v4", "AVX-512 without VPOPCNTDQ"),
        "znver3": Preset("llvm -mcpu=znver3", "AMD Zen 3: AVX2"),
        "znver4": Preset("llvm -mcpu=znver4", "AMD Zen 4: AVX-512 VPOPCNTDQ"),
        "icelake": Preset("llvm -mcpu=icelake-server", "Intel Ice Lake: AVX-512 VPOPCNTDQ"),
        "sapphirerapids": Preset(
            "llvm -mcpu=sapphirerapids", "Intel Sapphire Rapids: AVX-512 VPOPCNTDQ"
        ),
        # ARM
        "rpi3": Preset("llvm -mcpu=cortex-a53", "Raspberry Pi 3, 64-bit OS: Cortex-A53"),
        "rpi4": Preset("llvm -mcpu=cortex-a72", "Raspberry Pi 4, 64-bit OS: Cortex-A72"),
        "rpi5": Preset("llvm -mcpu=cortex-a76", "Raspberry Pi 5, 64-bit OS: Cortex-A76"),
        "jetson-orin": Preset("llvm -mcpu=cortex-a78ae", "NVIDIA Jetson Orin, CPU: Cortex-A78AE"),
        "pixel6": Preset(
            "llvm -mcpu=cortex-x1 -mtriple=aarch64-linux-android", "Google Pixel 6, Android"
        ),
        "graviton3": Preset("llvm -mcpu=neoverse-v1", "AWS Graviton 3: Neoverse V1"),
        "apple-m1": Preset("llvm -mcpu=apple-m1", "Apple M1 and later, macOS"),
        "armv7": Preset(
            "llvm -mcpu=generic -mtriple=armv7l-linux-gnueabihf", "32-bit ARM with NEON, Linux"
        ),
        # CUDA
        "t4": Preset("cuda -arch=sm_75", "NVIDIA T4"),
        "a100": Preset("cuda -arch=sm_80", "NVIDIA A100"),
        "rtx3090": Preset("cuda -arch=sm_86", "NVIDIA GeForce RTX 3090"),
        "rtx4090": Preset("cuda -arch=sm_89", "NVIDIA GeForce RTX 4090"),
        "l4": Preset("cuda -arch=sm_89", "NVIDIA L4"),
        "h100": Preset("cuda -arch=sm_90a", "NVIDIA H100"),
        "h200": Preset("cuda -arch=sm_90a", "NVIDIA H200"),
        "jetson-orin-gpu": Preset(
            "cuda -arch=sm_87 -host=jetson-orin", "NVIDIA Jetson Orin, GPU and CPU"
        ),
    }
)
