"""Where things live: what a module may import, which a reader can then rely on."""

import ast
import re
from pathlib import Path

import pytest

import mmhcgnet

PACKAGE = Path(mmhcgnet.__file__).parent
# From top to bottom. What stands on one floor does not know each other.
FLOORS = (
    {"cli"},
    {"analysis"},
    {"engine"},
    {"checkpoints", "convert", "datasets", "model_index", "models"},
    {"_compat", "errors", "paths", "config_dicts", "processes", "version", "weights"},
)
# What convert/ may use of the models: the shapes, and the list of networks.
SHARED = dict(convert="mmhcgnet.models")


def modules():
    """Paths by dotted names; a package has the name of its folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if ".mim" not in parts:
            names = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join(("mmhcgnet", *names))] = path
    return found


MODULES = modules()


def imports(name):
    """Modules of the package that a module imports, at any place, for types included."""
    path = MODULES[name]
    here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {full if full in MODULES else base for full in names}
    return found & MODULES.keys()


def room(name):
    return name.split(".")[1] if "." in name else name


def floor(name):
    return next(i for i, rooms in enumerate(FLOORS) if room(name) in rooms)


@pytest.mark.parametrize("name", [name for name in MODULES if "." in name])
def test_a_module_imports_from_below(name):
    wrong = [
        other
        for other in imports(name)
        if room(other) != room(name)
        and not other.startswith(SHARED.get(room(name), "nothing"))
        and (other == "mmhcgnet" or floor(other) <= floor(name))
    ]
    assert not wrong


def test_no_circle():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for other in sorted(imports(name)):
                visit(other)
            done.add(path.pop())

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "engine/hooks").glob("*.py")), ids=lambda p: p.stem
)
def test_one_hook_a_file(path):
    if path.stem == "__init__":
        return
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    hooks = [node.name for node in classes if node.name.endswith("Hook")]
    assert [name.lower() for name in hooks] == [path.stem.replace("_", "")]


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) != "cli"])
def test_only_scripts_know_their_flags(name):
    """A function names its arguments; what the command line calls them is the script's."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    flags = [flag for string in strings for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", string)]
    # pip's, and that of the command that makes the data set.
    assert set(flags) <= {"--no-build-isolation", "--classification"}
