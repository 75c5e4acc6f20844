"""What is installed: all of the packages with their data, nothing else, and versions that name no index."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("greenprune_core", "search_spaces", "hpsearch")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel that is built from a copy of the source."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


def test_the_wheel_holds_every_file_of_the_packages(wheel: set[str]) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(ours) > 50
    assert sorted(ours - wheel) == []


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_console_script_starts_the_command_line() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="hpsearch")
    assert callable(script.load())


def test_constraints_name_no_index_and_no_path() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = [line for line in lines if line and not line.startswith("#")]
    assert len(locked) > 100
    assert [line for line in locked if not re.fullmatch(r"[a-z0-9-]+==\S+( ; [^/]+)?", line)] == []
    assert "://" not in "".join(lines)
    assert "/" not in "".join(line for line in lines if line.startswith("#"))


def test_constraints_lock_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.match(r"[A-Za-z0-9-]+", line)[0].lower() for line in asked} - {"greenprune"}  # type: ignore[index]
    locked = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert len(names) > 20
    assert names - locked == set()


@pytest.mark.slow
def test_the_entry_script_works_alone_from_any_folder(tmp_path: Path) -> None:
    shutil.copy2(ROOT / "hpsearch" / "run.py", tmp_path / "run.py")
    (tmp_path / "elsewhere").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HPSEARCH_")}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), "--dry-run", "--trials", "4"],
        cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_module_run_in_place_hides_a_standard_one() -> None:
    # `python hpsearch/run.py` puts that folder first on the import path
    for name in ("hpsearch", "hpsearch/commands", "hpsearch/report"):
        modules = {path.stem for path in (ROOT / name).glob("*.py")}
        assert modules & set(sys.stdlib_module_names) == set()
