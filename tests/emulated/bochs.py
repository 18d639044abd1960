# SPDX-License-Identifier: Apache-2.0
"""Boot a disk image in Bochs, headless, and return what it writes to its serial port."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import threading
from pathlib import Path

NEEDS = "bochs with bochs-term (Debian: apt install bochs bochs-term bochsbios)"

CONFIGURATION = """\
display_library: term
memory: guest=1024, host=1024
romimage: file={share}/BIOS-bochs-latest
vgaromimage: file={share}/VGABIOS-lgpl-latest
cpu: model={model}, count=1, ips=50000000, reset_on_triple_fault=0
clock: sync=none
ata0-master: type=disk, path=disk.img, mode=flat
boot: disk
com1: enabled=1, mode=file, dev=serial.txt
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
log: bochs.log
panic: action=fatal
"""


def missing() -> str | None:
    """Say what is not installed, None when everything is."""
    for program in ("bochs", "gcc", "ld", "objcopy", "nm"):
        if shutil.which(program) is None:
            return f"{program} is not installed; this needs {NEEDS}, gcc and binutils"
    if not (share() / "BIOS-bochs-latest").exists():
        return f"the BIOS of bochs is not installed; this needs {NEEDS}"
    return None


def share() -> Path:
    """Return where the BIOS lies."""
    return Path(os.environ.get("BXSHARE", "/usr/share/bochs"))


def boot(folder: Path, model: str, limit_s: float) -> list[str]:
    """Run ``disk.img`` of a folder until it powers off.

    Parameters
    ----------
    folder : path
    model : str
        Of the CPU, one of ``bochs --help cpu``.
    limit_s : float
        The emulator is stopped after so many seconds.

    Returns
    -------
    list of str
        The lines that the image wrote.
    """
    (folder / "bochsrc").write_text(CONFIGURATION.format(share=share(), model=model))
    log, serial = folder / "bochs.log", folder / "serial.txt"
    for written in (log, serial):
        written.unlink(missing_ok=True)
    ours, theirs = pty.openpty()
    command = ["nice", "-n", "19", "bochs", "-q", "-f", "bochsrc"]
    if _has_debugger():
        # It waits for commands before the first instruction.
        (folder / "commands").write_text("continue\nquit\n")
        command += ["-rc", "commands"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(theirs)
    shown = bytearray()
    screen = threading.Thread(target=_drain, args=(ours, shown), daemon=True)
    screen.start()
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    screen.join()
    os.close(ours)
    lines = serial.read_text(errors="replace").splitlines() if serial.exists() else []
    if not lines:
        said = log.read_text(errors="replace") if log.exists() else ""
        end = (said or shown.decode(errors="replace")).splitlines()[-5:]
        raise RuntimeError("bochs ran nothing; it ended with:\n" + "\n".join(end))
    return lines


def _has_debugger() -> bool:
    shown = subprocess.run(["bochs", "--help"], capture_output=True, text=True, check=False)
    return "-rc " in shown.stdout + shown.stderr


def _drain(terminal: int, shown: bytearray) -> None:
    """Read what the emulator shows, so that it never waits."""
    with contextlib.suppress(OSError):
        while read := os.read(terminal, 4096):
            shown += read
