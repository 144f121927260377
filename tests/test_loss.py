"""PCL-SR: formulas against their definitions, and gradients that reach the network."""

import pytest
import skimage.data
import torch

from data.resize import downsample
from helpers import same_bits, state_of
from loss import LOSSES, Loss, parse_loss
from loss.adversarial import GAN_LOSSES, Adversarial, dual_contrastive
from loss.discriminator import Discriminator
from loss.features import VGGFeatures
from loss.frozen import Teacher
from loss.samples import SampleMaker, gaussian_blur, generated
from model import build_network
from option import parse_args
from runtime.files import UserError

PCL = "--template PCL_InfoNCE --n_resblocks 1 --n_feats 8 --scale 2 --patch_size 48 --mcl_neg 1".split()


def pictures(scale=2, side=48, batch=2, rgb_range=255):
    photo = skimage.data.astronaut()
    crops = [photo[40 * i : 40 * i + side, 170 : 170 + side] for i in range(batch)]
    pairs = [(downsample(crop, scale), crop) for crop in crops]
    lr, hr = (
        torch.stack([torch.from_numpy(x.transpose(2, 0, 1).copy()) for x in side])
        for side in zip(*pairs, strict=True)
    )
    return lr.float() * rgb_range / 255, hr.float() * rgb_range / 255


def enlarged(lr, hr):
    return torch.nn.functional.interpolate(lr, size=hr.shape[-2:]).clamp(0, 255)


# --------------------------------------------------------------- formulas


def test_dual_contrastive_does_not_overflow():
    r, f = torch.randn(5), torch.randn(3)
    assert torch.isfinite(dual_contrastive(1e4 * r, 1e4 * f))


@pytest.mark.parametrize("rgb_range", [1, 255])
def test_generated_samples_are_eight_bit_images(rgb_range):
    flags = ["--use_noise_pos", "--rgb_range", str(rgb_range), "--mcl_neg", "2"]
    lr, hr = pictures(rgb_range=rgb_range)
    for more in ([], ["--only_blur", "false"]):
        positives, negatives = SampleMaker(parse_args(PCL + flags + more))(hr, lr)
        assert (len(positives), len(negatives)) == (5, 3)
        assert positives[0] is hr
        assert negatives[0].shape == hr.shape
        for sample in generated(positives) + generated(negatives):
            assert sample.shape == hr.shape
            steps = sample * (255 / rgb_range)
            assert torch.allclose(steps, torch.floor(steps + 0.5), atol=1e-3)
            assert steps.min() >= 0
            assert steps.max() <= 255
            assert len(steps[0].unique()) > 50
    up = torch.nn.functional.interpolate(lr, size=48, mode="bicubic", align_corners=True)
    assert (negatives[0] - up.clamp(0, rgb_range)).abs().max() < 1e-4 * rgb_range, "only clamped"


def test_numbers_of_positives_and_negatives_apart():
    lr, hr = pictures()
    maker = SampleMaker(parse_args([*PCL, "--mcl_pos", "3", "--mcl_neg", "1"]))
    positives, negatives = maker(hr, lr)
    assert (len(positives), len(negatives)) == (4, 2)


# ------------------------------------------------------ gradient and steps


@pytest.mark.parametrize("name", LOSSES)
def test_every_term_moves_the_network_and_only_it(name, vgg_file):
    torch.manual_seed(0)
    flags = ["--no_ad_loss"] if name.startswith("CL-") else []
    flags += ["--teacher", "any.pt"] if name == "KD" else []
    more = f"--no_ad_loss false --loss {name} --lr 1e-3 --vgg_path".split()
    args = parse_args([*PCL, *more, str(vgg_file), *flags])
    net, teacher = build_network(args), build_network(args)
    loss = Loss(args, net, teacher=Teacher(teacher, 255, 255) if name == "KD" else None)
    lr, hr = pictures()
    sr = net(lr)
    sr.retain_grad()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    learns = [m for m in loss.modules() if isinstance(m, Discriminator)]
    # the last bias is left out: it is the same for real and fake, and cancels in WGAN
    embedding = [p.clone() for m in learns for p in m.parameters()][:-1]
    total = loss(sr, hr, lr)  # phase 1
    same_bits(dict(net.state_dict()), before)
    learned = [p for m in learns for p in m.parameters()]
    moved = [not torch.equal(old, new) for old, new in zip(embedding, learned, strict=False)]
    assert all(moved), "phase 1 must train the whole embedding"
    embedding = learned
    values = [(p.detach().clone(), p.grad.clone()) for p in embedding]
    total.backward()  # phase 2
    assert torch.isfinite(sr.grad).all()
    assert sr.grad.abs().sum() > 0
    torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-3).step()
    for key, parameter in net.named_parameters():
        assert torch.equal(before[key], parameter) != parameter.requires_grad, key
    # phase 2 must send no gradient to the embedding
    same_bits(values, [(p.detach(), p.grad) for p in embedding])


@pytest.mark.slow
@pytest.mark.parametrize("kind", GAN_LOSSES)
def test_the_embedding_learns_to_tell_hr_from_sr(kind):
    torch.manual_seed(0)
    args = parse_args([*PCL, *f"--no_ad_loss false --loss {kind} --lr 2e-4".split()])
    term = Adversarial(args, kind)
    lr, hr = pictures(batch=4)
    sr = gaussian_blur(hr, (5, 5), (1.0, 1.0), 255)
    values = []
    for _ in range(12):
        term(sr.clone().requires_grad_(), hr, [hr], [enlarged(lr, hr)])
        values.append(float(term.log_values()["embedding"]))
    assert sum(values[-3:]) < sum(values[:3]), values


def test_features_go_no_deeper_than_the_layers_need():
    term = Adversarial(parse_args([*PCL, "--cl_layer", "1,4"]), "CL-patchD")
    calls = []
    for number, block in enumerate(term.dis.features[::2]):
        block[0].register_forward_hook(lambda *_, number=number: calls.append(number))
    lr, hr = pictures()
    term(hr.clone().requires_grad_(), hr, [hr], [enlarged(lr, hr)])
    assert calls.count(7) == 2, "the whole embedding runs only in phase 1, on HR and on SR"
    assert calls.count(4) == 2 + 3, "positives, negatives and SR once each in phase 2"
    assert calls.count(5) == 2


@pytest.mark.parametrize(
    "value",
    [
        lambda sr: (sr.detach() ** 2).mean(),  # as in the published release of PCL-SR
        lambda sr: (sr.detach() ** 2).mean() * torch.ones(1, requires_grad=True).sum(),
        lambda sr: 0 * sr.mean(),
    ],
)
@pytest.mark.parametrize(("text", "name"), [("1*L1+1*CL-patchD", "CL-patchD"), ("1*L1", "L1")])
def test_a_term_without_gradient_ends_the_training_at_the_first_step(
    sr, monkeypatch, text, name, value
):
    monkeypatch.setattr(f"{LOSSES[name]}.forward", lambda self, sr, *rest: value(sr))
    status, _, err = sr.train("--loss", text, "--no_ad_loss", "--save", "run", "--epochs", 1)
    assert status == 1
    assert err.startswith(f"error: --loss 1*{name} must send a gradient to the network: ")
    assert state_of(sr.folder("run"))["step"] == 0


# ---------------------------------------------------------------- program


def test_pcl_is_logged_drawn_and_resumed_to_the_last_bit(sr, draw_curves):
    flags = ["--template", "PCL_InfoNCE", "--mcl_neg", 1, "--print_every", 2, "--embed_lr", "1e-3"]
    status, out, err = sr.train("--save", "whole", "--epochs", 2, *flags)
    assert status == 0, err
    sr.train("--save", "parts", "--epochs", 1, *flags, "--n_threads", 2)
    assert sr("--load", "parts", "--epochs", 2, "--cpu")[0] == 0
    same_bits(state_of(sr.folder("whole")), state_of(sr.folder("parts")))
    terms = next(line["loss"] for line in sr.metrics("whole") if "loss" in line)
    logged = ("", " embedding", " gradient/L1", " s_neg", " s_pos")
    assert sorted(terms) == [*(f"CL-patchD{name}" for name in logged), "L1", "Total"]
    assert "[CL-patchD gradient/L1: " in out
    assert (sr.folder("whole") / "loss.png").is_file()


def test_several_terms_without_a_picture_of_l1(sr, vgg_file):
    status, out, err = sr.train(
        *"--save run --epochs 1 --loss 0.1*VGG22+0.01*RGAN+1e-2*WaveL1 --vgg_path".split(),
        vgg_file,
    )
    assert status == 0, err
    assert "[VGG22: " in out
    assert "[RGAN embedding: " in out


def test_parsing_of_losses():
    assert parse_loss("1*L1+5*CL-patchD") == [(1.0, "L1"), (5.0, "CL-patchD")]
    assert parse_loss("1E+2*MSE") == [(100.0, "MSE")]
    assert parse_loss("L1+1e+2*MSE+1e-3*CL") == [(1.0, "L1"), (100.0, "MSE"), (0.001, "CL")]
    for bad in ("1*l1", "1*patch", "1*L1+", "two*L1", "1*L1+2*L1", "inf*L1", "1*CL-"):
        with pytest.raises(UserError, match="--loss"):
            parse_loss(bad)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--cl_layer 9", "blocks of the embedding, 0 to 7"),
        ("--patch_size 24", "at least 32"),
        ("--scale 3 --patch_size 45", "must be even, not 45"),
        ("--model MDSR --scale 2+3 --patch_size 64", "must be even, not 63"),
        ("--model MDSR --scale 2+3 --patch_size 50 --use_wavelet no --loss CL-GAN", "multiple of"),
        ("--mcl_neg 0 --only_aug", "no positives"),
        ("--loss 1*L1+1*patchD", "has no term left"),
        ("--neg_sr", "--neg_sr needs --random_neg"),
        ("--patch_size 16 --use_wavelet no --blur_sizes 3+33", "--blur_sizes 33 must be below 32"),
        ("--gan_k 2 --split_batch 2", "--gan_k 2 must be 0 or 1"),
        ("--shuffle_neg --split_batch 3", "other images"),
        ("--embed_load /none/state.pt", "/none/state.pt"),
        ("--loss 1*L1+1*VGG54 --vgg_path /none/vgg.pth", "/none/vgg.pth"),
    ],
)
def test_bad_flags_stop_before_anything_is_written(sr, flags, word):
    status, _, err = sr.train("--template", "PCL_InfoNCE", *flags.split())
    assert status != 0
    assert word in err
    assert not sr.experiments.exists()


def test_broken_or_other_vgg_files(vgg_file, tmp_path):
    broken, other = tmp_path / "broken.pth", tmp_path / "other.pth"
    broken.write_bytes(vgg_file.read_bytes()[:100_000])
    torch.save({"features.0.weight": torch.zeros(3)}, other)
    for path, word in ((broken, "cannot be read"), (other, "must be VGG19")):
        with pytest.raises(UserError, match=f"{path.name}.*{word}"):
            VGGFeatures(parse_args(["--vgg_path", str(path)]), [7])
