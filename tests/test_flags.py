"""Every flag is read, and changes what a run gives."""

import ast
from pathlib import Path

import pytest
import torch

from option import build_parser

SRC = Path(__file__).resolve().parent.parent / "src"
ACCEPTED = {"help", "version", "gpu_blur", "gpu_sharp"}  # the last two change nothing
HOLDERS = {"args", "first", "settings"}  # variables that hold the flags


def flags_read(tree):
    """Yield the names of flags that a module reads: args.NAME, getattr(args, "NAME"), Net.flags."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            if _holds_flags(node.value):
                yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "getattr":
            if _holds_flags(node.args[0]) and isinstance(node.args[1], ast.Constant):
                yield node.args[1].value
        elif isinstance(node, ast.ClassDef):  # read by Network.from_args
            for line in node.body:
                if isinstance(line, ast.Assign) and line.targets[0].id == "flags":
                    yield from (x.value for x in ast.walk(line) if isinstance(x, ast.Constant))


def _holds_flags(node):
    return getattr(node, "attr", getattr(node, "id", None)) in HOLDERS


def test_every_flag_is_read_and_each_that_is_read_exists():
    read, flags = set(), {action.dest for action in build_parser()._actions}
    known = flags | {"from_file", "thread"}  # the last of the arguments of threading.excepthook
    for path in SRC.rglob("*.py"):
        tree = ast.parse(path.read_text())
        read |= set(flags_read(tree))
        attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        names = {x.attr for x in attributes if getattr(x.value, "id", None) == "args"}
        assert names <= known, path
    assert flags - read == ACCEPTED


PCL = "--template PCL_InfoNCE --loss 1*L1+1*CL-patchD --cl_layer 1 --mcl_neg 1 --decay 1 --embed_lr 1e-3 "
PCL += "--patch_size 32 --batch_size 3 --test_every 1"
BASES = {
    "plain": "",
    "sgd": "--optimizer SGD",
    "milestones": "--decay 1",
    "cosine": "--scheduler Cosine --cosine_tmax 3",
    "restart": "--scheduler CosineRestart --cosine_tmax 1",
    "ema": "--use_ema --ema_iter 2",
    "rcan": "--model RCAN --n_resgroups 1 --reduction 4",
    "nlsn": "--model NLSN --n_hashes 1 --chunk_size 16",
    "chop": "--chop --chop_size 24 --chop_overlap 4",
    "pcl": PCL,
    "pcl l1": f"{PCL} --cl_layer 1,2 --cl_loss_type l1",
    "noise": f"{PCL} --use_noise_pos",
    "shuffle": f"{PCL} --shuffle_neg",
    "degraded": f"{PCL} --only_blur false",
}
# flags that change the weights, by base
WEIGHTS = {
    "plain": "--seed 2; --lr 2e-3; --batch_size 3; --patch_size 24; --loss MSE; --loss 2*L1; "
    "--optimizer SGD; --optimizer RMSprop; --gclip 1e-3; --gclip_norm 1e-3; --weight_decay 0.1; "
    "--betas 0.5 0.999; --betas 0.9 0.9; --epsilon 1; --no_augment; --rgb_range 1; --n_colors 1; "
    "--n_feats 4; --n_resblocks 2; --res_scale 0.5; --scale 4; --data_train Mine; "
    "--data_range 1-2/4-4; --test_every 3; --epochs 1; --warmup 3; --decay 1; --scheduler Cosine; "
    "--skip_threshold 1e-6; --precision bf16; --model RCAN --n_resgroups 1 --reduction 4; "
    "--use_ema --ema_iter 1",
    "sgd": "--momentum 0",
    "milestones": "--gamma 0.1",
    "cosine": "--cosine_tmax 2; --cosine_etamin 1e-4",
    "restart": "--cosine_restart_weight 0.1",
    "ema": "--ema_decay 0.5; --ema_iter 3",
    "rcan": "--n_resgroups 2; --reduction 8; --n_resblocks 2",
    "nlsn": "--n_hashes 2; --chunk_size 8; --res_scale 0.5",
    "pcl": "--gan_k 0; --embed_lr 1e-2; --embed_scheduler constant; --no_ad_loss false; "
    "--contras_D_train; --use_wavelet false; --cl_layer 2; --before_relu false; "
    "--cl_loss_type cosine; --cl_temperature 0.1; --use_aug false; --mcl_neg 2; --mcl_pos 2; "
    "--sharp_hr false; --sharp_value 2; --sharp_range 1; --random_neg false; --only_blur false; "
    "--blur_sr; --blur_sizes 3; --blur_sigma 1 3; --only_aug; --pos_id 0; --neg_id 0; "
    "--shuffle_neg",
    "pcl l1": "--layer_weight",
    "noise": "--pos_noise_value 9",
    "shuffle": "--shuffle_neg_num 2",
    "degraded": "--neg_sr",
}
# flags that change the log or the files, by base
OUTPUT = {
    "plain": "--self_ensemble; --chop --chop_size 24 --chop_overlap 4; --data_test Set5+DIV2K; "
    "--print_every 1; --print_model; --exp_name one; --proj_name one; --save_models; "
    "--save_results",
    "chop": "--chop_size 32; --chop_overlap 8",
}


@pytest.fixture(scope="module")
def results():
    """Return a dict for the results of the base runs, which are those of any folder."""
    return {}


@pytest.fixture
def run(sr, results):
    """Train and return (weights, log without times, names of the files); the base's once."""

    def train(flags):
        small = "--save run --reset --patch_size 16 --test_every 2 --epochs 2"
        assert sr.train(*small.split(), *flags.split())[0] == 0
        path = sr.folder("run") / "model/model_latest.pt"
        scores = [(x["psnr"], x["ssim"]) for x in sr.metrics("run") if "dataset" in x]
        log = (sr.folder("run") / "log.txt").read_text().splitlines()
        lines = [line.split("\t")[0] for line in log[1:]]  # the first is the date
        lines = [line for line in lines if " s per step: " not in line]  # on a slow machine alone
        files = sorted(str(p.relative_to(sr.folder("run"))) for p in sr.folder("run").rglob("*"))
        return torch.load(path, weights_only=True), scores, lines, files

    def call(base, flags=""):
        if flags:
            return train(f"{BASES[base]} {flags}")
        if base not in results:
            results[base] = train(BASES[base])
        return results[base]

    return call


def equal_weights(one, two):
    shapes = [{name: value.shape for name, value in net.items()} for net in (one, two)]
    return shapes[0] == shapes[1] and all(torch.equal(one[name], two[name]) for name in one)


def rows(table):
    """Yield a test for each flag; those with an embedding take seconds and are slow."""
    for base, more in table.items():
        marks = [pytest.mark.slow] if BASES[base].startswith(PCL) else []
        for flags in more.split("; "):
            yield pytest.param(base, flags, id=f"{base} {flags}", marks=marks)


@pytest.mark.parametrize("base", ["plain", pytest.param("pcl", marks=pytest.mark.slow)])
def test_a_repeated_run_is_the_same(run, base):
    one, two = run(base), run(base, "--print_every 2")  # a flag with the value of the base
    assert equal_weights(one[0], two[0])
    assert one[1:] == two[1:]


@pytest.mark.parametrize(("base", "flags"), [*rows(WEIGHTS)])
def test_a_flag_of_training_changes_the_weights(run, base, flags):
    assert not equal_weights(run(base)[0], run(base, flags)[0])


@pytest.mark.parametrize(("base", "flags"), [*rows(OUTPUT)])
def test_a_flag_of_output_changes_it_and_no_weights(run, base, flags):
    one, two = run(base), run(base, flags)
    assert equal_weights(one[0], two[0])
    assert one[1:] != two[1:]
