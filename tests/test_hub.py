"""hubconf.py: the pixels of the command line, and no trace in the caller's modules."""

import pickle
import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import export_onnx
from data.image import read_image_with_metadata, write_image
from model.edsr import EDSR
from model.rcan import RCAN

ROOT = Path(__file__).resolve().parent.parent


def hub_load(name, root=ROOT, **kwargs):
    return torch.hub.load(str(root), name, source="local", device="cpu", **kwargs)


@pytest.fixture
def weights(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.mark.filterwarnings("ignore:.*hardly trained")
@pytest.mark.parametrize("form", ["RGB", "gray", "alpha", "16 bits"])
def test_pixels_are_those_that_upscaling_writes(sr, weights, photographs, tmp_path, form):
    photo = np.ascontiguousarray(photographs["coffee"][:80, :70])
    image = {
        "RGB": photo,
        "gray": photo[:, :, 0],
        "alpha": np.dstack([photo, photo[:, ::-1, :1]]),
        "16 bits": photo[:, :, 0].astype(np.uint16) * 257,
    }[form]
    upscale = hub_load("load", weights=weights, chop_size=40, chop_overlap=12)
    assert upscale.scale == 2
    assert isinstance(upscale.net, torch.nn.Module)
    found = upscale(image)
    assert (found.dtype, found.shape[:2]) == (image.dtype, (160, 140))
    assert found.ndim == image.ndim
    write_image(tmp_path / "in.png", image if image.ndim == 3 else image[:, :, None])
    command = "--data_test Demo --test_only --cpu --chop_size 40 --chop_overlap 12".split()
    command += ["--dir_demo", tmp_path / "in.png", "--dir_out", tmp_path / "out.png"]
    status, out, err = sr(*command, "--pre_train", weights)
    assert status == 0, out + err
    written = read_image_with_metadata(tmp_path / "out.png")[0]
    assert np.array_equal(written.reshape(found.shape), found)


@pytest.mark.filterwarnings("ignore:.*hardly trained")
def test_the_modules_of_the_caller_are_left_alone(weights, monkeypatch):
    callers = types.ModuleType("data")
    monkeypatch.setitem(sys.modules, "data", callers)
    before, path = dict(sys.modules), list(sys.path)
    first, second = (hub_load("load", weights=weights) for _ in range(2))
    assert sys.path == path
    assert {name: sys.modules.get(name) for name in before} == before
    own = [p.stem for p in (ROOT / "src").iterdir()]
    for name in sys.modules:
        if name.partition(".")[0] in own:
            assert sys.modules[name] is before.get(name), name
    assert type(first.net) is type(second.net)
    copy = pickle.loads(pickle.dumps(first.net))
    lr = torch.rand(1, 3, 9, 9) * 255
    assert torch.equal(copy(lr), first.net(lr))


@pytest.fixture
def clone(tmp_path):
    """Copy what torch.hub needs of the repository."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "clone/src", ignore=ignore)
    shutil.copy(ROOT / "hubconf.py", tmp_path / "clone")
    (tmp_path / "clone/experiment/model").mkdir(parents=True)
    return tmp_path / "clone"


@pytest.mark.filterwarnings("ignore:.*hardly trained")
def test_the_shipped_weights_by_their_scale(clone):
    torch.manual_seed(0)
    state = {k: v.half() for k, v in EDSR(scale=3, n_resblocks=1, n_feats=8).state_dict().items()}
    torch.save(state, clone / "experiment/model/EDSR_baseline_x3.pt")
    upscale = hub_load("edsr_baseline", clone, scale=3)
    assert upscale(np.zeros((5, 7), np.uint8)).shape == (15, 21)
    with pytest.raises(RuntimeError, match=r"no weights for scale 4 .*scales: 3"):
        hub_load("edsr_baseline", clone)
    for flag, scale in (("real", 4), ("fast", 2)):
        with pytest.raises(RuntimeError, match=f"no weights for scale {scale} .*scales: none"):
            hub_load("edsr_baseline", clone, **{flag: True})
    torch.save(state, clone / "experiment/model/EDSR_baseline_x3_real.pt")
    assert hub_load("edsr_baseline", clone, scale=3, real=True).scale == 3


@pytest.mark.filterwarnings("ignore:.*hardly trained")
def test_the_examples_of_the_documentation(clone, photographs, monkeypatch):
    torch.manual_seed(0)
    shared = {"scale": 4, "n_feats": 16, "n_resblocks": 1}
    edsr, rcan = EDSR(**shared), RCAN(**shared, n_resgroups=2)
    torch.save(edsr.state_dict(), clone / "experiment/model/EDSR_baseline_x4.pt")
    torch.save(rcan.state_dict(), clone / "RCAN_BIX4.pt")
    iio.imwrite(clone / "photo.jpg", photographs["coffee"])
    monkeypatch.chdir(clone)
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block.replace('"path/of/this/repository"', repr(str(clone))), names)
    height, width = photographs["coffee"].shape[:2]
    assert iio.imread(clone / "photo_x4.png").shape == (4 * height, 4 * width, 3)
    assert type(names["net"]).__name__ == "RCAN"
    assert names["sr"].shape == (1, 3, 192, 256)
    assert names["features"]["body"].shape == (1, 16, 48, 64)
    monkeypatch.setattr(export_onnx, "SIZES", ((1, 20, 33),))
    for block in re.findall(r"```bash\n(.*?)```", page, re.S):
        for command in block.splitlines():
            script, *argv = shlex.split(command)
            assert script == "scripts/export_onnx.py"
            assert export_onnx.main(argv) == 0
    assert (clone / "EDSR_x4.onnx").is_file()


def test_what_cannot_be_loaded_or_upscaled_is_said(weights, tmp_path):
    with pytest.raises(RuntimeError, match="must be an existing file"):
        hub_load("load", weights=tmp_path / "none.pt")
    with pytest.raises(RuntimeError, match="unknown flag --res_scal "):
        hub_load("load", weights=weights, res_scal=1)
    with pytest.warns(UserWarning, match="SR of a photograph has"):
        upscale = hub_load("load", weights=weights)
    for image in (np.zeros((4, 4)), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="image must be uint8 or uint16"):
            upscale(image)
