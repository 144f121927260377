"""The layout of src: imports run one way, and only runtime/ touches the process."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
# a module may import modules of lower levels, and of its own level without a cycle
LEVELS = {"runtime": 0, "main": 4, "trainer": 3, "option": 2, "flag_checks": 2, "template": 2}
PROCESS = {"signal", "ctypes", "torch.distributed"}
FOLDERS = ("src", "scripts", "docs")
DOCUMENTED = (ast.FunctionDef, ast.ClassDef, ast.Module)


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


def test_only_the_preparation_script_uses_data_prepare():
    users = [p for p in SRC.rglob("*.py") if any("data.prepare" in m for m in imports(p))]
    assert {path.parent.name for path in users} <= {"prepare"}


def test_words():
    """The rules of CONTRIBUTING.md, section English, that a program can check."""
    word = r"\b(goes on|go on|going on|(?<!there )is no|(?<!there )are no|at hand|anew)\b"
    british = r"\b\w*(colour|normalis|centre|neighbour|behaviour|grey)\w*"
    files = [ROOT / "hubconf.py", *(p for d in FOLDERS for p in (ROOT / d).rglob("*.*"))]
    for path in [p for p in files if p.suffix in {".py", ".md", ".sh"}]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(rf'{word}|"""(Give|Tell|Let|Bring)s? ', text), path
        assert all(len(x) <= 100 or x[0] == "|" for x in text.splitlines()), path
        nodes = list(ast.walk(ast.parse(text if path.suffix == ".py" else "")))
        names = [node.id for node in nodes if isinstance(node, ast.Name)]
        assert not any(re.fullmatch(british, name, re.I) for name in names), path
        docs = [ast.get_docstring(x) or "" for x in nodes if isinstance(x, DOCUMENTED)]
        long = [doc for doc in docs if len(doc.partition("\n")[0].split()) > 15]
        assert not long, f"{path}: the first line has more than 15 words: {long}"
