"""Installation: `pip install .` refuses; the scripts run with the shell and Python that are there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import refuse_install

ROOT = Path(__file__).resolve().parent.parent


def test_pip_install_refuses(tmp_path):
    pytest.importorskip("pip")
    for name in ("pyproject.toml", "scripts/dev/refuse_install.py"):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    command = ["-m", "pip", "install", "--no-index", "--target", tmp_path / "site"]
    done = subprocess.run(
        [sys.executable, *command, tmp_path / "clone"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "pip install -r requirements.txt" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "site").exists()
    assert {path.name for path in (tmp_path / "clone").iterdir()} == {"pyproject.toml", "scripts"}
    # pip install -e calls another hook
    assert refuse_install.build_editable is refuse_install.build_wheel


# what bash 3.2 (macOS) and the tools of BSD do not have, as regular expressions
NEWER = (
    r"[@!?*+]\([^)]*\|",  # extglob in [[ ]], a syntax error before bash 4.1
    r"\b(mapfile|readarray|coproc|shopt -s globstar)\b",
    r"\b(declare|local|typeset) -[a-zA-Z]*[Anglu]",
    r"\$\{\w+(\[[^]]*\])?(,,?|\^\^?|@[A-Za-z])\}?",
    r"\$\{\w+\[-\d",  # negative index
    r"&>>|\|&|;;&|;&|\bwait -n\b|\[\[ -v |%\([^)]*\)T|\$(EPOCH|SRANDOM|BASHPID)",
    r"\breadlink -[a-z]*f|\brealpath\b|\bnproc\b|\bsed -i|\bgrep -[a-zA-Z]*P|\bdate -d|\bcp --|\btac\b",
    r"sed .*[^;{ ]\s*\}'",  # BSD wants `;` before `}`
)


@pytest.mark.parametrize("script", [*ROOT.glob("scripts/**/*.sh")], ids=lambda path: path.name)
def test_scripts_run_on_the_bash_of_macos(script):
    lines = script.read_text().splitlines()
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    for pattern in NEWER:
        assert not re.search(pattern, code), pattern


@pytest.mark.parametrize("python", ["bin/python", "Scripts/python.exe"])
def test_scripts_find_the_interpreter_of_the_environment(tmp_path, python):
    path = tmp_path / "venv" / python
    path.parent.mkdir(parents=True)
    path.write_text('#!/bin/sh\necho "called $*"\n')
    path.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "VENV": str(tmp_path / "venv")}
    for command, words in (
        ("run.sh --epochs 1", "called .*src/main.py --epochs 1"),
        ("setup.sh", "called -m pip install .*requirements.txt"),
    ):
        script, *argv = command.split()
        done = subprocess.run(
            ["bash", ROOT / "scripts" / script, *argv], env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert re.search(words, done.stdout)
