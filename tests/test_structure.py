"""The layout of src: imports run one way, and only runtime/ touches the process."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
# a module may import modules of lower levels, and of its own level without a cycle
LEVELS = {"runtime": 0, "main": 4, "trainer": 3, "option": 2, "flag_checks": 2, "template": 2}
PROCESS = {"signal", "ctypes", "torch.distributed"}


def imports(path):
    """Yield the dotted name of every module that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_run_one_way():
    files = {path: path.relative_to(SRC).with_suffix("").parts[0] for path in SRC.rglob("*.py")}
    edges = {}
    for path, name in files.items():
        edges.setdefault(name, set()).update(module.split(".")[0] for module in imports(path))
    edges = {name: (found & set(edges)) - {name} for name, found in edges.items()}
    assert edges["runtime"] == set()
    for name, found in edges.items():
        higher = {other for other in found if LEVELS.get(other, 1) > LEVELS.get(name, 1)}
        assert not higher, f"{name} imports {higher}"
    while leaves := {name for name, found in edges.items() if not found}:
        edges = {name: found - leaves for name, found in edges.items() if name not in leaves}
    assert not edges, f"a cycle: {edges}"


def test_only_runtime_touches_the_process():
    for path in SRC.rglob("*.py"):
        if "runtime" not in path.parts:
            found = PROCESS & set(imports(path))
            assert not found and "os.environ" not in path.read_text(), f"{path}: {found}"
