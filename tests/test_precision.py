"""--precision and --compile: what runs in 16 bits and what stays in 32."""

import pytest
import torch
from torch import nn

from helpers import state_of
from loss.discriminator import Discriminator
from model.common import OutputConv
from option import parse_args
from runtime.precision import cpu_bf16_support


def test_weights_figures_and_states_stay_in_32_bits(sr):
    flags = "--template PCL --mcl_neg 1 --epochs 1 --test_every 2".split()
    for precision in ("single", "bf16", "half"):
        status, out, _ = sr.train("--save", precision, "--precision", precision, *flags)
        assert status == 0, precision
        assert ("WARNING: --precision" in out) == (precision != "single" and not cpu_bf16_support())
        state = state_of(sr.folder(precision))
        assert state["precision"] == ["cpu", precision]
        parts = (state["net"], state["loss"], state["optimizer"]["state"][0])
        tensors = [x for part in parts for x in part.values() if torch.is_tensor(x)]
        assert {x.dtype for x in tensors if x.is_floating_point()} == {torch.float32}
    psnr = [sr.metrics(name)[-1]["psnr"] for name in ("single", "bf16")]
    assert psnr[1] == pytest.approx(psnr[0], abs=0.05)
    assert psnr[1] != psnr[0]  # it did compute in 16 bits


@pytest.mark.parametrize(("units", "chosen"), [("AMX", "bf16"), ("", "single")])
def test_auto_is_the_default_says_what_it_chose_and_tests_in_single(sr, monkeypatch, units, chosen):
    monkeypatch.setattr("runtime.precision.cpu_bf16_support", lambda: units)
    default = sr.small.split()
    del default[default.index("--precision") : default.index("--precision") + 2]
    status, out, _ = sr(*default, "--save", "run", "--epochs", 1)
    assert status == 0
    assert state_of(sr.folder("run"))["precision"] == ["cpu", chosen]
    assert f"--precision auto: {chosen} (this CPU has {units or 'no fast units for bf16'})" in out
    weights = sr.folder("run") / "model/model_latest.pt"
    for name, flags in {"auto": default, "single": [*default, "--precision", "single"]}.items():
        assert sr(*flags, "--save", name, "--test_only", "--pre_train", weights)[0] == 0
    assert sr.metrics("auto") == sr.metrics("single")


@pytest.mark.parametrize(
    ("vendor", "flags", "units"),
    [
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile", "AMX"),
        ("GenuineIntel", "avx512f avx512_bf16", ""),  # its bf16 is slower than its float32
        ("AuthenticAMD", "avx512f avx512_bf16", "AVX-512 BF16"),
        ("AuthenticAMD", "avx2", ""),
    ],
)
def test_units_that_are_known_to_be_fast(tmp_path, vendor, flags, units):
    path = tmp_path / "cpuinfo"
    text = f"vendor_id\t: {vendor}\nflags\t\t: fpu {flags}\nbugs\t:\n"
    path.write_text(f"processor\t: 0\n{text}\nprocessor\t: 1\n")
    assert cpu_bf16_support(path) == units
    assert cpu_bf16_support(tmp_path / "none") == ""


def test_what_is_chosen_stays_chosen(sr):
    assert sr.train("--save", "run", "--precision", "bf16", "--epochs", 1)[0] == 0
    status, out, _ = sr("--load", "run", "--precision", "auto", "--epochs", 2, "--cpu")
    assert status == 0, out
    assert state_of(sr.folder("run"))["precision"] == ["cpu", "bf16"]


def test_the_gradient_of_the_last_convolution_is_that_of_32_bits_rounded():
    layer = OutputConv(16, 3)
    x = torch.randn(2, 16, 10, 9).bfloat16()
    gradient = torch.randn(2, 3, 10, 9)
    found = []
    for features in (x, x.float()):
        features.requires_grad_()
        layer.zero_grad()
        sr = layer(features)
        assert sr.dtype == torch.float32
        sr.backward(gradient)
        found.append((sr, features.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    for low, exact in zip(*found, strict=True):
        assert (low.float() - exact).detach().abs().max() < 0.02 * exact.detach().abs().max()
    assert torch.equal(found[0][0], found[1][0]), "colours are computed in 32 bits"


def test_the_embedding_convolves_in_16_bits_and_normalises_in_32():
    flags = ["--loss", "1*L1+1*CL-patchD", "--patch_size", "32", "--before_relu"]
    dis, seen = Discriminator(parse_args(flags)), {}

    def note(module, inputs, output):
        values = inputs[0].detach(), output.detach().clone()  # activated in place
        seen.setdefault(type(module).__name__, []).append(values)

    for module in dis.features.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            module.register_forward_hook(note)
    dis.precision = "bf16"
    x = torch.rand(2, 3, 32, 32) * 255
    assert dis.logits_sets([x])[0].dtype == torch.float32
    assert {after.dtype for _, after in seen["Conv2d"]} == {torch.bfloat16}
    for before, after in seen["CrossRankBatchNorm"]:
        exact = nn.functional.batch_norm(before.float(), None, None, training=True)
        # no more than the rounding of the result
        assert torch.allclose(after.float(), exact, rtol=2**-8, atol=1e-5)
    seen.clear()
    embedded = dis.embed_sets([x], [1, 3])[0]
    assert len(seen["Conv2d"]) == 4, "deeper than it needs to be"
    assert [features.dtype for features in embedded] == [torch.float32] * 2
    # the features that are kept are not rounded
    assert torch.equal(embedded[1], seen["CrossRankBatchNorm"][3][1])


@pytest.mark.slow  # the compiler takes most of a minute
@pytest.mark.parametrize(("precision", "error"), [("single", 1e-4), ("bf16", 5e-3)])
def test_compiled_training_gives_the_same_loss(sr, precision, error):
    for name, flags in {"plain": [], "compiled": ["--compile"]}.items():
        assert sr.train("--save", name, "--epochs", 1, "--precision", precision, *flags)[0] == 0
    plain, compiled = (sr.metrics(name)[0]["loss"]["L1"] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=error)
