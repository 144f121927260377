"""`pip install .` refuses and says what to do instead."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_pip_install_refuses(tmp_path):
    pytest.importorskip("pip")
    for name in ("pyproject.toml", "scripts/dev/refuse_install.py"):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    command = ["-m", "pip", "install", "--no-index", "--target", tmp_path / "site"]
    for what in ([tmp_path / "clone"], ["-e", tmp_path / "clone"]):
        done = subprocess.run([sys.executable, *command, *what], capture_output=True, text=True)
        assert done.returncode != 0
        assert "pip install -r requirements.txt" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "site").exists()
    assert {path.name for path in (tmp_path / "clone").iterdir()} == {"pyproject.toml", "scripts"}
