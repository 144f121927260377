"""Every network of the registry at every scale; tiles and self-ensemble."""

import math

import pytest
import skimage.data
import torch
from torch.nn.functional import conv2d, pixel_shuffle

from data.resize import downsample
from helpers import same_bits
from metric import calc_psnr
from model import NETWORKS, build_network
from model.common import SubPixelConv
from model.inference import Upscaler, transforms
from model.nlsn import NonLocalSparseAttention
from option import parse_args

SCALES = (2, 3, 4, 8)
TRAINED = [name for name in NETWORKS if name != "Bicubic"]
SMALL = "--n_resgroups 2 --n_resblocks 2 --n_feats 8 --reduction 4 --nlsn_chunk_size 16"


def build(name, scale, more="", seed=0):
    torch.manual_seed(seed)
    return build_network(parse_args(f"--model {name} --scale {scale} {SMALL} {more}".split()))


def images(scale, side=12, count=1, rgb_range=255, n_colors=3):
    """Pairs (lr, hr) of crops of a photograph."""
    photo = skimage.data.astronaut()
    hr = [photo[40 * i : 40 * i + side * scale, 150 : 150 + side * scale] for i in range(count)]
    pairs = [
        [torch.from_numpy(x.transpose(2, 0, 1).copy()).float() for x in (downsample(h, scale), h)]
        for h in hr
    ]
    lr, hr = (
        torch.stack(list(x))[:, :n_colors] * (rgb_range / 255) for x in zip(*pairs, strict=True)
    )
    return lr, hr


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("n_colors", "rgb_range", "batch"), [(3, 255, 1), (3, 1, 3), (1, 255, 3)])
def test_output_has_the_size_and_range(name, scale, n_colors, rgb_range, batch):
    net = build(name, scale, f"--n_colors {n_colors} --rgb_range {rgb_range}").eval()
    lr = images(scale, 11, batch, rgb_range, n_colors)[0][:, :, :, :9]
    with torch.no_grad():
        sr = net(lr)
    assert sr.shape == (batch, n_colors, 11 * scale, 9 * scale)
    assert torch.isfinite(sr).all()
    assert sr.abs().max() < 5 * rgb_range


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_reaches_every_parameter_and_lowers_the_loss(name, scale):
    net = build(name, scale)
    lr, hr = images(scale, count=2)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1e-5)
    torch.manual_seed(1)
    loss = (net(lr) - hr).abs().mean()
    loss.backward()
    for key, parameter in net.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), key
    optimizer.step()
    torch.manual_seed(1)
    assert (net(lr) - hr).abs().mean() < loss


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_two_hundred_steps_on_one_batch_pass_bicubic(name):
    net = build(name, 2, "--n_feats 32 --n_resblocks 4 --res_scale 1")
    lr, hr = images(2, 24, 4)
    bicubic = build("Bicubic", 2)(lr)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=2e-3)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 + math.cos(math.pi * step / 200)) / 2
        optimizer.zero_grad()
        (net(lr) - hr).abs().mean().backward()
        optimizer.step()
    with torch.no_grad():
        sr = net.eval()(lr)
    psnr, reference = (
        sum(calc_psnr(x, h, 2, 255) for x, h in zip(images, hr, strict=True)) / 4
        for images in (sr, bicubic)
    )
    gain = psnr - reference
    print(f"{name}: {gain:.2f} dB above bicubic after 200 steps")
    assert gain > 0.5, f"{name}: {gain:.2f} dB above bicubic"


# ---------------------------------------------------------------- details


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_a_sub_pixel_convolution_is_a_convolution_and_a_pixel_shuffle(factor, memory_format):
    torch.manual_seed(0)
    layer = SubPixelConv(5, factor).to(memory_format=memory_format)
    x = torch.randn(2, 5, 7, 6).contiguous(memory_format=memory_format)
    plain = pixel_shuffle(conv2d(x, layer.weight, layer.bias, padding=1), factor)
    assert torch.allclose(layer(x), plain, atol=1e-6)
    weights = torch.arange(plain.numel()).view_as(plain)
    gradients = [
        torch.autograd.grad((y * weights).sum(), layer.weight)[0] for y in (layer(x), plain)
    ]
    assert torch.allclose(*gradients, rtol=1e-4)


def test_han_does_not_overflow_in_half_precision():
    net = build("HAN", 2, "--n_feats 32")
    lr, _ = images(2, 48)
    for no_grad in (True, False):
        with torch.set_grad_enabled(not no_grad), torch.autocast("cpu", torch.float16):
            assert torch.isfinite(net(lr)).all()


def test_nlsn_draws_its_eval_rotations_once_and_on_the_cpu(monkeypatch):
    """A generator of another device would draw other numbers from the same seed."""
    draws, randn = [], torch.randn

    def record(*args, **kwargs):
        draws.append(kwargs)
        return randn(*args, **kwargs)

    layer = NonLocalSparseAttention(16, chunk_size=8).eval()
    x = torch.randn(1, 16, 16, 16)
    monkeypatch.setattr(torch, "randn", record)
    first = layer(x)
    same_bits(first, layer(x))
    layer(x[:, :, :4])  # another number of buckets
    assert len(draws) == 2
    assert all(kwargs["generator"].device.type == "cpu" for kwargs in draws)
    assert not any("rotation" in name for name in layer.state_dict())


def test_nlsn_draws_new_rotations_in_training():
    layer = NonLocalSparseAttention(16, chunk_size=8)
    x = torch.randn(1, 16, 16, 16)
    assert not torch.equal(layer(x), layer(x))


# --------------------------------------------------- tiles, self-ensemble


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize(("height", "width"), [(40, 97), (101, 33), (61, 61), (20, 130), (9, 12)])
def test_tiles_give_the_whole_image(scale, height, width):
    net = build("EDSR", scale).eval()
    lr = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        # radius in LR pixels: head 1, two blocks 4, body 1, tail 1 and at most 1 more.
        # A quarter of 36 is 9.
        tiled = Upscaler(net, chop=True, tile=80, overlap=36)(lr, scale)
        assert (tiled - net(lr)).abs().max() < 1e-3 * 255


def test_tiles_never_leave_a_gap_or_count_twice():
    def plain(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    for height in range(1, 90, 7):
        for tile, overlap in ((16, 0), (16, 1), (16, 7), (33, 10)):
            lr = torch.rand(2, 1, height, 45)
            sr = Upscaler(plain, chop=True, tile=tile, overlap=overlap)(lr, 2)
            assert torch.allclose(sr, plain(lr), atol=1e-6)


def test_self_ensemble_is_the_mean_over_the_eight_transforms():
    net = build("EDSR", 2).eval()
    lr, _ = images(2, 14)
    lr = lr[:, :, :, :10]
    with torch.no_grad():
        want = 0
        for turns in range(4):
            for flips in ((), (3,)):
                turned = lr.flip(flips).rot90(turns, (2, 3))
                want = want + net(turned).rot90(-turns, (2, 3)).flip(flips) / 8
        sr = Upscaler(net, self_ensemble=True)(lr, 2)
        assert torch.allclose(sr, want, atol=1e-3)
        turned = Upscaler(net, self_ensemble=True)(lr.transpose(2, 3), 2).transpose(2, 3)
        assert torch.allclose(sr, turned, atol=1e-3), "a turned image gives another result"
        lr = torch.rand(1, 3, 97, 41, generator=torch.Generator().manual_seed(0)) * 255
        sizes = []
        net.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[2:].numel()))
        tiled = Upscaler(net, self_ensemble=True, chop=True, tile=80, overlap=36)(lr, 2)
        assert sizes == [67 * 41] * 16, "two tiles, eight times each"
        assert (tiled - Upscaler(net, self_ensemble=True)(lr, 2)).abs().max() < 1e-3 * 255
    views = {
        apply(torch.arange(6.0).view(1, 1, 2, 3)).flatten().numpy().tobytes()
        for apply, _ in transforms()
    }
    assert len(views) == 8


def test_out_of_memory_halves_the_tile_and_goes_on():
    sizes, messages = [], []

    class Net(torch.nn.Module):
        """Nearest-neighbor upsampling of the mean over 3x3 pixels, with an end to its memory."""

        def forward(self, x, limit=50):
            sizes.append(max(x.shape[2:]))
            if sizes[-1] > limit:
                raise torch.OutOfMemoryError("too much")
            mean = conv2d(x, torch.ones(3, 1, 3, 3) / 9, padding=1, groups=3)
            return mean.repeat_interleave(2, 2).repeat_interleave(2, 3)

    lr = torch.rand(1, 3, 150, 90, generator=torch.Generator().manual_seed(0))
    sr = Upscaler(Net(), log=messages.append)(lr, 2)
    assert sizes[:2] == [150, 74], "no larger than three tiles need"
    assert max(sizes[2:]) <= 50
    assert len(messages) == 2
    assert "out of memory" in messages[0]
    assert torch.allclose(sr, Net()(lr, limit=150), atol=1e-6)

    sizes.clear()  # the tile of the flags comes before half of it
    Upscaler(Net(), tile=90, overlap=20, log=messages.append)(lr, 2)
    assert sizes[:3] == [150, 90, 44]
    assert "tiles of 90 pixels with an overlap of 20" in messages[2]

    def never_enough(x):
        sizes.append(max(x.shape[2:]))
        raise torch.OutOfMemoryError("never enough")

    hopeless = torch.nn.Module()
    hopeless.forward = never_enough
    sizes.clear()
    with pytest.raises(torch.OutOfMemoryError, match="never enough"):
        Upscaler(hopeless, log=messages.append)(lr, 2)
    assert min(sizes) >= 32


def conv(n_in, n_out, size=3):
    return torch.nn.Conv2d(n_in, n_out, size, padding=size // 2)


@pytest.mark.parametrize("name", ["EDSR", "RCAN", "NLSN", "MDSR"])
def test_a_seed_gives_the_weights_of_the_published_code(name):
    """Its order: the mean shift, head, body, tail; EDSR adds the second mean shift before them."""
    net = build(name, 2)
    torch.manual_seed(0)
    _ = [conv(3, 3, 1) for _ in range(1 if name in ("RCAN", "NLSN") else 2)]
    head = conv(3, 8)
    first = conv(8, 2 if name == "NLSN" else 8, 5 if name == "MDSR" else 3)
    state = net.state_dict()
    keys = {"NLSN": "body.0.conv_match.0", "MDSR": "pre_process.0.0.body.0"}
    key = keys.get(name, "body.0.body.0.body.0" if name == "RCAN" else "body.0.body.0")
    assert torch.equal(state["head.0.weight"], head.weight)
    assert torch.equal(state[f"{key}.weight"], first.weight)
    if name == "EDSR":
        [conv(8, 8) for _ in range(4)]  # the rest of the body
        assert torch.equal(state["tail.0.0.weight"], conv(8, 32).weight)
        assert torch.equal(state["tail.1.weight"], conv(8, 3).weight)
