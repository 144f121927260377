"""Each piece of the training state: removed, the load is refused; changed, the run differs."""

import contextlib
import shutil
import signal

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from helpers import same_bits, state_of

# In the second epoch some steps are above the mean loss of the first, and are skipped
FLAGS = "--epochs 2 --test_every 5 --batch_size 2 --patch_size 16 --n_feats 4 --print_every 5"
FLAGS = [*FLAGS.split(), "--use_ema", "--skip_threshold", 0.72, "--precision", "auto"]
PCL = "--epochs 2 --test_every 2 --batch_size 2 --patch_size 32 --n_feats 4".split()
PCL += "--optimizer SGD --loss 1*L1+1*CL-patchD".split()


@contextlib.contextmanager
def interrupted_in(update):
    """Send SIGINT in an update of weights, counted from 1 over all optimizers."""
    done = 0

    def count(*_):
        nonlocal done
        done += 1
        if done == update:
            signal.raise_signal(signal.SIGINT)

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()


def end_of(sr, name):
    """Return what a run has left: state, weights, and metrics without times."""
    models = sr.folder(name) / "model"
    files = (models / f"model_{kind}.pt" for kind in ("latest", "best"))
    weights = [dict(torch.load(path, weights_only=True)) for path in files]
    lines = sr.metrics(name)
    for line in lines:
        for key in ("seconds", "waiting"):
            line.pop(key, None)
    return {"state": state_of(sr.folder(name)), "weights": weights, "metrics": lines}


def equal(a, b):
    """Return whether two nested structures have the same bits."""
    try:
        same_bits(a, b)
    except AssertionError:
        return False
    return True


def stopped_and_whole(sr, flags, update):
    """Train "whole", and "stopped" up to an update; return the end of one and the other's state."""
    assert sr.train("--save", "whole", *flags)[0] == 0
    with interrupted_in(update):
        assert sr.train("--save", "stopped", *flags)[0] == 130
    return end_of(sr, "whole"), state_of(sr.folder("stopped"))


def resumed(sr, state, name):
    """Resume a copy of the stopped run from a state; return exit status, errors and end."""
    without_state = shutil.ignore_patterns("state.pt")
    shutil.copytree(sr.folder("stopped"), sr.folder(name), ignore=without_state)
    torch.save(state, sr.folder(name) / "model/state.pt")
    status, _, err = sr("--load", name, "--cpu")
    return status, err, end_of(sr, name)


def moved(value):
    """Return a nested structure with its tensors changed, except the fixed color shifts."""
    if isinstance(value, dict):
        return {key: item if "_mean." in str(key) else moved(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim():
        return value * 0.9 + 0.01
    return value


def numpy_seeded_otherwise(random):
    """Return random states with another one for numpy."""
    kind, keys, *rest = random["numpy"]
    return {**random, "numpy": [kind, [keys[0] ^ 1, *keys[1:]], *rest]}


# piece: a function that returns another value in its place
CHANGES = {
    "net": moved,
    "optimizer": moved,
    "ema": moved,
    "last_loss": lambda loss: 1e-6,
    "step": lambda step: 0,  # not the one before, which --skip_threshold may have skipped
    "progress": lambda old: {**old, "sums": {name: 2 * x for name, x in old["sums"].items()}},
    "precision": lambda pair: [pair[0], "single" if pair[1] == "bf16" else "bf16"],
    "epoch": lambda epoch: epoch - 1,
    "best": lambda best: {"psnr": 99.0, "epoch": 1},
    "random": numpy_seeded_otherwise,
    "fixed": lambda fixed: {**fixed, "n_feats": 8},
}
REFUSED = {"fixed"}
BESIDES = {"loss", "scaler", "flags"}  # tested below; flags are for messages and threads


def test_each_piece_of_the_state_counts(sr):
    whole, state = stopped_and_whole(sr, FLAGS, 6)
    assert set(state) == set(CHANGES) | BESIDES
    assert state["epoch"] == 1 and 0 < state["step"] < 5
    status, err, end = resumed(sr, state, "same")
    assert status == 0, err
    same_bits(end, whole)
    for piece in set(state) - {"flags"}:
        before = {name: value for name, value in state.items() if name != piece}
        status, err, end = resumed(sr, before, f"without_{piece}")
        assert status == 1, piece
        assert "state" in err, piece
        same_bits(end["state"], before)
    for piece, change in CHANGES.items():
        status, err, end = resumed(sr, {**state, piece: change(state[piece])}, f"changed_{piece}")
        assert status == (1 if piece in REFUSED else 0), err
        assert piece in REFUSED or not equal(end, whole), piece


def test_a_resumed_run_skips_the_steps_that_it_would_have_skipped(sr):
    """Resume between two epochs: the last mean loss still bounds --skip_threshold."""
    *_, whole = sr.train("--save", "whole", *FLAGS), end_of(sr, "whole")
    assert sr.train("--save", "parts", *FLAGS, "--epochs", 1)[0] == 0
    status, out, _ = sr("--load", "parts", "--epochs", 2, "--cpu")
    assert status == 0
    assert 0 < out.count("is skipped") < 5
    same_bits(end_of(sr, "parts"), whole)


def test_the_embedding_and_its_optimizer_are_resumed(sr):
    whole, state = stopped_and_whole(sr, PCL, 2 * 3 - 1)
    assert state["epoch"] == 1 and state["step"] == 1
    status, err, end = resumed(sr, state, "same")
    assert status == 0, err
    same_bits(end, whole)
    groups = {kind: [] for kind in ("convolution", "statistic", "optimizer")}
    for name, value in state["loss"].items():
        tensor = torch.is_tensor(value)
        if not tensor:
            groups["optimizer"].append(name)
        elif value.is_floating_point():
            groups["convolution" if value.dim() == 4 else "statistic"].append(name)
    for kind, names in groups.items():
        first = names[0]
        less = {name: value for name, value in state["loss"].items() if name != first}
        status, err, _ = resumed(sr, {**state, "loss": less}, f"without_{kind}")
        assert status == 1, kind
        assert "the embedding" in err or "damaged" in err, kind
        other = state["loss"] | {name: moved(state["loss"][name]) for name in names}
        status, err, end = resumed(sr, {**state, "loss": other}, f"changed_{kind}")
        assert status == 0, err
        assert not equal(end["weights"], whole["weights"]), kind


def test_the_scale_of_the_loss_is_resumed(sr, monkeypatch):
    """Switch on GradScaler, which only CUDA needs; its scale doubles every three steps."""
    made = torch.amp.GradScaler

    def switched_on(device="cpu", **_):
        return made("cpu", init_scale=1024.0, growth_interval=3, enabled=True)

    monkeypatch.setattr(torch.amp, "GradScaler", switched_on)
    flags = [word if word != 0.72 else 100 for word in FLAGS]
    whole, state = stopped_and_whole(sr, flags, 6)
    status, err, end = resumed(sr, state, "same")
    assert status == 0, err
    assert whole["state"]["scaler"]["scale"] > state["scaler"]["scale"] > 1024
    same_bits(end, whole)
    for name, scaler in {"empty": {}, "other": {**state["scaler"], "scale": 1.0}}.items():
        status, err, end = resumed(sr, {**state, "scaler": scaler}, name)
        assert status or not equal(end, whole), name


def test_the_average_begins_with_the_weights_when_a_run_had_none(sr):
    """--use_ema may be added when a run is resumed."""
    flags = [word for word in FLAGS if word != "--use_ema"]
    assert sr.train("--save", "run", *flags, "--epochs", 1)[0] == 0
    before = state_of(sr.folder("run"))["net"]
    flags = ["--epochs", 2, "--use_ema", "--ema_iter", 1000, "--cpu"]
    assert sr("--load", "run", *flags)[0] == 0
    same_bits(dict(state_of(sr.folder("run"))["ema"]), dict(before))
