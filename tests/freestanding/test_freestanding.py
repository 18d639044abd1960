# SPDX-License-Identifier: Apache-2.0
"""What a freestanding model promises, checked on this machine."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import xnortvm  # noqa: E402
from tests.freestanding.harness import (  # noqa: E402
    WARNINGS,
    Linked,
    compiler,
    flat,
    random_values,
    run,
)
from tests.freestanding.nets import NETS  # noqa: E402
from xnortvm.errors import ModelError, OutputError, TargetError  # noqa: E402
from xnortvm.freestanding import c_text, check_target  # noqa: E402
from xnortvm.freestanding.object_file import read_object  # noqa: E402
from xnortvm.runtime.interface import TensorSpec  # noqa: E402
from xnortvm.target import resolve  # noqa: E402

pytestmark = [
    pytest.mark.skipif(compiler() is None, reason="no C compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="objects of this machine are not ELF"),
]


class Saved:
    """A network, compiled and saved."""

    def __init__(self, name: str, folder: Path) -> None:
        net = NETS[name]()
        self.prefix, self.folder = name, folder / name
        self.compiled = xnortvm.compile(net.module, example_inputs=net.inputs, verify=False)
        self.made = self.compiled.save_freestanding(self.folder, prefix=name)

    def linked(self) -> Linked:
        return Linked(self.folder, self.prefix, self.compiled.inputs, self.compiled.outputs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Networks by name, each compiled once."""
    made: dict[str, Saved] = {}

    def get(name: str) -> Saved:
        if name not in made:
            made[name] = Saved(name, tmp_path_factory.mktemp("freestanding"))
        return made[name]

    return get


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_the_ordinary_library_to_the_last_bit(saved: Any, name: str) -> None:
    linked, compiled = saved(name).linked(), saved(name).compiled
    for seed, dirt in ((1, 0), (2, 255)):
        values = random_values(compiled.inputs, seed)
        found = linked(*values, dirt=dirt)
        for one, other in zip(found, flat(compiled(*values)), strict=True):
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", NETS)
def test_the_example_is_strict_c_of_80_lines_and_finds_what_it_expects(
    saved: Any, name: str
) -> None:
    folder = saved(name).folder
    run("cc", *WARNINGS, "-O1", "main.c", f"{name}.o", "-lm", "-o", "example", cwd=folder)
    assert run(folder / "example").startswith("0 of ")
    assert len((folder / "main.c").read_text().splitlines()) <= 80


def test_the_example_has_80_lines_for_16_outputs() -> None:
    image, scores = TensorSpec("x", (1, 3, 8, 8), "float32"), TensorSpec("y", (1, 10), "float32")
    classes = TensorSpec("z", (1,), "int64")
    text = c_text.example("net", [image], [scores, classes] * 8)
    assert len(text.splitlines()) <= 80


def test_the_example_notices_a_wrong_model(saved: Any) -> None:
    folder = saved("linear").folder
    text = (folder / "linear_expected.h").read_text()
    assert "0x1" in text
    wrong = folder.parent / "wrong"
    wrong.mkdir()
    for name in ("main.c", "linear.h", "linear.o"):
        (wrong / name).write_bytes((folder / name).read_bytes())
    (wrong / "linear_expected.h").write_text(text.replace("0x1", "0x9", 1))
    run("cc", "main.c", "linear.o", "-lm", "-o", "example", cwd=wrong)
    with pytest.raises(AssertionError, match="1 of 21 values differ"):
        run(wrong / "example")


@pytest.mark.parametrize("name", NETS)
def test_the_object_needs_no_more_than_the_header_says_and_keeps_no_state(
    saved: Any, name: str
) -> None:
    one = saved(name)
    undefined = {
        line.split()[-1] for line in run("nm", "-u", one.folder / f"{name}.o").split("\n") if line
    }
    assert undefined == set(one.made.needs)
    assert undefined <= {"memset", "memcpy", "memmove"}
    listed = run("nm", "-g", "--defined-only", one.folder / f"{name}.o").splitlines()
    assert {line.split()[-1] for line in listed} == {f"{name}_run", f"{name}_workspace_bytes"}
    elf = read_object((one.folder / f"{name}.o").read_bytes())
    assert elf is not None
    assert elf.state == 0
    assert not [s.name for s in elf.sections if s.name.startswith((".debug", ".eh_frame", ".init"))]


def test_a_program_without_any_library_can_run_it(saved: Any, tmp_path: Path) -> None:
    if os.uname().machine != "x86_64" or os.uname().sysname != "Linux":
        pytest.skip("its start is written for x86-64 Linux")
    one = saved("linear")
    source = Path(__file__).with_name("no_libc.c")
    run(
        *("cc", "-std=gnu99", "-O1", "-ffreestanding", "-nostdlib", "-static", "-fno-pie"),
        *("-no-pie", "-fno-stack-protector", "-I", one.folder, source),
        *(one.folder / "linear.o", "-o", tmp_path / "alone"),
    )
    assert run(tmp_path / "alone") == "ok\n"
    assert "INTERP" not in run("readelf", "-l", tmp_path / "alone")


def test_a_run_takes_less_than_8_kilobytes_of_stack(saved: Any, tmp_path: Path) -> None:
    one = saved("cifar")
    source = Path(__file__).with_name("stack.c")
    run(
        *("cc", "-std=gnu11", "-O1", "-I", one.folder, source, one.folder / "cifar.o"),
        *("-lpthread", "-lm", "-o", tmp_path / "stack"),
    )
    assert 0 < int(run(tmp_path / "stack")) < 8192


def test_two_models_live_in_one_program(saved: Any, tmp_path: Path) -> None:
    folders = [saved(name).folder for name in ("linear", "lenet")]
    (tmp_path / "both.c").write_text(
        '#include <stdio.h>\n#include "linear.h"\n#include "lenet.h"\n'
        "int main(void) {\n"
        '  printf("%ld %ld %d\\n", (long)linear_workspace_bytes(), (long)lenet_workspace_bytes(),\n'
        "         linear_run(0, 0, 0) + lenet_run(0, 0, 0));\n"
        "  return 0;\n}\n"
    )
    includes = [part for folder in folders for part in ("-I", folder)]
    objects = [folder / f"{folder.name}.o" for folder in folders]
    run("cc", *WARNINGS, *includes, tmp_path / "both.c", *objects, "-lm", "-o", tmp_path / "both")
    sizes = [saved(name).made.workspace for name in ("linear", "lenet")]
    assert run(tmp_path / "both").split() == [*map(str, sizes), "2"]


def test_the_same_model_twice_in_one_program_under_two_prefixes(saved: Any, tmp_path: Path) -> None:
    one = saved("linear")
    one.compiled.save_freestanding(tmp_path / "again", prefix="again")
    run(
        *("cc", "-shared", "-o", tmp_path / "both.so", one.folder / "linear.o"),
        tmp_path / "again" / "again.o",
    )


def test_the_header_is_cplusplus_too(saved: Any, tmp_path: Path) -> None:
    (tmp_path / "use.cpp").write_text(
        '#include "several.h"\nint main() { return several_workspace_bytes() == 0; }\n'
    )
    one = saved("several")
    run(
        *("c++", "-Wall", "-Wextra", "-Werror", "-I", one.folder, tmp_path / "use.cpp"),
        *(one.folder / "several.o", "-lm", "-o", tmp_path / "use"),
    )
    run(tmp_path / "use")


def test_null_and_misaligned_pointers_are_an_error_and_nothing_is_written(saved: Any) -> None:
    linked = saved("linear").linked()
    memory = np.full(1 << 16, 7, np.uint8)
    start = memory.ctypes.data + -memory.ctypes.data % 64
    good = [start, start + 4096, start + 8192]
    for index in range(3):
        for bad in (0, good[index] + 1, good[index] + 32):
            pointers = list(good)
            pointers[index] = bad
            assert linked.call(*map(_pointer, pointers)) == 1
    assert (memory == 7).all()
    assert linked.call(*map(_pointer, good)) == 0


def test_threads_run_one_model_at_once(saved: Any) -> None:
    linked, compiled = saved("lenet").linked(), saved("lenet").compiled
    values = [random_values(compiled.inputs, seed) for seed in range(8)]
    wanted = [flat(compiled(*each))[0].copy() for each in values]
    wrong: list[int] = []

    def work(index: int) -> None:
        found = [linked(*values[index])[0] for _ in range(20)]
        wrong.extend(index for one in found if one.tobytes() != wanted[index].tobytes())

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_manifest_says_what_is_there(saved: Any, tmp_path: Path) -> None:
    one = saved("several")
    one.compiled.save_freestanding(tmp_path / "out", prefix="several")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [row["name"] for row in manifest["interface"]["inputs"]] == ["x", "shift", "y"]
    assert manifest["target"] == one.compiled.target_name
    assert manifest["bytes"] == one.made.sizes
    assert manifest["functions"] == ["several_run", "several_workspace_bytes"]
    names = {"several.o", "several.h", "several_expected.h"}
    assert manifest["sha256"].keys() == names
    assert set(os.listdir(tmp_path / "out")) == {*names, "main.c", "manifest.json"}


def test_equal_models_give_equal_files_and_replace_them(saved: Any, tmp_path: Path) -> None:
    one, folder = saved("linear"), tmp_path / "out"
    one.compiled.save_freestanding(folder, prefix="other")
    one.compiled.save_freestanding(folder, prefix="linear")
    names = {"linear.o", "linear.h", "linear_expected.h", "main.c", "manifest.json"}
    assert set(os.listdir(folder)) == names
    for name in names:
        assert (folder / name).read_bytes() == (one.folder / name).read_bytes()
    assert os.listdir(tmp_path) == ["out"]


def test_a_path_that_cannot_be_written_is_one_sentence(saved: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, said in (("file", "it is a file; name a folder"), ("no/out", "No such file")):
        with pytest.raises(OutputError, match=said):
            saved("linear").compiled.save_freestanding(tmp_path / path)
    assert os.listdir(tmp_path) == ["file"]


def test_a_loaded_model_says_that_it_must_be_compiled_again(saved: Any, tmp_path: Path) -> None:
    path = saved("linear").compiled.save(tmp_path / "linear.xnor")
    with pytest.raises(ModelError, match=r"compile the model again and call save_freestanding"):
        xnortvm.load(path).save_freestanding(tmp_path / "out")


def test_a_freestanding_model_is_not_loaded(saved: Any) -> None:
    with pytest.raises(ModelError, match="holds a model for programs in C"):
        xnortvm.load(saved("linear").folder)


@pytest.mark.parametrize("prefix", ["", "1st", "a-b", "a b", "ü", "main", "_x"])
def test_a_prefix_that_is_no_name_of_c_is_refused(saved: Any, tmp_path: Path, prefix: str) -> None:
    with pytest.raises(ModelError, match=r"prefix .* use "):
        saved("linear").compiled.save_freestanding(tmp_path / "out", prefix=prefix)
    assert not (tmp_path / "out").exists()


def test_a_dynamic_batch_is_refused(tmp_path: Path) -> None:
    net = NETS["linear"]()
    compiled = xnortvm.compile(
        net.module, example_inputs=net.inputs, dynamic_batch=True, verify=False
    )
    with pytest.raises(ModelError, match=r"fixed shapes and this one has a dynamic batch \(input"):
        compiled.save_freestanding(tmp_path / "out")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("cuda -arch=sm_90", "holds code for a CPU, and cuda -arch=sm_90 is a cuda target"),
        ("apple-m1", "is an ELF file"),
    ],
)
def test_a_target_that_has_no_such_form_is_refused(target: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        check_target(resolve(target))


def test_a_model_for_such_a_target_is_not_saved(tmp_path: Path) -> None:
    net = NETS["linear"]()
    compiled = xnortvm.compile(
        net.module, target="apple-m1", example_inputs=net.inputs, verify=False
    )
    with pytest.raises(TargetError, match="is an ELF file"):
        compiled.save_freestanding(tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_16_bit_floats_at_the_border_are_refused(tmp_path: Path) -> None:
    compiled = xnortvm.compile(
        torch.nn.ReLU(), example_inputs=torch.zeros(4, dtype=torch.float16), verify=False
    )
    with pytest.raises(ModelError, match="float16, which C99 has no type for"):
        compiled.save_freestanding(tmp_path / "out")


def test_maths_of_the_model_is_asked_of_the_c_library_and_no_more(tmp_path: Path) -> None:
    class Maths(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.softmax(x, -1), torch.erf(x), x.half().float()

    compiled = xnortvm.compile(
        Maths(), target="llvm -mcpu=x86-64", example_inputs=torch.zeros(2, 9), verify=False
    )
    made = compiled.save_freestanding(tmp_path / "maths", prefix="maths")
    assert set(made.needs) == {"erff", "expf"}
    if resolve("llvm -mcpu=x86-64").is_host:
        linked = Linked(tmp_path / "maths", "maths", compiled.inputs, compiled.outputs)
        values = random_values(compiled.inputs, 1)
        for one, other in zip(linked(*values), flat(compiled(*values)), strict=True):
            assert one.tobytes() == other.tobytes()


def test_a_model_for_several_threads_becomes_one_for_one_thread(saved: Any, tmp_path: Path) -> None:
    net = NETS["linear"]()
    compiled = xnortvm.compile(net.module, example_inputs=net.inputs, num_threads=2, verify=False)
    compiled.save_freestanding(tmp_path / "out", prefix="linear")
    assert (tmp_path / "out" / "linear.o").read_bytes() == (
        saved("linear").folder / "linear.o"
    ).read_bytes()


def _pointer(address: int) -> Any:
    return ctypes.c_void_p(address)
