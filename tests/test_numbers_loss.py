"""Losses of pixels and of VGG features, and the weighted sum, against formulas."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, max_pool2d

from loss import Loss
from loss.samples import SampleMaker
from loss.wavelet import haar_high_frequencies
from loss_formulas import flags, images_of_a_step, naive_contrastive, naive_haar, upsampled
from runtime.files import UserError

# VGG19: output channels of the convolutions and the poolings, by their index in torchvision's file
CONVS = {0: 64, 2: 64, 5: 128, 7: 128, **dict.fromkeys((10, 12, 14, 16), 256)}
CONVS |= dict.fromkeys((19, 21, 23, 25, 28, 30, 32, 34), 512)
POOLS = (4, 9, 18, 27, 36)


@pytest.mark.parametrize("rgb_range", [1, 255])
def test_pixel_losses_are_their_formulas(rgb_range):
    sr, hr, lr = images_of_a_step(rgb_range)
    a, b = sr.double().numpy(), hr.double().numpy()
    wanted = {
        "L1": np.abs(a - b).mean(),
        "MSE": ((a - b) ** 2).mean(),
        "WaveL1": np.abs(naive_haar(a) - naive_haar(b)).mean() / 2,
    }
    for name, want in wanted.items():
        loss = Loss(flags(f"--loss {name} --rgb_range {rgb_range}"))
        assert float(loss(sr, hr, lr)) == pytest.approx(want, rel=1e-5), name


def test_the_loss_is_the_weighted_sum_of_its_terms():
    sr, hr, lr = images_of_a_step()
    l1, mse = float((sr - hr).abs().mean()), float(((sr - hr) ** 2).mean())
    loss = Loss(flags("--loss 3*L1+0.25*MSE"))
    assert float(loss(sr, hr, lr)) == pytest.approx(3 * l1 + 0.25 * mse, rel=1e-5)
    assert float(loss(sr, hr, lr, 0.5)) == pytest.approx((3 * l1 + 0.25 * mse) / 2, rel=1e-5)


def test_means_of_an_epoch_are_over_its_steps():
    sr, hr, lr = images_of_a_step()
    l1, mse = float((sr - hr).abs().mean()), float((sr - hr).square().mean())
    terms = {"L1": 3 * l1, "MSE": 0.25 * mse}
    terms["Total"] = terms["L1"] + terms["MSE"]
    loss = Loss(flags("--loss 3*L1+0.25*MSE"))
    assert loss.means() == {}
    loss(sr, hr, lr, 0.25), loss(hr, hr, lr, 0.75)  # a step of two parts, the second without error
    assert loss.finish_step()[0] == pytest.approx(terms["Total"] / 4, rel=1e-5)
    progress = loss.progress()
    loss(sr, hr, lr)
    assert loss.finish_step()[0] == pytest.approx(terms["Total"], rel=1e-5)
    means = loss.means()
    assert means == pytest.approx({k: (0.25 + 1) / 2 * v for k, v in terms.items()}, rel=1e-5)
    assert loss.display_loss() == "".join(f"[{k}: {v:.4f}]" for k, v in means.items())
    resumed = Loss(flags("--loss 3*L1+0.25*MSE"))
    resumed.start_epoch(1, progress)
    loss.restore_progress(progress)
    assert loss.means() == pytest.approx({k: v / 4 for k, v in terms.items()}, rel=1e-5)
    resumed(sr, hr, lr), resumed.finish_step()
    assert resumed.means() == means
    assert loss.means() != means, "the sums of one are not those of the other"
    resumed.start_epoch(2)
    assert resumed.means() == {}


def test_numbers_of_ranks_are_summed_with_the_step(monkeypatch):
    loss = Loss(flags("--loss L1"))
    loss.add("Total", torch.tensor(3.0), 0.5)
    assert loss.finish_step([1.0, 0.0, 5.0]) == (1.5, [1.0, 0.0, 5.0])
    monkeypatch.setattr("loss.all_reduce_sum", lambda values: 2 * values)  # ranks alike
    loss.add("Total", torch.tensor(3.0), 0.5)
    assert loss.finish_step([1.0, 0.0, 5.0]) == (3.0, [2.0, 0.0, 10.0])
    assert loss.means() == {"Total": 2.25}


def test_a_single_term_is_displayed_without_its_total():
    sr, hr, lr = images_of_a_step()
    loss = Loss(flags("--loss L1"))
    loss(sr.requires_grad_(), hr, lr, log_gradients=True), loss.finish_step()
    assert list(loss.means()) == ["L1", "Total"]
    assert loss.display_loss() == f"[L1: {float((sr - hr).abs().mean().detach()):.4f}]"


@pytest.mark.parametrize("parts", [1, 2])
def test_logged_gradients_are_norms_at_sr(parts):
    """The gradient of L1 has the norm 1/sqrt(n); the orthonormal Haar transform keeps a norm."""
    sr, hr, lr = images_of_a_step()
    lines, n = [], sr.numel() / parts
    distance = float((sr - hr).square().sum() / parts) ** 0.5
    norms = {"L1": 3 / n**0.5, "MSE": 0.25 * 2 * distance / n, "WaveL1": 1 / (0.75 * n) ** 0.5}
    for text, want in (
        ("3*L1+0.25*MSE+2*WaveL1", {f"{k} gradient/L1": norms[k] / norms["L1"] for k in norms}),
        ("0.25*MSE+2*WaveL1", {f"{k} gradient": norms[k] for k in ("MSE", "WaveL1")}),
    ):
        want.pop("L1 gradient/L1", None)
        loss = Loss(flags(f"--loss {text}"), log=lines.append)
        for log_gradients in (True, True, False):  # the last step has no gradients to log
            for part in zip(sr.chunk(parts), hr.chunk(parts), lr.chunk(parts), strict=True):
                image = part[0].detach().requires_grad_()
                loss(image, *part[1:], 1 / parts, log_gradients).backward()
                assert image.grad.abs().sum() > 0
            loss.finish_step()
        logged = {name: value for name, value in loss.means().items() if "gradient" in name}
        assert logged == pytest.approx(want, rel=0.05 if parts == 2 else 1e-4)
    ratio = norms["MSE"] / norms["L1"]
    assert ratio > 1 > norms["WaveL1"] / norms["L1"]
    (line,) = lines  # once a run, of the terms above L1 alone
    assert "0.25*MSE" in line
    assert "so that L1 dominates" in line
    if parts == 1:
        assert f"{ratio:.2f} times" in line


def test_samples_are_made_of_the_batch_and_by_the_network():
    sr, hr, lr = images_of_a_step()
    seen, net = [], torch.nn.Identity()
    loss = Loss(flags("--loss 1*L1+1*CL-patchD --no_ad_loss"), net)
    assert loss.samples.net is net
    loss.set_precision("bf16")
    assert loss.samples.precision == loss.terms["CL-patchD"].dis.precision == "bf16"

    def note(*images):
        seen.extend(images)
        return [hr], [upsampled(lr)]

    loss.samples = note
    loss(sr.requires_grad_(), hr, lr)
    assert [id(image) for image in seen] == [id(hr), id(lr), id(sr), id(None)]
    assert Loss(flags("--loss L1")).samples is None


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 3, 6, 4)])
def test_haar_is_its_formula_block_by_block(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(haar_high_frequencies(x).numpy(), naive_haar(x.numpy()), atol=1e-12)


def test_haar_needs_even_sides():
    for shape in ((1, 1, 3, 4), (1, 1, 4, 3)):
        with pytest.raises(ValueError, match="needs even sides"):
            haar_high_frequencies(torch.zeros(shape))
    Loss(flags("--loss WaveL1 --patch_size 33"))  # cut to 32
    with pytest.raises(UserError, match="--loss WaveL1: the HR patch must be even, not 33 pixels"):
        Loss(flags("--loss WaveL1 --scale 3 --patch_size 35"))


# --------------------------------------------------------------------- VGG


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """Write a file in torchvision's layout with random weights; return its path and its entries."""
    generator = torch.Generator().manual_seed(0)
    state, n_in = {}, 3
    for i, n_out in CONVS.items():
        weight = torch.empty(n_out, n_in, 3, 3).uniform_(-1, 1, generator=generator)
        state[f"features.{i}.weight"] = weight * (6 / (9 * n_in)) ** 0.5
        state[f"features.{i}.bias"] = torch.empty(n_out).uniform_(-0.2, 0.2, generator=generator)
        n_in = n_out
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    return path, state


def naive_vgg(state, x, kept, rgb_range, normalize=True):
    """Return the outputs of the layers `kept` of VGG19."""
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    x = (x / rgb_range - mean) / std if normalize else x / rgb_range
    outputs = {}
    for i in range(max(kept) + 1):
        if i in CONVS:
            x = conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1)
        else:
            x = max_pool2d(x, 2) if i in POOLS else x.clamp(min=0)
        outputs[i] = x
    return [outputs[i] for i in kept]


@pytest.mark.parametrize("rgb_range", [1, 255])
@pytest.mark.parametrize(("name", "layer"), [("VGG22", 7), ("VGG54", 34)])
def test_perceptual_losses_are_their_formulas(vgg, name, layer, rgb_range):
    path, state = vgg
    sr, hr, lr = images_of_a_step(rgb_range)
    loss = Loss(flags(f"--loss {name} --vgg_path {path} --rgb_range {rgb_range}"))
    a, b = (naive_vgg(state, x, [layer], rgb_range)[0] for x in (sr, hr))
    assert float(loss(sr, hr, lr)) == pytest.approx(float(((a - b) ** 2).mean()), rel=1e-4)


def test_vgg_sees_gray_as_three_equal_colors_and_computes_as_asked(vgg):
    path, _ = vgg
    sr, hr, lr = (x.mean(1, keepdim=True) for x in images_of_a_step())
    loss = Loss(flags(f"--loss VGG22 --vgg_path {path}"))
    assert not loss.state_dict()
    gray = float(loss(sr, hr, lr))
    assert gray == float(loss(*(x.expand(-1, 3, -1, -1) for x in (sr, hr, lr))))
    loss.set_precision("bf16")
    rough = float(loss(sr, hr, lr))
    assert rough != gray
    assert rough == pytest.approx(gray, rel=0.05)
    loss.set_precision("half")  # without a scaled gradient, features stay in single precision
    assert float(loss(sr, hr, lr)) == gray
    assert float(loss.double()(sr.double(), hr.double(), lr)) == pytest.approx(gray, rel=1e-4)


@pytest.mark.parametrize("rgb_range", [1, 255])
@pytest.mark.parametrize("name", ["CL", "VGGInfoNCE"])
def test_contrastive_losses_in_vgg_are_their_formulas(vgg, name, rgb_range):
    path, state = vgg
    sr, hr, lr = images_of_a_step(rgb_range)
    more = f"--rgb_range {rgb_range} --use_aug --mcl_neg 1 --sharp_hr --random_neg --only_blur --cl_layer 0,3"
    args = flags(f"--loss {name} --vgg_path {path} {more}")
    loss = Loss(args)
    torch.manual_seed(5)
    value = float(loss(sr, hr, lr))
    torch.manual_seed(5)
    positives, negatives = SampleMaker(args)(hr, lr)
    assert torch.allclose(negatives[0], upsampled(lr, rgb_range), atol=1e-3)
    assert (len(positives), len(negatives)) == (2, 2)
    normalize = name == "CL"  # the release gives VGGInfoNCE images in [0, 1] as they are
    anchor, *others = (
        naive_vgg(state, x, (1, 6, 11, 20, 29), rgb_range, normalize)
        for x in (sr, *positives, *negatives)
    )
    want = 0.0
    for i, weight in enumerate((1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)):
        near, far = [o[i] for o in others[:2]], [o[i] for o in others[2:]]
        if name == "CL":
            sums = [sum(float((anchor[i] - x).abs().mean()) for x in side) for side in (near, far)]
            want += weight * (sums[0] / 2) / (sums[1] / 2 + 1e-7)
        elif i in (0, 3):
            sides = ([[x] for x in near], [[x] for x in far])
            want += 0.5 * float(naive_contrastive("InfoNCE", [anchor[i]], *sides, (1,)))
    assert value == pytest.approx(want, rel=1e-4)
