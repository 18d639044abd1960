# SPDX-License-Identifier: Apache-2.0
"""Packaging: whichever way xnortvm is installed, its sub-packages are its own.

All of it happens in a copy of the repository with a tuning record and some litter planted in it,
so that the guards can fail and nothing here is touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUBPACKAGES = ("models", "schedules", "tools")
RECORD = "records/planted.jsonl"


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a program in a clean environment and return what it printed."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=variables | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def origins(python: object, cwd: Path, **environment: str) -> dict[str, Path]:
    """Return where a Python finds xnortvm and its sub-packages, seen from a foreign folder."""
    code = (
        "import importlib.util as u, json; names = ['xnortvm', *['xnortvm.' + n for n in "
        f"{SUBPACKAGES!r}]]; print(json.dumps({{n: u.find_spec(n).origin for n in names}}))"
    )
    found = json.loads(run(python, "-c", code, cwd=cwd, **environment))
    return {name: Path(origin) for name, origin in found.items()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks or would track, with a record and litter added."""
    copy = tmp_path_factory.mktemp("checkout") / "repository"
    litter = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("xnortvm", *SUBPACKAGES):
        shutil.copytree(ROOT / name, copy / name, ignore=litter)
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copy(ROOT / ".gitignore", copy / ".gitignore")
    (copy / "schedules" / RECORD).parent.mkdir(exist_ok=True)
    (copy / "schedules" / RECORD).write_text("{}\n")
    for litter_name in ("tests/test_x.py", "examples/x.py", "docs/x.md", "build/x.py", "stray.py"):
        (copy / litter_name).parent.mkdir(parents=True, exist_ok=True)
        (copy / litter_name).write_text("")
    for package in ("xnortvm", *SUBPACKAGES):
        cache = copy / package / "__pycache__"
        cache.mkdir()
        (cache / "x.cpython-311.pyc").write_bytes(b"")
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    arguments = ("--wheel", "--no-isolation", "--outdir", out, checkout)
    run(sys.executable, "-m", "build", *arguments, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with an editable install of the copy; returns its Python."""
    place = tmp_path_factory.mktemp("editable") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=checkout.parent)
    (site,) = place.glob("lib/python*/site-packages")
    # The packages that xnortvm and its build need are those of this environment.
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = place / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "-e", checkout, cwd=checkout.parent)
    return python


# ---- wheel


def test_the_wheel_holds_one_package_and_nothing_beside_it(wheel_names: set[str]):
    top = {name.split("/")[0] for name in wheel_names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"xnortvm"}
    assert len(top) == 2


def test_the_wheel_holds_every_module_of_the_repository(wheel_names: set[str]):
    modules = {f"xnortvm/{path.relative_to(ROOT / 'xnortvm')}" for path in tracked("xnortvm")}
    for name in SUBPACKAGES:
        modules |= {f"xnortvm/{path.relative_to(ROOT)}" for path in tracked(name)}
    assert modules
    assert modules <= wheel_names


def tracked(folder: str) -> list[Path]:
    return [p for p in (ROOT / folder).rglob("*.py") if "__pycache__" not in p.parts]


def test_the_wheel_holds_records_types_and_licence(wheel_names: set[str]):
    assert f"xnortvm/schedules/{RECORD}" in wheel_names
    assert "xnortvm/py.typed" in wheel_names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)


def test_the_wheel_holds_every_committed_record(wheel_names: set[str]):
    records = [path.name for path in (ROOT / "schedules").glob("records/*.jsonl")]
    assert {f"xnortvm/schedules/records/{name}" for name in records} <= wheel_names


def test_the_wheel_holds_no_litter(wheel_names: set[str]):
    assert not [name for name in wheel_names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_wheel_registers_the_command_and_the_torch_backend(unpacked: Path):
    (points,) = unpacked.glob("*.dist-info/entry_points.txt")
    text = points.read_text()
    assert "xnortvm = xnortvm.tools.cli:main" in text
    assert "[torch_dynamo_backends]\nxnortvm = xnortvm.torch_backend:backend" in text


def test_a_wheel_finds_its_sub_packages_inside_itself(unpacked: Path, tmp_path: Path):
    found = origins(sys.executable, tmp_path, PYTHONPATH=str(unpacked))
    for name in SUBPACKAGES:
        assert found[f"xnortvm.{name}"] == unpacked / "xnortvm" / name / "__init__.py"


def test_a_wheel_ignores_packages_of_others_with_the_same_names(unpacked: Path, tmp_path: Path):
    """Another distribution may install a top-level `schedules` beside it."""
    site = tmp_path / "site-packages"
    shutil.copytree(unpacked, site)
    for name in SUBPACKAGES:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("raise ImportError('not ours')\n")
    found = origins(sys.executable, tmp_path, PYTHONPATH=str(site))
    for name in SUBPACKAGES:
        assert found[f"xnortvm.{name}"] == site / "xnortvm" / name / "__init__.py"


# ---- source tree and editable install


def test_a_source_tree_uses_its_own_sub_packages(checkout: Path, tmp_path: Path):
    found = origins(sys.executable, tmp_path, PYTHONPATH=str(checkout))
    assert found["xnortvm"] == checkout / "xnortvm" / "__init__.py"
    for name in SUBPACKAGES:
        assert found[f"xnortvm.{name}"] == checkout / name / "__init__.py"


def test_a_source_tree_wins_over_an_installed_wheel(checkout: Path, unpacked: Path, tmp_path: Path):
    found = origins(sys.executable, tmp_path, PYTHONPATH=f"{checkout}{os.pathsep}{unpacked}")
    for name in SUBPACKAGES:
        assert found[f"xnortvm.{name}"] == checkout / name / "__init__.py"


def test_an_editable_install_uses_the_checkout(checkout: Path, editable: Path, tmp_path: Path):
    found = origins(editable, tmp_path)
    assert found["xnortvm"] == checkout / "xnortvm" / "__init__.py"
    for name in SUBPACKAGES:
        assert found[f"xnortvm.{name}"] == checkout / name / "__init__.py"


def test_an_editable_install_sees_files_that_are_added_later(
    checkout: Path, editable: Path, tmp_path: Path
):
    for folder, value in (("schedules", 3), ("tools", 4)):
        (checkout / folder / "added_later.py").write_text(f"value = {value}\n")
    code = (
        "import xnortvm.schedules.added_later as a, xnortvm.tools.added_later as b; "
        "print(a.value, b.value)"
    )
    assert run(editable, "-c", code, cwd=tmp_path).split() == ["3", "4"]


def test_an_editable_install_copies_no_modules(editable: Path):
    """A copy would go stale, and could be imported instead of the checkout."""
    (site,) = editable.parent.parent.glob("lib/python*/site-packages")
    names = {path.name for path in site.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} == {
        "_xnortvm.pth",
        "outer.pth",
    }


# ---- import


def test_importing_xnortvm_loads_neither_tvm_nor_torch(tmp_path: Path):
    code = (
        "import sys, xnortvm; xnortvm.__version__, dir(xnortvm); "
        "print([m for m in ('tvm', 'torch', 'numpy', 'onnx') if m in sys.modules])"
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT)).strip() == "[]"


def test_the_command_prints_its_version_without_loading_tvm(tmp_path: Path):
    code = (
        "import sys\nfrom xnortvm.tools.cli import main\n"
        "try: main(['--version'])\nexcept SystemExit: pass\n"
        "print([m for m in ('tvm', 'torch') if m in sys.modules])"
    )
    output = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert output.splitlines()[-1] == "[]"


def test_unknown_names_of_the_package_are_attribute_errors():
    import xnortvm

    with pytest.raises(AttributeError, match="no attribute 'compiel'"):
        _ = xnortvm.compiel  # type: ignore[attr-defined]
