"""Who may import whom, and that what the project is about stands where a reader finds it."""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SCRIPTS = {"pretrain", "posttrain", "finetune"}
ARROWS = {  # room → what of the house its modules may import
    "model": set(),
    "run": {"run"},
    "data": {"data", "run"},
    "hf": {"hf", "data", "model", "run"},
    "pretrain": {"data", "hf", "model", "run"},
    "posttrain": {"data", "model", "run"},
    "finetune": {"data", "model", "run"},
    "evaluate": {"data", "hf", "model", "run"},
    "experiments": {"experiments", "data", "model", "run", *SCRIPTS},
    "theory": {"theory"},
}


def source_files() -> dict[str, Path]:
    """Every module of the house by its name: the files at the top, and those of the packages but tests."""
    rooms = [init.parent for init in ROOT.glob("*/__init__.py") if init.parent.name != "tests"]
    paths = [*ROOT.glob("*.py"), *(path for room in rooms for path in room.rglob("*.py"))]
    dotted = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in dotted.items()}


FILES = source_files()
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports(name: str) -> set[str]:
    """Every module that a module's import statements name, wherever they stand, those of others included."""
    found = set()
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            members = {alias.name: f"{origin}.{alias.name}" for alias in node.names}
            for member in members.values():                # `from run import ranks` is of run/ranks.py
                found.add(member if member in FILES or member == "torch.distributed" else origin)
    return found


def house(name: str) -> set[str]:
    """What of the house a module imports."""
    return {other for other in imports(name) if other.split(".")[0] in ARROWS}


def line_of(path: str, text: str) -> int:
    """The line, from 1, of the only place where a file says something."""
    lines = (ROOT / path).read_text().splitlines()
    numbers = [number for number, line in enumerate(lines, start=1) if text in line]
    assert len(numbers) == 1, f"{path} says {text!r} in lines {numbers}"
    return numbers[0]


# ---- arrows

def test_every_module_is_of_a_room():
    assert {name.split(".")[0] for name in FILES} == set(ARROWS)


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_only_what_it_may(room):
    for name in FILES:
        if name.split(".")[0] == room:
            outside = {other for other in house(name) if other.split(".")[0] not in ARROWS[room]}
            assert not outside, f"{name} imports {outside}"


def test_no_import_goes_in_a_circle():
    TopologicalSorter({name: house(name) for name in FILES}).prepare()                   # raises CycleError


def test_experiments_take_from_the_scripts_their_defaults_only():
    for name, tree in TREES.items():
        if name.startswith("experiments"):
            used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name) and node.value.id in SCRIPTS}
            assert used <= {"DEFAULTS", "parse"}, f"{name} uses {used}"
            members = {f"{script}.{alias.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                       for script in SCRIPTS & {node.module} for alias in node.names}
            assert not members, f"{name} imports {members}"


def test_only_ranks_speaks_of_torch_distributed():
    speaking = set()
    for name, tree in TREES.items():
        spelled = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if {"torch.distributed", "torch.nn.parallel"} & (imports(name) | spelled):
            speaking.add(name)
    assert speaking == {"run.ranks"}


# ---- what stands where

def test_backward_is_said_in_the_three_scripts():
    assert {path.stem for path in ROOT.glob("*.py") if "backward" in path.read_text()} == SCRIPTS


@pytest.mark.parametrize("path, text", [
    ("model.py", "cross_entropy"), ("run/loop.py", "def update"), ("run/loop.py", "optimizer.step()"),
    ("data/stream.py", "def minor_before"),
])
def test_loss_update_and_mixing_are_on_the_first_screen(path, text):
    assert line_of(path, text) <= 60


def test_a_stage_loads_no_more_than_it_needs():
    """A run need not wait seconds for what draws, nor for what reads other corpora than the embedded ones, nor
    have what only Hugging Face's folders take."""
    program = "import pretrain, evaluate, sys; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).split()
    assert not {"matplotlib", "experiments", "datasets", "theory", "hf"} & set(loaded)


def test_no_line_of_code_is_wider_than_110_columns():
    wide = [f"{name}:{number}" for name, path in FILES.items()
            for number, line in enumerate(path.read_text().splitlines(), start=1) if len(line) > 110]
    assert not wide


# ---- what it needs

def test_what_is_pinned_is_what_is_needed_and_of_its_range():
    """requirements.txt is one environment of those that pyproject.toml allows: a lab's own torch is another."""
    pins = [Requirement(line) for line in (ROOT / "requirements.txt").read_text().splitlines()]
    pinned = {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [Requirement(one) for one in project["dependencies"] + project["optional-dependencies"]["test"]]
    assert {one.name for one in needed} == set(pinned)
    for one in needed:
        assert [bound.operator for bound in one.specifier] == [">="] and pinned[one.name] in one.specifier
