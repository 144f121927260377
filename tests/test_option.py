"""Flags: the published commands, presets, and what --load takes over."""

import shlex
from pathlib import Path

import pytest

from option import parse_args
from runtime.files import UserError

COMMANDS = (Path(__file__).parent / "published_commands.txt").read_text().splitlines()
DEFAULTS = """--model EDSR --n_resblocks 16 --n_feats 64 --res_scale 1 --scale 4 --patch_size 192
--rgb_range 255 --n_colors 3 --batch_size 16 --test_every 1000 --epochs 300 --lr 1e-4 --decay 200
--gamma 0.5 --optimizer ADAM --betas 0.9 0.999 --loss 1*L1 --data_train DIV2K --data_test DIV2K
--data_range 1-800/801-810 --ext sep --seed 1 --save test --n_threads 6 --print_every 100"""


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("python")])
def test_published_commands_parse(line):
    args = parse_args(shlex.split(line)[2:])
    assert args.scale in ([2], [3], [4], [8])


def test_defaults_of_the_field():
    assert parse_args([]) == parse_args(DEFAULTS.split())


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
        ("--compile --compile_mode max-autotune --split_batch 2", "not be used with --split_b"),
    ],
)
def test_refused_flags_name_what_to_give(flags, hint):
    with pytest.raises(UserError, match=hint):
        parse_args(flags.split())


# number of problems; the last has invalid values, whose conflicts with others do not count
CONFLICTS = {
    "--save ../x --compile_mode max-autotune --resume 3 --reset": 3,
    "--model_options {} --pre_train x --resume 2 --hold_out 3 --test_only --data_test Mine": 3,
    "--teacher_blend --pos_teacher --loss 1*L1+KD": 3,
    "--data_range 1-5 --data_test DIV2K --data_train Demo --degradation BD --scale 8 --suffix a/b "
    "--format jpg": 6,
    "--cl_layer 9 --chop_overlap 200 --betas 0.1 2 --blur_sigma 3 1 --neg_history 7 --n_colors 2 "
    "--patch_size 3 --split_batch 99 --cosine_etamin 1 --scheduler Cosine": 9,
    "--cl_layer x --chop_overlap x --chop_size 3 --betas x 2 --blur_sigma x 1 --neg_history x "
    "--history_every x --n_colors x --patch_size x --scale x+2 --split_batch x --lr x": 12,
}


@pytest.mark.parametrize("flags", CONFLICTS)
def test_all_conflicts_stand_in_one_message(flags):
    with pytest.raises(UserError) as error:
        parse_args(flags.split())
    assert str(error.value).count("\n  - ") == CONFLICTS[flags], error.value


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
    args = parse_args(["--dir_experiment", str(sr.experiments), "--load", "run", "--epochs", "5"])
    assert (args.n_feats, args.data_train, args.betas) == (8, ["DIV2K", "Mine"], [0.8, 0.9])
    assert (args.epochs, args.save, args.resume, args.cpu) == (5, "run", -1, False)
