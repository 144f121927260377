"""Networks and their parts against formulas that are written out here."""

import itertools

import pytest
import torch
from torch.nn.functional import conv2d, pixel_shuffle

from small_networks import build, lr_image

MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(3, 1, 1)


def conv3(state, key, x):
    return conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1)


def naive_block(state, key, x, res_scale):
    y = conv3(state, f"{key}.body.0", x).clamp(min=0)
    return x + res_scale * conv3(state, f"{key}.body.2", y)


def naive_rcab(state, key, x):
    y = conv3(state, f"{key}.body.2", conv3(state, f"{key}.body.0", x).clamp(min=0))
    first, second = (f"{key}.body.3.conv_du.{i}" for i in (0, 2))
    mean = y.mean((2, 3))  # (B, C)
    hidden = mean @ state[f"{first}.weight"].flatten(1).T + state[f"{first}.bias"]
    gate = hidden.clamp(min=0) @ state[f"{second}.weight"].flatten(1).T + state[f"{second}.bias"]
    return x + y * (1 / (1 + (-gate).exp()))[:, :, None, None]


def naive_group(state, key, x, n_resblocks=2):
    y = x
    for i in range(n_resblocks):
        y = naive_rcab(state, f"{key}.body.{i}", y)
    return x + conv3(state, f"{key}.body.{n_resblocks}", y)


def naive_network(state, lr, scale, body):
    """Return the output of the frame that all networks share, around a body."""
    head = conv3(state, "head.0", lr - 255 * MEAN)
    x = head + body(head)
    for i, factor in enumerate({2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}[scale]):
        x = pixel_shuffle(conv3(state, f"tail.0.{2 * i}", x), factor)
    return conv3(state, "tail.1", x) + 255 * MEAN


def check_network(net, scale, body):
    state, lr = net.state_dict(), lr_image()
    want = naive_network(state, lr, scale, body)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.allclose(net(lr), want, rtol=1e-4, atol=1e-3 * float(want.std())), grad


@pytest.mark.parametrize("res_scale", [1, 0.1])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_edsr_is_its_formula(scale, res_scale):
    net = build("EDSR", scale, f"--res_scale {res_scale}")
    state = net.state_dict()

    def body(x):
        for i in range(2):
            x = naive_block(state, f"body.{i}", x, res_scale)
        return conv3(state, "body.2", x)

    check_network(net, scale, body)


def test_rcan_is_its_formula():
    net = build("RCAN", 2, "--res_scale 0.1")  # which RCAN does not use
    state = net.state_dict()

    def body(x):
        groups = naive_group(state, "body.1", naive_group(state, "body.0", x))
        return conv3(state, "body.2", groups)

    check_network(net, 2, body)


def naive_layer_attention(state, maps):
    """Return the attention among N maps (B, C, H, W) as (B, N*C, H, W), map by map."""
    images = []
    for image in zip(*maps, strict=True):
        mixed = []
        for query in image:
            energies = torch.stack([(query.double() * key.double()).sum() for key in image])
            weights = (energies.max() - energies - (energies.max() - energies).max()).exp()
            weights = (weights / weights.sum()).float()
            attended = sum(weight * value for weight, value in zip(weights, image, strict=True))
            mixed.append(state["la.gamma"] * attended + query)
        images.append(torch.cat(mixed))
    return torch.stack(images)


def naive_channel_spatial_attention(state, x):
    """Return x * gate * gamma + x; the gate sees 3x3 pixels of three neighbouring channels."""
    kernel = state["csa.conv.weight"][0, 0]  # (3, 3, 3): channel, row, column
    _, channels, height, width = x.shape
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1, 1, 1))
    gate = state["csa.conv.bias"] + torch.zeros_like(x)
    for c, i, j in itertools.product(range(3), repeat=3):
        part = padded[:, c : c + channels, i : i + height, j : j + width]
        gate = gate + kernel[c, i, j] * part
    return x * torch.sigmoid(gate) * state["csa.gamma"] + x


@pytest.mark.parametrize("size", [1, 0.01])
@pytest.mark.parametrize("groups", [1, 3])
def test_han_is_its_formula_with_the_newest_map_first(groups, size):
    net = build("HAN", 2, f"--n_resgroups {groups}")
    with torch.no_grad():  # small features, so that the softmax does not pick one map alone
        biases = (p for p in net.body.parameters() if p.ndim == 1)
        for parameter in (*net.head.parameters(), *biases):
            parameter.mul_(size)
        net.head[0].weight.mul_(size)
    state = net.state_dict()

    def body(x):
        outputs = []
        for i in range(groups):
            x = naive_group(state, f"body.{i}", x)
            outputs.append(x)
        outputs.append(conv3(state, f"body.{groups}", x))
        layers = conv3(state, "last_conv", naive_layer_attention(state, outputs[::-1]))
        places = naive_channel_spatial_attention(state, outputs[-1])
        return conv3(state, "last", torch.cat([places, layers], 1))

    check_network(net, 2, body)


def test_layer_attention_prefers_the_map_with_the_least_product():
    # small maps, so that the softmax does not pick one map alone
    net = build("HAN", 2, "--n_resgroups 2")
    generator = torch.Generator().manual_seed(0)
    maps = [0.1 * torch.randn(2, 8, 5, 4, generator=generator) for _ in range(3)]
    want = naive_layer_attention(net.state_dict(), maps)
    assert torch.allclose(net.la(maps), want, atol=1e-5)
    weights = torch.linalg.lstsq(
        torch.stack([m[0].flatten() for m in maps], 1), (want - torch.cat(maps, 1))[0, :8].flatten()
    )
    weights = weights.solution / net.la.gamma.detach()
    assert sorted(weights.tolist())[1] > 0.05, "the softmax must weigh several maps"


def naive_attention(layer, x, rotations, chunk, res_scale):
    """Return non-local sparse attention pixel by pixel; rotations: (C', n_hashes, buckets / 2)."""
    state, n_hashes = layer.state_dict(), rotations.shape[1]
    match = conv3(state, "conv_match.0", x).flatten(2).transpose(1, 2)  # (B, L, C')
    value = conv2d(x, state["conv_assembly.0.weight"], state["conv_assembly.0.bias"])
    value = value.flatten(2).transpose(1, 2)  # (B, L, C)
    outputs = []
    for m, v in zip(match, value, strict=True):
        rounds, logs = [], []
        for h in range(n_hashes):
            rotated = m @ rotations[:, h]
            codes = torch.cat([rotated, -rotated], 1).argmax(1).tolist()
            order = sorted(range(len(codes)), key=codes.__getitem__)  # stable within a bucket
            padded = order + order[len(order) - (-len(order) % chunk) :]
            chunks = [padded[i : i + chunk] for i in range(0, len(padded), chunk)]
            result, log_sum = [None] * len(m), [None] * len(m)
            for rank, pixel in enumerate(order):
                k = rank // chunk
                seen = [*chunks[k - 1], *chunks[k], *chunks[(k + 1) % len(chunks)]]
                keys = m[seen] / m[seen].norm(dim=1, keepdim=True).clamp(min=5e-5)
                scores = keys @ m[pixel]
                log_sum[pixel] = scores.logsumexp(0)
                result[pixel] = (scores - log_sum[pixel]).exp() @ v[seen]
            rounds.append(torch.stack(result))
            logs.append(torch.stack(log_sum))
        weights = torch.stack(logs).softmax(0)[..., None]  # (n_hashes, L, 1)
        outputs.append((weights * torch.stack(rounds)).sum(0).T.view_as(x[0]))
    return x + res_scale * torch.stack(outputs)


# 35 pixels in chunks of 8: 5 chunks, the last one padded, 4 + 4 % 2 = 4 buckets.
# In chunks of 7: 5 chunks without padding, 5 + 5 % 2 = 6 buckets. In chunks of 18: 2 chunks.
# Fewer pixels than a chunk are one chunk, which sees itself three times.
@pytest.mark.parametrize(("chunk", "buckets"), [(8, 4), (7, 6), (18, 2), (64, 2)])
@pytest.mark.parametrize("res_scale", [1, 0.1])
def test_sparse_attention_is_its_formula(chunk, buckets, res_scale):
    net = build("NLSN", 2, f"--nlsn_chunk_size {chunk} --nlsn_n_hashes 3 --res_scale {res_scale}")
    layer = net.body[0]
    x = 0.3 * torch.randn(2, 8, 5, 7, generator=torch.Generator().manual_seed(2))
    shape = (1, 2, 3, buckets // 2)  # batch, match channels, hash rounds, half of the buckets
    rotations = torch.randn(shape, generator=torch.Generator().manual_seed(0))[0]
    x.requires_grad_()
    got = layer(x)
    again = x.detach().clone().requires_grad_()
    want = naive_attention(layer, again, rotations, min(chunk, 35), res_scale)
    assert torch.allclose(got, want, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(layer(x), want, atol=1e-5)
    weights = torch.arange(x.numel()).view_as(x) / x.numel()
    (gradient,), (want_gradient,) = (
        torch.autograd.grad((y * weights).sum(), source) for y, source in ((got, x), (want, again))
    )
    assert torch.allclose(gradient, want_gradient, atol=1e-4)


def test_nlsn_has_an_attention_before_the_blocks_and_after_every_eighth():
    keys = build("NLSN", 2, "--n_resblocks 17").state_dict()
    places = sorted({int(key.split(".")[1]) for key in keys if "conv_match" in key})
    blocks = sorted(
        {int(key.split(".")[1]) for key in keys if key.startswith("body") and ".body." in key}
    )
    assert places == [0, 9, 18]
    assert blocks == [*range(1, 9), *range(10, 18), 19]
    assert "body.20.weight" in keys


# ------------------------------------------------------------- stored outputs
# Weights and input are drawn from seeded generators, each parameter in the order of its sorted
# name: neither the initialization nor the order of construction changes them. The values were
# stored when all networks agreed with the outputs of the published code.

# (model, scale, further flags): mean and standard deviation of all values, the first value of the
# first image, and two of the last channel of the last image, on a range of 255
SCALED = "--res_scale 0.1"
GOLDEN = {
    ("EDSR", 2, ""): [93.4937, 118.7557, 131.4816, -270.9401, 106.1259],
    ("EDSR", 3, "--res_scale 0.1"): [99.0795, 87.9870, 89.3037, 152.5189, 145.1295],
    ("EDSR", 4, "--n_colors 1"): [105.4357, 100.5425, 106.2977, 202.6587, 103.6048],
    ("EDSR", 8, "--rgb_range 1"): [53.4421, 609.8774, -38.5198, 354.4787, -69.9338],
    ("RCAN", 2, ""): [109.9898, 143.4818, 177.8337, 137.6377, 168.0568],
    ("RCAN", 3, "--rgb_range 1"): [265.9499, 376.4658, 660.1614, 1139.3705, 96.0494],
    ("RCAN", 4, ""): [110.2008, 145.2095, 112.9362, -6.3880, 107.4908],
    ("HAN", 2, ""): [88.0325, 166.7614, -12.7268, -133.9413, 182.3884],
    ("HAN", 3, "--n_resgroups 3"): [109.7896, 284.7189, -67.5622, 358.8430, 8.6905],
    ("HAN", 4, "--rgb_range 1"): [92.3592, 652.7328, 121.8437, -37.9881, 340.3904],
    ("NLSN", 2, "--res_scale 0.1"): [107.7047, 101.6654, 85.2065, 27.0839, 125.4547],
    ("NLSN", 3, "--rgb_range 1 --res_scale 1"): [46.5943, 447.3916, 249.4616, -521.7040, -229.3377],
    ("NLSN", 4, f"--nlsn_chunk_size 144 {SCALED}"): [107.484, 103.751, 121.249, 108.422, 91.403],
    ("NLSN", 2, f"--n_resblocks 9 {SCALED}"): [111.193, 99.756, 126.859, 320.506, 174.623],
}


def numbers(sr, rgb_range):
    x = sr.detach().double() * 255 / rgb_range
    last = x.shape[1] - 1
    values = (x.mean(), x.std(), x[0, 0, 0, 0], x[-1, last, 5, 7], x[-1, last, -1, -1])
    return [float(value) for value in values]


@pytest.mark.parametrize(("name", "scale", "more"), GOLDEN)
def test_outputs_are_the_stored_ones_on_each_path(name, scale, more):
    net = build(name, scale, more)
    rgb_range = 1 if "rgb_range" in more else 255
    lr = lr_image(n_colors=1 if "n_colors" in more else 3, rgb_range=rgb_range)
    want = pytest.approx(GOLDEN[name, scale, more], rel=2e-4, abs=2e-2)
    with torch.no_grad():
        assert numbers(net(lr), rgb_range) == want, "eval mode without gradient: folded and fused"
    assert numbers(net(lr), rgb_range) == want, "eval mode with gradient"
    if "n_resblocks 9" in more:  # in training the second of two attentions draws other rotations
        return
    torch.manual_seed(0)  # the first one draws those of eval mode
    assert numbers(net.train()(lr), rgb_range) == want, "training mode"
