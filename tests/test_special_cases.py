"""Special cases for speed, and their plain variants, to which they are compared."""

from types import SimpleNamespace

import numpy as np
import plain_variants as plain
import pytest
import special_cases
import torch

import metric
from loss import contrastive, wavelet
from model import common, edsr, han, nlsn
from optim import EMA


def close(a, b):
    return torch.allclose(a, b, atol=1e-5, rtol=1e-4)


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(2, 16, 19, 23)


def test_networks(features, monkeypatch):
    layer = common.SubPixelConv(16, 2)
    assert close(layer(features), plain.shuffled_sub_pixels(layer, features))
    last = common.OutputConv(16, 3)
    assert close(last(features), plain.float32_output_conv(last, features))
    attention = nlsn.NonLocalSparseAttention(16, chunk_size=16).eval()
    for variant in (None, "forward", "_windows", "_permute", "_attend_once"):
        with monkeypatch.context() as patch:
            expected = attention(features)
            cls = nlsn.NonLocalSparseAttention
            replacements = {
                "forward": (cls, plain.all_hash_rounds_at_once),
                "_windows": (cls, plain.joined_windows),
                "_permute": (nlsn, plain.indexed_rows),
                "_attend_once": (cls, plain.attend_with_softmax),
            }
            if variant:
                target, function = replacements[variant]
                patch.setattr(target, variant, function)
            assert close(attention(features), expected), variant
    maps, layers = [features, features.flip(2), features * 0.5], han.LayerAttention()
    torch.nn.init.constant_(layers.gamma, 0.5)
    last = common.conv(48, 16, 3)
    assert close(
        layers.forward_fused(maps, last), plain.unfused_layer_attention(layers, maps, last)
    )
    assert close(han._gram_matrix(maps), plain.stacked_gram_matrix(maps))


def test_losses_average_and_metric(features):
    x = features[..., :18, :22]
    assert close(wavelet.haar_high_frequencies(x), plain.haar_of_pixels(x))
    others = [features.flip(2), features.roll(1, 3)]
    assert close(
        contrastive.similarities(features, others), plain.normalized_similarities(features, others)
    )
    averages = []
    for update in (EMA.update, plain.update_in_a_loop):
        torch.manual_seed(0)
        net = edsr.EDSR(scale=2, n_feats=8, n_resblocks=1, res_scale=1.0)
        average = EMA(net)
        torch.nn.init.ones_(net.head[0].weight)
        update(average)
        averages.append(average.average.head[0].weight)
    assert torch.equal(*averages)
    side = 2 * metric.TILE + metric.TAPS - 1
    images = [torch.rand(3, side, side, dtype=torch.float64) * 255 for _ in range(2)]
    assert close(metric._ssim_map(*images), plain.ssim_map_of_convolutions(*images))


def test_each_row_turns_its_special_case_off_and_on():
    options = SimpleNamespace(small=True, flags=["--cpu"])
    rows = special_cases.training_rows(options) + special_cases.rows_of_tests(options)
    replacing = [row for row in rows if getattr(row, "replaced", None)]
    assert len(replacing) > 10
    for row in replacing:
        for target, attribute, variant, original in row.replaced:
            row.switch(False)
            assert getattr(target, attribute) is variant
            row.switch(True)
            assert getattr(target, attribute) is original is not variant


def test_the_table(capsys, monkeypatch):
    names = ["sub-pixel order, test", "folded HAN attention"]
    argv = ["--small", "--pairs", "1", "--cpu", "--only", *names]
    assert special_cases.main(argv) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in second.strip("| ").split(" | ")]
    assert first.startswith(f"| {names[0]} | forward, EDSR x4 | ")
    assert cells[0] == names[1]
    assert all(cell.endswith(" s") and float(cell[:-2]) > 0 for cell in cells[2:4])
    assert np.isfinite(float(cells[4].rstrip("%")))
    assert cells[5].endswith(" MiB")
    assert special_cases.main(["--only", "no such row"]) == 1
