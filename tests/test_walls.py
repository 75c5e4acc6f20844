"""The walls of the house, where import-linter cannot see: what a fresh process has loaded after an import."""

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HEAVY = ("ray", "optuna", "pyarrow", "torch")

CASES = [
    # what is imported, what must stay out
    ("greenprune_core", HEAVY),
    ("greenprune_core.config", HEAVY),
    ("greenprune_core.one_pass", ("ray", "optuna", "pyarrow")),
    ("greenprune_core.subnetwork", ("ray", "optuna", "pyarrow")),
    ("search_spaces", HEAVY),
    ("search_spaces.digits", ("ray", "optuna", "torch", "torchvision")),
    ("hpsearch", ("ray", "optuna", "torch")),
    ("hpsearch.cli", HEAVY),
    ("hpsearch.settings", ("ray", "optuna", "torch")),
    ("hpsearch.archive", ("ray", "optuna", "torch")),
    ("hpsearch.pareto", ("ray", "optuna", "torch")),
    ("hpsearch.picker", ("ray", "optuna", "torch")),
    ("hpsearch.report", ("ray", "optuna", "torch")),
    ("hpsearch.commands.report", ("ray", "optuna", "torch")),
    ("hpsearch.commands.pick", ("ray", "optuna", "torch")),
    ("hpsearch.trial", ("ray", "optuna")),
]


LOADS_TORCH = ("greenprune_core.one_pass", "greenprune_core.subnetwork", "hpsearch.trial")  # seconds each


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [pytest.param(*case, marks=pytest.mark.slow if case[0] in LOADS_TORCH else (), id=case[0]) for case in CASES],
)
def test_a_fresh_import_loads_nothing_from_behind_its_wall(module: str, forbidden: tuple[str, ...]) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = _run(code)
    assert module in loaded
    assert sorted(set(forbidden) & loaded) == []


UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def test_nothing_of_ours_unpickles_what_a_storage_path_may_hold() -> None:
    n_loads = 0
    for package in ("greenprune_core", "search_spaces", "hpsearch"):
        for path in (Path(__file__).parents[1] / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                    assert not UNPICKLERS & {name.split(".")[0] for name in names}, f"{path}:{node.lineno}"
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                    n_loads += 1
                    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                    assert options.get("weights_only") == "True", f"{path}:{node.lineno}"
                if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                    assert ast.unparse(node.value) == "False", f"{path}:{node.lineno}"
    assert n_loads >= 1, "checkpoints are read by torch.load"


@pytest.mark.parametrize("command", ["report", "pick"])
def test_help_of_a_reading_command_loads_no_search_and_no_network(command: str) -> None:
    code = (
        "import sys, json; from hpsearch.cli import main; "
        f"code = main(['{command}', '--help']); assert code == 0, code; print(json.dumps(sorted(sys.modules)))"
    )
    loaded = _run(code)
    assert f"hpsearch.commands.{command}" in loaded
    assert sorted({"ray", "optuna", "torch"} & loaded) == []


@pytest.mark.parametrize("name", HEAVY)
def test_the_watched_packages_are_installed_so_that_their_absence_means_something(name: str) -> None:
    assert find_spec(name) is not None


def _run(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))
