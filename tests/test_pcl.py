"""PCL-SR: what its flags mean in the release, and what a run with them does."""

import copy
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

import loss
from helpers import same_bits, state_of
from loss import Loss
from loss.adversarial import Adversarial
from loss.samples import SampleMaker, gaussian_blur, quantize
from loss_formulas import flags, images_of_a_step, random_images
from option import parse_args
from trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
TERM = "terms.CL-patchD"
INFO = "--template PCL_InfoNCE --mcl_neg 1"


def published(model):
    """Return the release's command for a network, parsed."""
    lines = (ROOT / "tests/published_commands.txt").read_text().splitlines()
    (line,) = (line for line in lines if "CL-patchD" in line and f"--model {model} " in line)
    return parse_args(shlex.split(line)[2:])


def embedding(state):
    """Return the weights of the embedding in a training state."""
    return {name: x for name, x in state["loss"].items() if name.startswith(f"{TERM}.dis.")}


def optimizer(state):
    return state["loss"][f"{TERM}._extra_state"]


# ------------------------------------------------- what the release's flags mean


def test_defaults_are_those_of_the_release():
    args = parse_args([])
    assert (args.cl_loss_type, args.cl_layer) == ("cosine", "0,2,4,6")
    assert args.embed_scheduler == "constant"
    assert (args.sharp_value, args.sharp_range, args.mcl_neg, args.mcl_pos) == (0.5, 5, 3, None)
    assert (args.pos_noise_value, args.shuffle_neg_num, args.ema_iter) == (2, 1, 10)
    assert (args.cosine_etamin, args.cosine_restart_weight) == (1e-7, 0.5)
    assert (args.cl_temperature, args.ema_decay) == (1, 0.99)


def test_published_commands_have_the_loss_of_the_release():
    assert published("NLSN").cl_loss_type == "cosine"  # the command does not name one
    assert published("RCAN").cl_loss_type == "InfoNCE"


def test_presets():
    paper, command = parse_args(["--template", "RCAN+PCL_paper"]), published("RCAN")
    own = {"template", "save", "data_range", "dir_data", "data_test", "exp_name", "proj_name"}
    own |= {"save_models", "save_results", "pre_train", "decay"}  # CosineRestart has no milestones
    accepted = {"gpu_blur", "gpu_sharp"}
    for name, value in vars(command).items():
        assert name in own | accepted or getattr(paper, name) == value, name
    pcl = parse_args(["--template", "PCL"])
    assert (pcl.lr, pcl.scheduler, pcl.epochs) == (5e-5, "Cosine", 100)
    assert (pcl.sharp_hr, pcl.random_neg, pcl.only_blur) == (True, True, True)
    ratio = parse_args(["--template", "PCL_ratio"])
    assert (ratio.loss, ratio.cl_loss_type, ratio.cl_layer) == ("1*L1+1*CL-patchD", "l1", "2")
    assert (ratio.use_wavelet, ratio.before_relu, ratio.use_aug) == (True, True, False)
    pcl = parse_args(["--template", "PCL_InfoNCE"])
    assert (pcl.loss, pcl.cl_loss_type) == ("1*L1+0.1*CL-patchD", "InfoNCE")
    assert (pcl.cl_layer, pcl.sharp_range, pcl.embed_scheduler) == ("4", 2.5, "same")


def test_the_embedding_trains_on_all_samples_whatever_the_contrastive_loss_compares():
    sr, hr, _ = images_of_a_step()
    positives, negatives = [hr, random_images(11)], [random_images(12), random_images(13)]
    trained = []
    for more in ("", "--pos_id 0", "--neg_id 0", "--only_aug"):
        torch.manual_seed(0)
        more += " --use_aug --sharp_hr --random_neg --only_blur --mcl_neg 1"
        args = flags(f"--loss CL-patchD --no_ad_loss --contras_D_train {more}")
        term = Adversarial(args, "CL-patchD")
        term(sr.requires_grad_(), hr, positives, negatives)
        trained.append([p.detach() for p in term.dis.parameters()])
    for parameters in trained[1:]:
        same_bits(parameters, trained[0])


def test_noisy_positives_come_last_and_with_generated_samples_alone():
    hr = torch.full((2, 3, 32, 32), 100.0)
    lr = hr[..., ::2, ::2]
    more = "--loss CL-patchD --use_noise_pos"
    assert len(SampleMaker(flags(more))(hr, lr)[0]) == 1
    positives, _ = SampleMaker(flags(f"{more} --use_aug --sharp_hr --mcl_neg 3"))(hr, lr)
    assert len(positives) == 7
    assert all((x - hr).abs().max() < 1e-3 for x in positives[:4])  # a plain image stays sharp
    deviations = [float(x.std()) for x in positives[4:]]
    assert deviations == pytest.approx([2.0] * 3, rel=0.1)


@pytest.mark.parametrize("name", ["CL", "VGGInfoNCE"])
def test_shuffled_negatives_of_vgg(vgg_file, name):
    """With two images, the negatives of the other image are the flipped ones."""
    sr, hr, _ = images_of_a_step()
    negatives = [random_images(12), random_images(13)]
    text = f"--loss {name} --cl_layer 1,3 --vgg_path {vgg_file}"
    both = (flags(f"{text} {more}") for more in ("", "--shuffle_neg"))
    plain, shuffled = (Loss(args).terms[name] for args in both)
    value = shuffled(sr, [hr], negatives)
    want = plain(sr, [hr], [*negatives, *(x.flip(0) for x in negatives)])
    assert float(value) == pytest.approx(float(want), rel=1e-5)
    assert abs(float(value) / float(plain(sr, [hr], negatives)) - 1) > 1e-3


# ------------------------------------------------------------------ samples


def test_blur_has_the_sizes_and_the_sigma_of_the_flags():
    _, hr, lr = images_of_a_step()
    more = "--use_aug --random_neg --only_blur --mcl_neg 2 --blur_sizes 7 --blur_sigma 1.5 1.5"
    negatives = SampleMaker(flags(f"--loss CL-patchD {more}"))(hr, lr)[1]
    want = quantize(gaussian_blur(hr, (7, 7), (1.5, 1.5), 255), 255)
    for negative in negatives[1:]:
        assert torch.equal(negative, want)


def test_blurred_sr_is_a_negative_without_gradient():
    sr, hr, lr = images_of_a_step()
    more = "--loss CL-patchD --blur_sr --mcl_neg 2 --blur_sizes 5 --blur_sigma 1.2 1.2"
    assert len(SampleMaker(flags(more))(hr, lr, sr)[1]) == 1  # without --use_aug
    positives, negatives = SampleMaker(flags(f"{more} --use_aug"))(hr, lr, sr.requires_grad_())
    want = quantize(gaussian_blur(sr.detach(), (5, 5), (1.2, 1.2), 255), 255)
    assert (len(positives), len(negatives)) == (1, 3)
    for negative in negatives[1:]:
        assert torch.equal(negative, want) and not negative.requires_grad


@pytest.mark.parametrize("precision", ["single", "bf16"])
def test_the_network_makes_negatives_at_the_precision_of_the_run(precision):
    _, hr, lr = images_of_a_step()
    seen, net = [], torch.nn.Identity()

    def as_sr(net, inputs, x):
        seen.append((x.shape, torch.is_autocast_enabled("cpu"), net.training))
        return torch.full_like(hr, 7).bfloat16()

    net.register_forward_hook(as_sr)
    args = flags("--loss CL-patchD --no_ad_loss --use_aug --random_neg --neg_sr --mcl_neg 1")
    whole = Loss(args, net)
    whole.set_precision(precision)
    _, negatives = whole.samples(hr, lr)
    assert seen == [(lr.shape, precision == "bf16", False)] and net.training
    assert negatives[1].dtype == torch.float32
    assert (negatives[1] == 7).all()


# ------------------------------------------------------- the embedding in a run


def test_an_experiment_of_before_keeps_its_schedule(sr):
    """The rate of the embedding followed the schedule before there was a flag for it."""
    more = f"{INFO} --test_every 1 --decay 1 --embed_lr 2e-3".split()
    assert sr.train("--save", "run", "--epochs", 1, *more)[0] == 0
    config = sr.folder("run") / "config.txt"
    lines = [x for x in config.read_text().splitlines() if not x.startswith("--embed_scheduler")]
    lines = [re.sub(r"^# (\d+) flags$", lambda m: f"# {int(m[1]) - 1} flags", x) for x in lines]
    config.write_text("\n".join([*lines, ""]))
    assert sr("--load", "run", "--epochs", 2, "--cpu")[0] == 0
    (group,) = optimizer(state_of(sr.folder("run")))["param_groups"]
    assert group["lr"] == pytest.approx(1e-3)


def test_split_batches_update_the_embedding_once_a_step(sr):
    more = f"{INFO} --split_batch 2".split()
    assert sr.train("--save", "run", "--epochs", 1, "--test_every", 3, *more)[0] == 0
    moments = optimizer(state_of(sr.folder("run")))["state"].values()
    assert {int(kept["step"]) for kept in moments} == {3}


@pytest.mark.parametrize("name", ["GAN", "LSGAN", "WGAN"])
def test_a_split_batch_updates_the_embedding_like_a_whole_one(name):
    """Except for batch statistics, which are left out here; the parts are of 3 and 2 images."""
    hr, other = random_images(1, batch=5), random_images(2, batch=5)
    found = []
    for parts in (1, 2):
        torch.manual_seed(0)
        more = f"--loss {name} --batch_size 5 --split_batch {parts} --optimizer SGD --lr 0.01"
        term = Adversarial(flags(more), name)
        for block in term.dis.features[::2]:
            block[1] = nn.Identity()
        start = copy.deepcopy(term.dis)
        for fake, real in zip(other.tensor_split(parts), hr.tensor_split(parts), strict=True):
            term(fake.requires_grad_(), real, [real], [real])
        moved = zip(term.dis.parameters(), start.parameters(), strict=True)
        found.append([(new - old).detach() for new, old in moved])
    for whole, split in zip(*found, strict=True):
        assert torch.allclose(split, whole, atol=1e-3 * float(whole.abs().max()) + 1e-9)


def test_a_fixed_embedding(sr, tmp_path):
    more = f"{INFO} --test_every 2 --epochs 1 --embed_lr 1e-2".split()
    assert sr.train("--save", "first", *more)[0] == 0
    source = sr.folder("first") / "model/state.pt"
    trained = embedding(state_of(sr.folder("first")))
    weights = {name.removeprefix(f"{TERM}.dis."): value for name, value in trained.items()}
    torch.save({"state_dict": weights, "epoch": 1, "loss": 0.1}, tmp_path / "embedding.pt")
    for name, file in (("of_state", source), ("of_weights", tmp_path / "embedding.pt")):
        fixed = ("--gan_k", 0, "--embed_load", file, "--save", name)
        status, out, err = sr.train(*more, *fixed)
        assert status == 0, err
        assert "[CL-patchD gradient/L1: " in out
        assert "embedding" not in out
        now = embedding(state_of(sr.folder(name)))
        for key, value in trained.items():
            assert "running" in key or "num_batches" in key or torch.equal(now[key], value), key
    same_bits(*(state_of(sr.folder(name))["net"] for name in ("of_state", "of_weights")))
    status, _, err = sr.train(*more, "--loss", "CL-GAN", "--embed_load", source, "--save", "bad")
    assert status == 1
    assert "classifier.1.weight is missing or has another shape" in err


@pytest.mark.parametrize(("weight", "warns"), [("50", True), ("1e-4", False)])
def test_a_term_stronger_than_l1_is_reported_once(sr, weight, warns):
    more = f"{INFO} --loss 1*L1+{weight}*CL-patchD --print_every 1".split()
    status, out, _ = sr.train("--save", "run", "--epochs", 1, *more)
    assert status == 0
    found = re.findall(r"WARNING: --loss: the gradient of 50\*CL-patchD at SR is (\S+) times", out)
    assert len(found) == warns
    first = float(re.search(r"CL-patchD gradient/L1: ([\d.]+)", out)[1])
    assert (first > 1) == warns
    assert not warns or float(found[0]) == pytest.approx(first, abs=0.01)


def test_new_flags_resume_to_the_last_bit(sr, monkeypatch):
    more = f"{INFO} --loss 1*L1+1*CL-patchD --split_batch 2 --embed_scheduler constant "
    more += "--shuffle_neg --use_noise_pos --contras_D_train --cl_temperature 0.5 --mcl_pos 2 "
    more += "--use_ema --ema_iter 3 --decay 1 --embed_lr 1e-3 --test_every 2"
    assert sr.train("--save", "whole", "--epochs", 2, *more.split())[0] == 0
    train_step = Trainer.train_step

    def stopped(trainer, batch, step):
        trainer.stop.request()
        return train_step(trainer, batch, step)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    assert sr.train("--save", "steps", "--epochs", 2, *more.split())[0] == 143
    monkeypatch.undo()
    assert (state_of(sr.folder("steps"))["epoch"], state_of(sr.folder("steps"))["step"]) == (0, 1)
    assert sr("--load", "steps", "--epochs", 2, "--cpu")[0] == 0
    same_bits(state_of(sr.folder("whole")), state_of(sr.folder("steps")))


def test_the_loss_of_contributing(sr, monkeypatch):
    """The example is a whole file, and one line registers it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```python\n(from loss import Term.*?)```", text, re.S)
    space = {"__name__": "loss.charbonnier"}
    exec(example, space)
    monkeypatch.setattr("loss.pixel.Charbonnier", space["Charbonnier"], raising=False)
    monkeypatch.setitem(loss.LOSSES, "Charbonnier", "loss.pixel.Charbonnier")
    status, out, err = sr.train("--save", "run", "--epochs", 1, "--loss", "1*L1+0.5*Charbonnier")
    assert status == 0, err
    assert "[Charbonnier: " in out
    assert "[Charbonnier gradient/L1: 0." in out
