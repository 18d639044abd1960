# SPDX-License-Identifier: Apache-2.0
"""An arm64 Debian with Python and TVM's runtime in a folder, for programs under qemu-aarch64.

    python -m tests.arm.root [FOLDER]      build it (build/arm64-root), 220 MB; no root needed

Packages are unpacked, not installed: apt only downloads them, into a state of its own, and wheels
are those that a board would get. Programs cannot start other programs there (that would need a
handler of the kernel, which only root can set), so whatever starts one is told of a wrapper.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from xnortvm._tvm_runtime import PINS

#: Names the folder that tests use; without it they are skipped.
VARIABLE = "XNORTVM_ARM64_ROOT"
DEFAULT = Path("build/arm64-root")
NEEDED = ("apt-get", "dpkg-deb", "qemu-aarch64")
#: Of Debian 12, as Raspberry Pi OS has it.
PYTHON = "3.11"
_DEBIAN = [f"python{PYTHON}", "libstdc++6"]
_WHEELS = [
    *(pin.install for pin in PINS),
    *("numpy", "ml_dtypes", "typing_extensions", "psutil", "cloudpickle"),
]
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_SITE = "opt/site"
# 240 MB that compile, and a runtime for GPUs: a board needs neither.
_UNUSED = ("libtvm_compiler.so", "libtvm_runtime_cuda.so")

_APT = """APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
Dir::State "{state}";
Dir::State::status "{state}/status";
Dir::Cache "{cache}";
APT::Sandbox::User "";
"""


class Root:
    """A built root.

    Attributes
    ----------
    folder : Path
        Its ``/``.
    site : Path
        Site-packages with TVM's runtime.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.site = self.folder / _SITE

    def command(self, *paths: Path) -> list[str]:
        """Return the command that starts Python there; packages in `paths` come first."""
        qemu = shutil.which("qemu-aarch64") or "qemu-aarch64"
        path = os.pathsep.join(map(str, (*paths, self.site)))
        variables = {"PYTHONHOME": self.folder / "usr", "PYTHONPATH": path}
        options = [option for n, v in variables.items() for option in ("-E", f"{n}={v}")]
        python = self.folder / "usr/bin" / f"python{PYTHON}"
        return [qemu, "-L", str(self.folder), *options, str(python)]


def find_root() -> Root | str:
    """Return the root that the environment names, or why there is none."""
    named = os.environ.get(VARIABLE)
    if not named:
        return f"{VARIABLE} names no arm64 root; make test-arm-deploy builds one"
    if not shutil.which("qemu-aarch64"):
        return "qemu-aarch64 is missing (Debian, Ubuntu: sudo apt install qemu-user)"
    if not (Path(named) / _SITE / "tvm").is_dir():
        return f"{named} is no arm64 root; python -m tests.arm.root {named} builds one"
    return Root(Path(named))


def build(folder: Path) -> Root:
    """Build a root, unless there is one: it gets its name when it is complete."""
    if (folder / _SITE / "tvm").is_dir():
        return Root(folder)
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing:
        sys.exit(f"an arm64 root needs {', '.join(missing)}: sudo apt install apt dpkg qemu-user")
    work = folder.absolute().with_name(f".{folder.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    root = work / "root"
    _unpack_debian(work, root)
    _unpack_wheels(root / _SITE)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.rename(root, folder)
    shutil.rmtree(work)
    return Root(folder)


def _unpack_debian(work: Path, root: Path) -> None:
    state, cache = work / "state", work / "cache"
    for each in (state / "lists/partial", cache / "archives/partial", root):
        each.mkdir(parents=True)
    (state / "status").touch()
    (work / "apt.conf").write_text(_APT.format(state=state, cache=cache))
    environment = os.environ | {"APT_CONFIG": str(work / "apt.conf")}
    download = ["install", "-y", "--no-install-recommends", "--download-only", *_DEBIAN]
    for arguments in (["update"], download):
        subprocess.run(
            ["apt-get", "-qq", *arguments], env=environment, stdout=sys.stderr, check=True
        )
    for package in sorted((cache / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)


def _unpack_wheels(site: Path) -> None:
    platforms = [option for name in _PLATFORMS for option in ("--platform", name)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--only-binary=:all:"),
            *(*platforms, "--python-version", PYTHON, "--target", site, *_WHEELS),
        ],
        stdout=sys.stderr,
        check=True,
    )
    for name in _UNUSED:
        (site / "tvm/lib" / name).unlink(missing_ok=True)


def main() -> None:
    """Build the root that is named."""
    parser = argparse.ArgumentParser(description="Build an arm64 root with TVM's runtime.")
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT)
    print(build(parser.parse_args().folder).folder)


if __name__ == "__main__":
    main()
