"""Flags: the published commands, presets, and what --load takes over."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from option import parse_args
from runtime.files import UserError

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = [
    line
    for line in (ROOT / "tests/published_commands.txt").read_text().splitlines()
    if line.startswith("python")
]


@pytest.mark.parametrize("line", PUBLISHED)
def test_published_commands_parse(line):
    args = parse_args(shlex.split(line)[2:])
    assert args.scale in ([2], [3], [4], [8])


def test_defaults_of_the_field():
    args = parse_args([])
    assert (args.model, args.n_resblocks, args.n_feats, args.res_scale, args.scale) == (
        "EDSR",
        16,
        64,
        1,
        [4],
    )
    assert (args.patch_size, args.rgb_range, args.n_colors, args.batch_size) == (192, 255, 3, 16)
    assert (args.test_every, args.epochs, args.lr, args.decay, args.gamma) == (
        1000,
        300,
        1e-4,
        "200",
        0.5,
    )
    assert (args.optimizer, args.betas, args.loss) == ("ADAM", [0.9, 0.999], "1*L1")
    assert (args.data_train, args.data_test, args.data_range) == (
        ["DIV2K"],
        ["DIV2K"],
        "1-800/801-810",
    )
    assert (args.ext, args.seed, args.save, args.n_threads, args.print_every) == (
        "sep",
        1,
        "test",
        6,
        100,
    )


def test_the_command_line_wins_over_its_preset():
    assert parse_args(["--template", "EDSR_paper"]).n_feats == 256
    args = parse_args(["--n_feats", "32", "--template", "EDSR_paper"])
    assert (args.n_feats, args.n_resblocks) == (32, 32)
    both = parse_args(["--template", "RCAN+PCL"])
    assert (both.model, both.use_wavelet, both.no_ad_loss) == ("RCAN", True, True)
    assert both.epochs == 100, "of PCL, which stands last"
    rcan = parse_args(["--template", "RCAN"])
    assert (rcan.epochs, rcan.decay) == (1000, "200-400-600-800")
    assert parse_args(["--template", "HAN", "--epochs", "7"]).epochs == 7


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ("--lr_decay 200", "--decay 200-400-600"),
        ("--beta1=0.9", "--betas B1 B2"),
        ("--cl_gan_cl_weight 5", "the weight in --loss"),
        ("--use_wandb", "--tensorboard"),
        (
            "--compile --compile_mode max-autotune --split_batch 2",
            "must not be used with --split_b",
        ),
    ],
)
def test_refused_flags_name_what_to_give(flags, hint):
    with pytest.raises(UserError, match=hint):
        parse_args(flags.split())


def test_paths_expand_the_home_folder_and_are_absolute(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    args = parse_args(["--dir_experiment=~/exp", "--pre_train", "~/a.pt", "--dir_data", "data"])
    assert (args.dir_experiment, args.pre_train) == ("/home/me/exp", "/home/me/a.pt")
    assert args.dir_data == str(Path("data").absolute())


def test_aliases_of_nlsn():
    args = parse_args(["--n_hashes", "2", "--chunk_size", "36"])
    assert (args.nlsn_n_hashes, args.nlsn_chunk_size) == (2, 36)


def test_load_takes_over_the_flags_of_the_experiment(sr):
    sr.train("--save", "run", "--epochs", 1, "--data_train", "DIV2K+Mine", "--betas", 0.8, 0.9)
    where = ["--dir_experiment", str(sr.experiments)]
    args = parse_args([*where, "--load", "run", "--epochs", "5"])
    assert (args.n_feats, args.data_train, args.betas, args.epochs) == (
        8,
        ["DIV2K", "Mine"],
        [0.8, 0.9],
        5,
    )
    assert (args.save, args.resume, args.cpu) == ("run", -1, False)


@pytest.mark.parametrize(
    "script", sorted((ROOT / "scripts").glob("t*/*_x*.sh")), ids=lambda path: path.name
)
def test_scripts_of_models_and_scales_parse(script):
    run = subprocess.run(
        ["bash", script, "--seed", "7"],
        env={**os.environ, "PYTHON": "echo"},
        capture_output=True,
        text=True,
        check=True,
    )
    args = parse_args(shlex.split(run.stdout)[1:])
    assert args.seed == 7
    assert f"_x{args.scale[0]}" in script.stem
    assert args.model.lower() in script.stem
    assert args.test_only == (script.parent.name == "test")
