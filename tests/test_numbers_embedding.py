"""The embedding: its formula, statistics over ranks, and sample sets together."""

import pytest
import torch
from torch.nn.functional import conv2d, leaky_relu

from loss.discriminator import CrossRankBatchNorm, Discriminator
from loss_formulas import flags, naive_haar, random_images
from runtime import distributed
from runtime.files import UserError


def naive_embedding(dis, x, before_relu):
    """Return logits and the features of the eight blocks, from the entries of state_dict()."""
    state = dis.state_dict()
    features = []
    for i, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 2)):
        x = conv2d(x, state[f"features.{2 * i}.0.weight"], stride=stride, padding=1)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
        scale, shift = (
            state[f"features.{2 * i}.1.{k}"].view(1, -1, 1, 1) for k in ("weight", "bias")
        )
        before = (x - mean) / (var + 1e-5).sqrt() * scale + shift
        x = torch.where(before > 0, before, 0.2 * before)
        features.append(before if before_relu else x)
    if "classifier.3.weight" in state:
        x = leaky_relu(
            x.flatten(1) @ state["classifier.1.weight"].T + state["classifier.1.bias"], 0.2
        )
        return x @ state["classifier.3.weight"].T + state["classifier.3.bias"], features
    height, width = x.shape[2] // 4 or 1, x.shape[3] // 4 or 1
    if x.shape[2] < 4:  # adaptive pooling to a larger size repeats pixels
        x = x.repeat_interleave(4 // x.shape[2], 2).repeat_interleave(4 // x.shape[3], 3)
    pooled = x.unflatten(3, (4, width)).unflatten(2, (4, height)).mean((3, 5))  # (B, C, 4, 4)
    weight, bias = state["classifier.1.weight"].flatten(1), state["classifier.1.bias"]
    return torch.einsum("bchw,oc->bohw", pooled, weight) + bias, features


@pytest.mark.parametrize("more", ["--before_relu", "--use_wavelet"])
@pytest.mark.parametrize("name", ["patchD", "GAN"])
def test_the_embedding_is_its_formula(name, more):
    torch.manual_seed(0)
    dis = Discriminator(flags(f"--loss {name} {more}"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in sorted(dis.named_parameters()):
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    x = random_images(1)
    seen = torch.from_numpy(naive_haar(x.numpy())).float() if "wavelet" in more else x
    logits, features = naive_embedding(dis, seen, "before" in more)
    with torch.no_grad():
        got, got_features = dis(x, return_features=True)
    assert got.shape == ((2, 1, 4, 4) if name == "patchD" else (2, 1))
    assert torch.allclose(got, logits, atol=1e-3)
    assert len(got_features) == 8
    for i, (feature, want) in enumerate(zip(got_features, features, strict=True)):
        assert torch.allclose(feature, want, atol=1e-3), i


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalization_over_ranks_is_that_of_the_whole_set(monkeypatch, dtype):
    """Two ranks of 2 and 4 images: each runs alone, given the statistics of both."""
    torch.manual_seed(0)
    x = (torch.randn(6, 3, 5, 4) * torch.arange(1.0, 7).view(6, 1, 1, 1) + 2).to(dtype)
    whole = torch.nn.BatchNorm2d(3)
    with torch.no_grad():
        whole.weight.uniform_(0.5, 2), whole.bias.uniform_(-1, 1)
    norms = [CrossRankBatchNorm(3) for _ in range(2)]
    for norm in norms:
        norm.load_state_dict(whole.state_dict())
    parts, rows = x.split([2, 4]), []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather_batch", lambda row, _: rows.append(row) or row)
    for part in parts:
        CrossRankBatchNorm(3)(part)
    monkeypatch.setattr(distributed, "all_gather_batch", lambda row, _: torch.cat(rows))
    got = torch.cat([norm(part) for norm, part in zip(norms, parts, strict=True)])
    assert got.dtype == dtype
    assert torch.allclose(
        got.float(), whole(x.float()), atol=2e-5 if dtype == torch.float32 else 0.1
    )
    for norm in norms:
        assert torch.allclose(norm.running_mean, whole.running_mean, rtol=1e-5)
        assert torch.allclose(norm.running_var, whole.running_var, rtol=1e-5)


def test_the_normalization_can_be_differentiated_twice_over_ranks(monkeypatch):
    """The penalty of WGAN_GP needs it, also with several ranks; here of 2 and 3 images."""
    torch.manual_seed(0)
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    found = []
    for n_ranks in (1, 2):
        norm, images = CrossRankBatchNorm(3).double(), x.clone().requires_grad_()
        if n_ranks == 2:  # the statistics of both, joined as the exchange joins them
            monkeypatch.setattr(distributed, "world_size", lambda: 2)
            rows = torch.cat([_row(part) for part in images.split([2, 3])])
            monkeypatch.setattr(distributed, "all_gather_batch", lambda *_, rows=rows: rows)
        out = torch.cat([norm(part) for part in images.split([2, 3] if n_ranks == 2 else [5])])
        (gradient,) = torch.autograd.grad(out.pow(3).sum(), images, create_graph=True)
        found.append(torch.autograd.grad(gradient.pow(2).sum(), images)[0])
    assert torch.allclose(*found, rtol=1e-4, atol=1e-4)


def _row(part):
    mean = part.mean((0, 2, 3))
    var = part.var((0, 2, 3), correction=0)
    return torch.cat([mean, var, mean.new_full((1,), part.numel() / 3)])[None]


def test_a_patch_that_shrinks_to_a_pixel_needs_a_batch():
    small = "--loss patchD --patch_size 16"
    Discriminator(flags(f"{small} --batch_size 2"))
    Discriminator(flags("--loss patchD --patch_size 32 --batch_size 1"))
    for more in ("--batch_size 1", "--batch_size 2 --split_batch 2"):
        with pytest.raises(UserError, match="--batch_size must be above 1"):
            Discriminator(flags(f"{small} {more}"))
