# SPDX-License-Identifier: Apache-2.0
"""docs/raspberry-pi.md, word for word: on this machine as the laptop, on an emulated arm64 board.

What the emulated board cannot do is done for it: `python3 -m venv` and pip install this xnortvm
into a folder of its own, `apt` has nothing to install because cmake and the compilers are those of
this machine (they make code for arm64), and programs of arm64 are started by the emulator.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ..tools.stand_in import ROOT, StandIn, script
from .root import Root, find_root

FOUND = find_root()
GCC = "aarch64-linux-gnu-gcc"
MISSING = [name for name in (GCC, GCC[:-3] + "g++", "cmake", "bash") if not shutil.which(name)]
BIN = Path(sys.executable).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(isinstance(FOUND, str), reason=str(FOUND)),
    pytest.mark.skipif(not (BIN / "python-zig").exists(), reason='needs "xnortvm[cross]"'),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
PAGE = ROOT / "docs/raspberry-pi.md"
HOST = "pi@raspberrypi"

#: Programs of arm64 get a script in their place that starts the emulator.
WRAP = """
import os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for path in (os.path.join(folder, name) for name in names if ".so" not in name):
        if not os.access(path, os.X_OK) or os.path.islink(path):
            continue
        with open(path, "rb") as file:
            head = file.read(20)
        if head[:4] == b"\\x7fELF" and head[18] == 183 and not path.endswith(".arm64"):
            os.rename(path, path + ".arm64")
            with open(path, "w") as file:
                file.write(f'#!/bin/sh\\nexec qemu-aarch64 -L {sys.argv[2]} {path}.arm64 "$@"\\n')
            os.chmod(path, 0o755)
"""


class Block(NamedTuple):
    """A block of commands on the page."""

    language: str
    place: str
    text: str


def blocks() -> list[Block]:
    found = re.findall(r"```(sh|python)\n# (laptop|board)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [Block(*each) for each in found]


@pytest.fixture
def board(tmp_path: Path) -> StandIn:
    """The board of the page, with xnortvm as a wheel would install it in a site of its own."""
    assert isinstance(FOUND, Root)
    board = StandIn(tmp_path / "board")
    site, wrap = tmp_path / "site", tmp_path / "wrap.py"
    python = f'exec {shlex.join(FOUND.command(site))} "$@"'
    wrap.write_text(WRAP)
    install = f"{sys.executable} -m pip install -q --no-deps --no-build-isolation --target {site}"
    env = tmp_path / "env"
    env.mkdir()
    script(env / "python", f"#!/bin/sh\n{python}\n")
    script(env / "pip", f'#!/bin/sh\n[ "$*" = "install xnortvm" ] && exec {install} {ROOT}\n')
    venv = f'[ "$1 $2" = "-m venv" ] && mkdir "$3" && exec cp -r {env} "$3/bin"'
    board.program("python3", f"{venv}; {python}")
    board.program("uname", "echo aarch64")
    board.program("sudo", '[ "$1 $2" = "apt install" ]')
    for name, compiler in (("cc", GCC), ("c++", GCC[:-3] + "g++")):
        (board.programs / name).symlink_to(shutil.which(compiler) or compiler)
    board.program("wrap", f"exec {sys.executable} -S {wrap} {board.home} {FOUND.folder}")
    board.answer(HOST, str(board.programs / "wrap"))
    scp = '#!/bin/bash\nto="${@: -1}"\ncp "${@:1:$#-1}" "%s/${to#*:}"\n'
    script(board.path / "scp", scp % board.home)
    return board


@pytest.fixture
def laptop(tmp_path: Path, board: StandIn) -> dict[str, str]:
    """The environment of the laptop: its pip finds installed what the page installs."""
    assert isinstance(FOUND, Root)
    script(
        board.path / "pip",
        "#!/bin/sh\n"
        'case "$*" in\n'
        "  'install xnortvm[torch,cross]') ;;\n"
        f"  'install --no-deps '*' --target board-site '*) ln -s {FOUND.site} board-site ;;\n"
        "  *) exit 1 ;;\n"
        "esac\n",
    )
    script(
        board.path / "xnortvm",
        f'#!/bin/sh\nexec {sys.executable} -m xnortvm.tools.cli "$@"\n',
    )
    path = os.pathsep.join(map(str, (board.path, BIN, os.environ["PATH"])))
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}


def follow(block: Block, board: StandIn, laptop: dict[str, str], work: Path) -> str:
    """Run a block where the page says; every command has to succeed."""
    if block.place == "laptop":
        environment, cwd, before = laptop, work, "set -eo pipefail"
    else:
        environment = {"PATH": f"{board.programs}:/usr/bin:/bin", "HOME": str(board.home)}
        cwd, before = board.home, "set -e; trap wrap DEBUG"
    if block.language == "python":
        (board.home / "predict.py").write_text(block.text)
        text = "~/env/bin/python predict.py"
    else:
        text = block.text
    done = subprocess.run(
        ["bash", "-c", f"{before}\n{text}"],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_who_follows_the_page_gets_predictions_in_python_and_in_c(
    board: StandIn, laptop: dict[str, str], tmp_path: Path
):
    work = tmp_path / "work"
    work.mkdir()
    install, deploy, python, c, cross = blocks()
    follow(install, board, laptop, work)
    assert "The self-test passed." in follow(deploy, board, laptop, work)
    assert re.fullmatch(r"class \d\n", follow(python, board, laptop, work))
    assert follow(c, board, laptop, work).count("as expected") == 3
    assert follow(cross, board, laptop, work).count("as expected") == 1
