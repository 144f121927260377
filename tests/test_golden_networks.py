"""Stored outputs of every network.

Weights and input are drawn from seeded generators, each parameter in the order of its sorted name:
neither the initialization nor the order of construction changes them. The values were stored when
all networks agreed with the outputs of the published code.
"""

import pytest
import torch

from small_networks import build, lr_image

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
