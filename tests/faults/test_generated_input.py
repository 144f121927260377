"""Bad input that is generated: whatever it is, main() ends with a sentence that names it, and leaves nothing half-written.

`scripts/test.sh --slow tests/faults/test_generated_input.py` tries 500 examples of each kind.
"""

import os
import shutil

import imageio.v3 as iio
import pytest
import torch
from broken_checkpoints import checkpoints
from broken_images import images, sources
from generated import Tally, contents, for_all, fresh, half_written, little_memory
from hypothesis import strategies as st
from strategies import UNPRINTABLE, damage, damages, do, flags, layouts

import main
from checkpoint.config import config_lines
from model.edsr import EDSR
from option import parse_args

NEVER_USED = {"cut", "bits", "zip", "code", "not finite", "sparse", "quantized", "meta", "expanded"}
BICUBIC = ["--model", "Bicubic", "--test_only", "--scale", 2, "--cpu"]
ONE_STEP = "--epochs 2 --test_every 1 --batch_size 1 --patch_size 8 --n_threads 0".split()
ONE_STEP += ["--print_every", 1]
TRAIN = [*"--scale 2 --data_train Mine --n_feats 8 --n_resblocks 1 --cpu".split(), *ONE_STEP]
TRAIN += ["--epochs", 1]


def examples(few):
    """Few examples in the default suite, 500 with --slow."""
    return pytest.mark.parametrize("examples", [few, pytest.param(500, marks=pytest.mark.slow)])


def names_of(argv):
    """The flags of a command line, and its words as Python writes them."""
    return [*(w.split("=")[0].strip("-") for w in argv if w.startswith("-")), *map(repr, argv)]


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, image)


@examples(50)
def test_flags(sr, tmp_path, monkeypatch, examples, counted):
    """Whatever the flags are, they are refused by name, or parsed, and --load reads back the same from config.txt."""
    tally, seen = Tally("flags, parsed", counted), []
    monkeypatch.setattr(main, "run", lambda args, device: seen.append(args))
    monkeypatch.setattr(main.process, "disable_malloc_trim", lambda: None)
    config = sr.folder("kept") / "config.txt"
    config.parent.mkdir(parents=True)

    def check(argv):
        seen.clear()
        tally.run(lambda: sr(*argv), names_of(argv), [])
        for args in seen:
            config.write_bytes("\n".join(config_lines(args)).encode("utf-8", "surrogateescape"))
            where = ["--dir_experiment", str(sr.experiments), "--load", "kept"]
            again = parse_args(where)
            assert list(config_lines(again)) == list(config_lines(args))

    for_all(tally, flags(most=3, wild=3), check, examples * 2, UNPRINTABLE)


@examples(8)
def test_flags_of_whole_runs(sr, tmp_path, examples, counted):
    """Flags go through the whole program; the sizes of what is run are held small by flags at the end."""
    tally = Tally("flags, whole runs", counted)
    small = "--n_feats 8 --n_resblocks 1 --n_resgroups 1 --gan_k 1 --mcl_neg 1".split()
    small += ONE_STEP
    small += "--shuffle_neg_num 1 --epochs 1 --n_GPUs 1 --cpu --nlsn_n_hashes 1 --dir_out".split()
    small += ["", *"--reduction 2 --reset --data_range 1-3/4-4 --dir_cache".split()]
    small += [tmp_path / "cache", "--dir_demo", sr.data / "Mine/HR"]
    small += ["--dir_experiment", sr.experiments]

    def check(case):
        argv, train = case
        first = [*(["--scale", 2] if train else BICUBIC), "--data_test", "Set5"]
        # a file or a set is named without its flag
        parts = [part or "''" for word in argv for part in word.rpartition("=")[2].split("+")]
        names = [*names_of(argv), *parts, "the loss is"]
        with fresh(sr.experiments), little_memory():
            program = lambda: sr(*first, *argv, *small)  # noqa: E731
            tally.run(program, names, [sr.experiments, tmp_path / "cache"])

    for_all(tally, st.tuples(flags(most=2, wild=1), st.booleans()), check, examples)


@examples(30)
def test_images(sr, photographs, tmp_path, examples, counted):
    """A broken or unusual image among those of training, of a test, or among pictures to upscale."""
    tally = Tally("images", counted)
    good = photographs["coffee"][:36, :40]
    made = sources(good)

    def check(case):
        (ending, content), where, ext = case
        with (
            fresh(tmp_path / "data") as data,
            fresh(sr.experiments),
            fresh(tmp_path / "out") as out,
            little_memory(),
        ):
            for name in ("Mine", "Probe"):
                for stem in ("a", "b"):
                    write(data / f"{name}/HR/{stem}.png", good)
                    write(data / f"{name}/LR_bicubic/X2/{stem}.png", good[::2, ::2])
            folder = data / where
            (folder / "b.png").unlink()
            (folder / f"b{ending}").write_bytes(content)
            names = [folder / f"b{ending}", "sizes do not match"]
            if where.startswith("Probe/HR") and ext != "bin":
                argv = [*BICUBIC, "--data_test", "Demo", "--dir_demo", folder, "--dir_out", out]
            elif where.startswith("Probe"):
                argv = [*BICUBIC, "--data_test", "Probe"]
            else:
                argv = [*TRAIN, "--data_test", "Probe", "--ext", ext]
            written = [data / "cache", sr.experiments, out]
            status, _, err = tally.run(lambda: sr(*argv, data=data), names, written)
            assert "memory" not in err, "gigabytes were asked for"
            if status and "--test_only" not in argv and ext != "img":
                assert not list(sr.experiments.iterdir()), "something was written"

    kinds = ("HR", "HR", "LR_bicubic/X2")
    folders = st.sampled_from([f"{name}/{kind}" for name in ("Mine", "Probe") for kind in kinds])
    cases = st.tuples(images(made), folders, st.sampled_from(["sep", "img", "bin"]))
    for_all(tally, cases, check, examples)


@examples(20)
def test_folders(sr, photographs, tmp_path, examples, counted):
    """Deeds on the folders of a set: files missing, left over, of another scale, links, folders in place of files."""
    tally = Tally("folders", counted)
    good = photographs["coffee"][:24, :28]

    def check(case):
        deeds, train, demo = case
        with (
            fresh(tmp_path / "data") as data,
            fresh(sr.experiments),
            fresh(tmp_path / "out") as out,
        ):
            for stem in ("a", "b"):
                write(data / f"Mine/HR/{stem}.png", good)
                write(data / f"Mine/LR_bicubic/X2/{stem}x2.png", good[::2, ::2])
            for deed in deeds:
                do(data / "Mine", *deed)
            argv = [*BICUBIC, "--data_test", "Mine"]
            if demo:
                argv = [*BICUBIC, "--data_test", "Demo", "--dir_demo", data / "Mine/HR"]
                argv += ["--dir_out", out]
            elif train:
                argv = [*TRAIN, "--data_test", "Set5"]
                os.symlink(sr.data / "benchmark", data / "benchmark")
            written = [data / "cache", sr.experiments, out]
            tally.run(lambda: sr(*argv, data=data), [data / "Mine"], written)

    for_all(tally, st.tuples(layouts(), st.booleans(), st.booleans()), check, examples)


@pytest.fixture
def trained(sr):
    """The folder of a small experiment of one epoch."""
    status, _, err = sr.train("--save", "run", "--data_train", "Mine", *ONE_STEP, "--epochs", 1)
    assert status == 0, err
    return sr.folder("run")


def judge(kind, name, status, err):
    """What a checkpoint of a kind must end in: some are never used, and a tensor that is not finite is named."""
    assert status == 1 or kind not in NEVER_USED, (kind, status)
    assert kind != "not finite" or name in err, err


@examples(30)
def test_checkpoints(sr, tmp_path, examples, counted):
    """Weights of --pre_train, for a test and for training."""
    tally, path, marker = (
        Tally("checkpoints", counted),
        tmp_path / "given.pt",
        tmp_path / "code_ran",
    )
    good = EDSR(scale=2, n_resblocks=1, n_feats=8).state_dict()
    argv = [*TRAIN, "--data_test", "Set5", "--pre_train", path]

    def check(case):
        (kind, content, name), train = case
        path.write_bytes(content)
        more = [] if train else ["--test_only"]
        with fresh(sr.experiments), little_memory():
            status, _, err = tally.run(lambda: sr(*argv, *more), [path.name], [sr.experiments])
            assert not status or not list(sr.experiments.iterdir()), "something was written"
        assert not marker.exists(), "code of the checkpoint ran"
        judge(kind, name, status, err)

    for_all(tally, st.tuples(checkpoints(dict(good), marker), st.booleans()), check, examples)


@pytest.mark.parametrize(
    ("file", "flags"),
    [("state.pt", []), ("model_latest.pt", ["--test_only", "--data_test", "Set5"])],
)
@examples(15)
def test_files_of_an_experiment(sr, trained, tmp_path, examples, counted, file, flags):
    """The training state of a run that is gone on with, or the weights of one that is tested."""
    tally, marker = Tally(file, counted), tmp_path / "code_ran"
    good = torch.load(trained / "model" / file, weights_only=True)

    def check(case):
        kind, content, name = case
        with fresh(sr.folder("copy")) as folder, little_memory():
            shutil.copytree(trained, folder, dirs_exist_ok=True)
            (folder / "model" / file).write_bytes(content)
            before = contents(folder)
            argv = ["--load", "copy", *ONE_STEP, "--cpu", *flags]
            status, _, err = tally.run(lambda: sr(*argv), [file], [])
            assert not status or contents(folder) == before, "a refused run has changed it"
            assert status or not half_written(folder)
        assert not marker.exists(), "code of the file ran"
        judge(kind, name, status, err)

    for_all(tally, checkpoints(dict(good), marker), check, examples)


@examples(15)
def test_experiments(sr, trained, examples, counted):
    """A folder of an experiment with damaged files: gone on with, or tested."""
    tally = Tally("damaged experiments", counted)

    def check(case):
        deeds, test_only = case
        with fresh(sr.folder("copy")) as folder:
            shutil.copytree(trained, folder, dirs_exist_ok=True)
            for deed in deeds:
                damage(folder, *deed)
            before = contents(folder)
            names = [folder, *(name for name, *_ in deeds)]
            resume = ["--load", "copy", *ONE_STEP, "--cpu", *(["--test_only"] if test_only else [])]
            status, *_ = tally.run(lambda: sr(*resume), names, [])
            # found when the file is to be written
            late = any(kind == "folder" for _, kind, *_ in deeds)
            assert not status or late or contents(folder) == before, "a refused run has changed it"
            assert not list(folder.rglob("*.part"))

    for_all(tally, st.tuples(damages(), st.booleans()), check, examples)
