"""Programs that are started with a Python that lacks the packages."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime import interpreter

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*ROOT.glob("scripts/*.py"), *ROOT.glob("scripts/dev/*.py")])
PROGRAMS = [ROOT / "src/main.py", *(path for path in SCRIPTS if "argparse" in path.read_text())]


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory):
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=os.name == "posix")
    return folder / ("bin/python" if os.name == "posix" else "Scripts/python.exe")


@pytest.fixture
def clone(tmp_path):
    """A copy of the program, in which `script` makes .venv/bin/python a shell script."""
    root = tmp_path / "a clone"
    for name in ("src", "scripts"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))

    def write_python(text):
        python = root / ".venv/bin/python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(f"#!/bin/sh\n{text}\n")
        python.chmod(0o755)

    return SimpleNamespace(root=root, write_python=write_python)


def start(bare_python, *command, cwd=None):
    without = ("PYTHONPATH", interpreter.RESTARTED)
    env = {name: value for name, value in os.environ.items() if name not in without}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([bare_python, *command], cwd=cwd, env=env, **pipes)
    out, err = process.communicate(timeout=60)
    return process, out, err


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_without_packages_a_sentence_says_what_to_do(bare_python, clone, program):
    process, out, err = start(bare_python, clone.root / program.relative_to(ROOT), "--help")
    assert (process.returncode, out) == (1, "")
    assert err.startswith(f"error: {bare_python} lacks torch, ")
    assert len(err.splitlines()) == 1
    assert "scripts/setup.sh" in err


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for .venv/bin/python")
class TestVenv:
    def test_the_program_runs_there_from_any_folder(self, bare_python, clone, tmp_path):
        clone.write_python(f'exec "{sys.executable}" "$@"')
        (tmp_path / "elsewhere").mkdir()
        path = os.path.relpath(clone.root / "src/main.py", tmp_path / "elsewhere")
        flags = ["--model", "No such, network"]
        process, _, err = start(bare_python, path, *flags, cwd=tmp_path / "elsewhere")
        assert process.returncode == 2
        assert "--model 'No such, network' must be" in err

    def test_it_is_the_same_process(self, bare_python, clone):
        clone.write_python("echo $$\nkill -TERM $$")
        process, out, _ = start(bare_python, clone.root / "src/main.py")
        assert int(out) == process.pid, "signals reach the program"
        assert process.returncode == -15, "and its end is seen"

    def test_a_venv_without_packages_is_tried_once(self, bare_python, clone):
        clone.write_python(f'echo started\nexec "{bare_python}" "$@"')
        process, out, err = start(bare_python, clone.root / "src/main.py", "--help")
        assert process.returncode == 1
        assert out.splitlines() == ["started"]
        assert len(err.splitlines()) == 1

    def test_children_of_the_program_may_restart_as_well(self, bare_python, clone, tmp_path):
        code = "import os; from runtime.interpreter import *; use_project_packages()"
        code += "; print(sorted(name for name in os.environ if 'RESTARTED' in name))"
        clone.write_python(f'shift\nexec "{sys.executable}" -c "{code}"')
        (clone.root / "src/child.py").write_text(code)
        process, out, err = start(bare_python, clone.root / "src/child.py", cwd=clone.root / "src")
        assert process.returncode == 0, err
        assert out.splitlines() == ["[]"]


def test_windows_waits_for_the_program_and_has_its_exit_status(tmp_path, monkeypatch):
    calls = []
    system = SimpleNamespace(name="nt", environ={"PATH": "C:\\"})
    (tmp_path / ".venv/Scripts").mkdir(parents=True)
    (tmp_path / ".venv/Scripts/python.exe").touch()
    monkeypatch.setattr(interpreter, "ROOT", tmp_path)
    monkeypatch.setattr(interpreter, "PACKAGES", ("no_such_package",))
    monkeypatch.setattr(interpreter, "os", system)
    monkeypatch.setattr(interpreter.signal, "signal", lambda *args: None)
    monkeypatch.setattr(sys, "orig_argv", ["python", "src/main.py", "--epochs", "1"])
    call = lambda command, env: calls.append((command, env)) or 7  # noqa: E731
    monkeypatch.setattr(interpreter.subprocess, "call", call)
    with pytest.raises(SystemExit) as ended:
        interpreter.use_project_packages()
    assert ended.value.code == 7
    command, env = calls[0]
    assert command == [str(tmp_path / ".venv/Scripts/python.exe"), "src/main.py", "--epochs", "1"]
    assert env == {"PATH": "C:\\", interpreter.RESTARTED: "1"}
