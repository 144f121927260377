"""Every flag of the program. `parse_args(argv)` is all that other code calls.

Values win in this order: the command line, the experiment named by --load, the preset named by --template, the default.
All problems that can be seen without touching data are found here and reported in one message.
"""

import argparse
import difflib
import os
import re
import sys
from pathlib import Path

from checkpoint.config import read_config
from data.datasets import DATASETS, DEMO_SETS, parse_ranges
from demo.outputs import FORMATS
from loss import LOSSES, parse_loss
from loss.discriminator import N_LAYERS
from model import NETWORKS
from model.inferred import flags_of_weights
from model.weights import read_weights
from runtime.errors import UserError, bullet_list
from runtime.precision import PRECISIONS
from template import TEMPLATES

CL_LOSSES = ("InfoNCE", "LMCL", "cosine", "l2", "l1")
ROOT = Path(__file__).resolve().parent.parent


class _Bad(str):
    """A value that its flag cannot take, kept so that all bad values are reported together."""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(message)


def _checked(convert, expected):
    """Make an argparse type that gives `_Bad(message)` where `convert` raises ValueError."""

    def parse(text):
        try:
            return convert(text)
        except ValueError:
            return _Bad(f"{text!r} is not {expected}")

    return parse


def _number(kind, low=None, above=None, high=None):
    """Make the type of a number; without `high` it is held to what 32 bits take, in which networks compute."""
    high = high or (2**31 - 1 if kind is int else 1e30)

    def convert(text):
        value = kind(text)
        if (
            not (low is None or value >= low)
            or not (above is None or value > above)
            or not value <= high
        ):
            raise ValueError
        return value

    noun = "a whole number" if kind is int else "a number"
    bound = (
        f" of at least {low}" if low is not None else f" above {above}" if above is not None else ""
    )
    return _checked(
        convert,
        f"{noun}{bound} and at most {high:,}"
        if kind is int
        else f"{noun}{bound} and at most {high:g}",
    )


def _choice(names):
    names = list(names)

    def convert(text):
        if text not in names:
            raise ValueError
        return text

    return _checked(convert, f"one of {', '.join(names)}")


def _truth(text):
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
        text.lower()
    ]


def _switch_value(text):
    try:
        return _truth(text)
    except KeyError:
        return _Bad(f"{text!r} is not true or false")


def _scales(text):
    scales = [int(part) for part in text.split("+")]
    if min(scales) < 1 or len(set(scales)) != len(scales):
        raise ValueError
    return scales


def _names(text):
    names = text.split("+")
    if not all(names) or len(set(names)) != len(names):
        raise ValueError
    return names


def _integers(separator, low):
    def convert(text):
        values = [int(part) for part in text.split(separator)]
        if min(values) < low:
            raise ValueError
        return text  # kept as written; `integers` reads it

    return convert


def integers(text, separator):
    """Read a list such as '200-400' or '2,4' as whole numbers."""
    return [int(part) for part in text.split(separator)]


COUNT = _number(int, low=1)
DEPTH = _number(int, low=1, high=1000)  # far beyond any network that trains, and built in seconds
WIDTH = _number(int, low=1, high=8192)
WHOLE = _number(int, low=0)
POSITIVE = _number(float, above=0)
NOT_NEGATIVE = _number(float, low=0)


def build_parser():
    """Build the parser of all flags, grouped as they are shown by --help."""
    parser = _Parser(
        prog="main.py",
        description="Train and test networks for single-image super-resolution.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def group(title):
        add = parser.add_argument_group(title).add_argument

        def flag(name, kind, default, text, **more):
            add(name, type=kind, default=default, help=text, **more)

        def switch(name, text, default=False):
            add(
                name,
                nargs="?",
                type=_switch_value,
                const=True,
                default=default,
                metavar="true|false",
                help=text,
            )

        return flag, switch

    flag, switch = group("run")
    flag("--template", str, None, f"presets, joined by +: {', '.join(TEMPLATES)}")
    flag("--save", str, None, "name of the experiment, a folder under experiment/ (default: test)")
    flag("--load", str, None, "go on with this experiment, with its flags where none is given")
    flag(
        "--resume",
        _number(int, low=-1),
        None,
        "-1: latest state, 0: none, N: that epoch (default: -1 with --load)",
    )
    switch("--reset", "empty the folder of the experiment first")
    switch("--test_only", "test and stop")
    flag(
        "--seed", _number(int, low=0, high=2**32 - 1), 1, "seed of weights, patches and augmentation"
    )
    switch("--cpu", "use the CPU even where an accelerator is at hand")
    flag(
        "--n_GPUs",
        DEPTH,
        1,
        "processes on this machine, one a GPU (with --cpu: on the CPU); several machines: torchrun",
    )
    flag("--n_threads", WHOLE, 6, "worker processes that load data")
    flag("--precision", _choice(PRECISIONS), "auto", "format that networks compute in; weights stay in single precision. "
         "half: float16 on CUDA; auto: the fastest here for training, single for tests")  # fmt: skip
    switch("--tf32", "compute single precision by TF32 on CUDA", default=True)
    switch("--compile", "compile the network by torch.compile for training")
    flag("--dir_experiment", str, str(ROOT / "experiment"), "folder of the experiments")
    flag("--exp_name", str, None, "name of the run in the log")
    flag("--proj_name", str, None, "name of the project in the log")

    flag, switch = group("data")
    flag("--dir_data", str, str(ROOT / "datasets"), "folder of the data sets")
    flag("--dir_cache", str, None, "folder of decoded training images (default: DIR_DATA/cache)")
    flag(
        "--dir_demo",
        str,
        str(ROOT / "test"),
        "picture, video, or folder of them, for --data_test Demo",
    )
    flag("--testpath", str, None, "folder of the sets of --data_test MyImage")
    flag(
        "--testset",
        str,
        None,
        "name of the set of --data_test MyImage: images are in TESTPATH/TESTSET/xSCALE",
    )
    flag(
        "--data_train", _checked(_names, "names joined by +"), ["DIV2K"], "training sets, joined by +"
    )
    flag("--data_test", _checked(_names, "names joined by +"), ["DIV2K"], "test sets, joined by +")
    flag("--data_range", str, "1-800/801-810", "DIV2K images to train on / to test on, by position")
    flag("--ext", _choice(["sep", "sep_reset", "bin", "img"]), "sep", "training images from: sep, the cache of decoded "
         "images; sep_reset, the same made anew; bin, the cache held in memory; img, the files")  # fmt: skip
    flag("--scale", _checked(_scales, "scales joined by +"), [4], "scales, joined by +")
    flag("--patch_size", COUNT, 192, "side of an HR training patch, pixels")
    flag("--rgb_range", _number(float, low=0.001, high=65535), 255.0, "value of white")
    flag("--n_colors", _number(int, low=1), 3, "3: RGB, 1: luma (Y of BT.601)")
    switch("--no_augment", "no random flips and transposes")

    flag, switch = group("network")
    flag("--model", _choice(NETWORKS), "EDSR", "network")
    flag(
        "--pre_train",
        str,
        None,
        "weights to start from: a file, or `download` for the published EDSR",
    )
    flag("--n_resblocks", DEPTH, 16, "residual blocks (of a group, for RCAN and HAN)")
    flag("--n_resgroups", DEPTH, 10, "residual groups (RCAN, HAN)")
    flag("--n_feats", WIDTH, 64, "feature channels")
    flag("--res_scale", POSITIVE, 1.0, "factor of a residual branch (EDSR, NLSN)")
    flag("--reduction", COUNT, 16, "channel reduction of channel attention (RCAN, HAN)")
    flag("--nlsn_n_hashes", COUNT, 4, "hash rounds (NLSN); also --n_hashes")
    parser.add_argument(
        "--n_hashes", dest="nlsn_n_hashes", type=COUNT, default=4, help=argparse.SUPPRESS
    )
    flag("--nlsn_chunk_size", COUNT, 144, "pixels in a chunk of attention (NLSN); also --chunk_size")
    parser.add_argument(
        "--chunk_size", dest="nlsn_chunk_size", type=COUNT, default=144, help=argparse.SUPPRESS
    )
    switch("--print_model", "print the network")

    flag, switch = group("training")
    flag("--epochs", COUNT, 300, "epochs")
    flag("--test_every", COUNT, 1000, "iterations of an epoch")
    flag("--batch_size", COUNT, 16, "patches of a step")
    flag("--split_batch", COUNT, 1, "split a batch into this many parts to save memory")
    flag("--optimizer", _choice(["SGD", "ADAM", "RMSprop"]), "ADAM", "optimizer")
    flag("--lr", POSITIVE, 1e-4, "learning rate")
    flag("--momentum", NOT_NEGATIVE, 0.9, "momentum (SGD)")
    flag("--betas", NOT_NEGATIVE, [0.9, 0.999], "betas (ADAM)", nargs=2)
    flag("--epsilon", POSITIVE, 1e-8, "epsilon (ADAM, RMSprop)")
    flag("--weight_decay", NOT_NEGATIVE, 0.0, "weight decay")
    flag("--gclip", NOT_NEGATIVE, 0.0, "clip each gradient to [-GCLIP, GCLIP]; 0: no clipping")
    flag(
        "--scheduler",
        _choice(["MileStone", "Cosine", "CosineRestart"]),
        "MileStone",
        "schedule of the learning rate",
    )
    flag(
        "--decay",
        _checked(_integers("-", 1), "epochs joined by -"),
        "200",
        "MileStone: epochs, joined by -",
    )
    flag("--gamma", POSITIVE, 0.5, "MileStone: factor of the learning rate at each of them")
    flag(
        "--cosine_tmax",
        COUNT,
        None,
        "epochs of a cosine cycle (default: all epochs; CosineRestart: a third)",
    )
    flag("--cosine_etamin", NOT_NEGATIVE, 0.0, "smallest learning rate of a cosine cycle")
    flag(
        "--cosine_restart_weight",
        POSITIVE,
        1.0,
        "CosineRestart: factor of the learning rate of cycles 2 and 3",
    )
    switch("--use_ema", "test and keep the exponential moving average of the weights (decay 0.99)")
    flag("--ema_iter", COUNT, 1, "steps between two updates of the average")
    flag(
        "--skip_threshold",
        POSITIVE,
        1e8,
        "skip a batch whose loss is above this many times the last epoch's mean",
    )

    flag, switch = group("loss")
    flag("--loss", str, "1*L1", f"WEIGHT*NAME joined by +. Names: {', '.join(LOSSES)}")

    flag, switch = group("adversarial and contrastive losses (PCL-SR)")
    flag("--gan_k", COUNT, 1, "updates of the discriminator (the embedding) a step")
    flag(
        "--embed_lr", POSITIVE, None, "learning rate of the embedding (default: --lr); same schedule"
    )
    switch("--no_ad_loss", "leave out the adversarial term of the generator")
    switch("--contras_D_train", "train the embedding on the positives and negatives, too")
    switch("--use_wavelet", "the embedding sees the Haar high frequencies")
    flag("--cl_layer", _checked(_integers(",", 0), "numbers from 0 joined by ,"), "4", "blocks of the embedding whose "
         "features are compared, 0 to 7, joined by ,")  # fmt: skip
    switch("--before_relu", "features before the activation")
    flag("--cl_loss_type", _choice(CL_LOSSES), "InfoNCE", "contrastive loss")
    switch("--layer_weight", "divide layer k by 2^k")
    switch(
        "--use_aug",
        "add --mcl_neg sharpened positives (--sharp_hr) and degraded negatives (--random_neg)",
    )
    flag("--mcl_neg", WHOLE, 3, "samples added on each side")
    switch("--sharp_hr", "sharpened HR as positives")
    flag("--sharp_value", NOT_NEGATIVE, 0.5, "smallest factor of sharpening")
    flag("--sharp_range", NOT_NEGATIVE, 2.5, "width of the range of factors")
    switch("--random_neg", "degraded HR as negatives: blur, downsampling, noise, JPEG, upsampling")
    switch("--only_blur", "degrade by blur alone")
    switch("--neg_sr", "upsample degraded negatives by the network itself")
    switch("--use_noise_pos", "noisy HR as a positive")
    flag("--pos_noise_value", NOT_NEGATIVE, 5.0, "standard deviation of that noise, 8-bit steps")
    switch("--only_aug", "leave out HR and LR themselves")
    flag(
        "--pos_id",
        _checked(_integers(",", 0), "numbers from 0 joined by ,"),
        None,
        "positives to keep, joined by ,",
    )
    flag(
        "--neg_id",
        _checked(_integers(",", 0), "numbers from 0 joined by ,"),
        None,
        "negatives to keep, joined by ,",
    )
    switch("--shuffle_neg", "HR of other images of the batch as negatives")
    flag("--shuffle_neg_num", COUNT, 1, "how many of them")
    switch("--gpu_blur", "accepted for published scripts: samples are always made on the device")
    switch("--gpu_sharp", "accepted for published scripts: samples are always made on the device")
    flag("--vgg_path", str, None, "file vgg19-dcbb9e9d.pth (default: torch.hub's folder, downloaded)")

    flag, switch = group("test and output")
    switch("--self_ensemble", "mean over the 8 flips and transposes")
    switch("--chop", "run large images in overlapping tiles; Demo and MyImage always do")
    flag("--chop_size", _number(int, low=16), 192, "side of a tile, LR pixels")
    flag(
        "--chop_overlap", WHOLE, 48, "LR pixels that neighbouring tiles share, less than half a tile"
    )
    flag("--print_every", COUNT, 100, "steps between two lines of the training log")
    switch("--save_models", "keep the weights and the training state of every epoch")
    switch("--save_results", "save the SR images in the folder of the experiment")
    flag("--dir_out", str, None, "save the SR images of Demo and MyImage as DIR_OUT/NAME.png, and videos as DIR_OUT/NAME.mp4, "
         "instead; DIR_OUT may also be a file that ends in .png, .tif or .mp4, for one input")  # fmt: skip
    switch("--overwrite", "let --dir_out replace files that are there")
    flag("--format", _choice(FORMATS), None, "with --dir_out: format of pictures (default: png)")
    flag("--suffix", str, None, "with --dir_out: text after the name of each output, such as _x4")
    flag("--max_pixels", COUNT, 200_000_000, "Demo and MyImage: largest picture, LR pixels")
    switch("--save_gt", "save the LR and HR images beside them")
    switch(
        "--tensorboard",
        "curves and pictures of a training run for TensorBoard (pip install tensorboard)",
    )
    return parser


def _bad_values(args):
    for name, value in vars(args).items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, _Bad):
                yield f"--{name}: {part}"
            elif isinstance(part, str) and re.search(r"[\0-\x1f\x7f\ud800-\udfff]", part):
                # such a name cannot be a file's, or not be written into config.txt and the log
                yield f"--{name}: {part!r} holds a control character, or bytes that are no text in UTF-8"


def _problems(args):
    """Give every problem that the flags show by themselves."""
    bad = list(_bad_values(args))
    yield from bad
    broken = {line.split(":")[0] for line in bad}
    for name in args.template.split("+") if args.template else ():
        if name not in TEMPLATES:
            yield f"--template: {name!r} is not one of {', '.join(TEMPLATES)}"
    try:
        parse_loss(args.loss)
    except UserError as error:
        yield str(error)
    try:
        ranges = parse_ranges(args.data_range)
        if len(ranges) == 1 and not args.test_only and "DIV2K" in args.data_test:
            yield f"--data_range {args.data_range}: training needs two ranges, TRAIN/TEST"
    except UserError as error:
        yield str(error)
    for flag in ("save", "load"):
        name = getattr(args, flag)
        if name is not None and (
            not re.sub(r"[./\\]", "", name) or Path(name).is_absolute() or ".." in Path(name).parts
        ):
            yield f"--{flag} {name!r}: must be the name of a folder under {args.dir_experiment}"
    if args.load and args.save and args.load != args.save:
        yield f"--load {args.load} goes on in that folder: drop --save {args.save}"
    if args.load and args.reset:
        yield "--load and --reset exclude each other: one keeps the experiment, the other empties it"
    if args.resume is not None and not args.load and args.reset and args.resume != 0:
        yield f"--resume {args.resume} and --reset exclude each other"
    if "MyImage" in args.data_test and not (args.testpath and args.testset):
        yield "--data_test MyImage needs --testpath and --testset"
    if args.dir_out and not (args.test_only and set(args.data_test) <= DEMO_SETS):
        yield f"--dir_out: is for --test_only of sets without ground truth ({', '.join(sorted(DEMO_SETS))})"
    for flag in ("format", "suffix"):
        if getattr(args, flag) is not None and not args.dir_out:
            yield f"--{flag} needs --dir_out"
    if args.suffix and re.search(r"[/\\]", args.suffix):
        yield f"--suffix {args.suffix} must not contain / or \\"
    if not args.test_only:
        for name in set(args.data_train) & DEMO_SETS:
            yield f"--data_train {name}: has no HR images to train on (sets: {', '.join(DATASETS)} or a folder of yours)"
    if "--cl_layer" not in broken and max(integers(args.cl_layer, ",")) >= N_LAYERS:
        yield f"--cl_layer {args.cl_layer}: the embedding has the blocks 0 to {N_LAYERS - 1}"
    if not broken & {"--chop_size", "--chop_overlap"} and args.chop_overlap >= args.chop_size / 2:
        yield f"--chop_overlap {args.chop_overlap}: is not less than half of --chop_size {args.chop_size}"
    if "--betas" not in broken and max(args.betas) >= 1:
        yield f"--betas: {max(args.betas)} is not below 1"
    if args.pre_train and (args.resume or (args.load and args.resume is None)):
        yield "--pre_train and --resume (or --load) exclude each other: both say where the weights come from"
    if args.n_colors not in (1, 3):
        yield f"--n_colors: {args.n_colors} is not 1 or 3"
    if not broken & {"--patch_size", "--scale"} and args.patch_size < max(args.scale):
        yield f"--patch_size {args.patch_size}: is smaller than the scale {max(args.scale)}"
    if (
        "--split_batch" not in broken
        and "--batch_size" not in broken
        and args.split_batch > args.batch_size
    ):
        yield f"--split_batch {args.split_batch}: is larger than --batch_size {args.batch_size}"


def _unknown(words, parser):
    known = [name for action in parser._actions for name in action.option_strings]
    for word in words:
        if word.startswith("--"):
            close = difflib.get_close_matches(word.split("=")[0], known, 1)
            yield f"unknown flag {word}" + (f" (did you mean {close[0]}?)" if close else "")
        else:
            yield f"{word!r} belongs to no flag"


def _parse(parser, argv):
    args, unknown = parser.parse_known_args(argv)
    problems = [*_unknown(unknown, parser), *_problems(args)]
    if problems:
        raise UserError("bad flags:" + bullet_list(problems) if len(problems) > 1 else problems[0])
    return args


def _flags_of_file(path, parser):
    """Return the flags that a file of weights shows; {} if it cannot be read."""
    try:
        state = read_weights(path)
    except UserError:  # loading the weights reports it
        return {}
    return flags_of_weights(
        path, state, lambda config: parser.parse_known_args(read_config(config))[0]
    )


def parse_args(argv=None):
    """Parse the command line.

    Args:
        argv: the words of the command line without the program's name; None takes sys.argv.

    Returns:
        argparse.Namespace. `scale` is a list of int, `data_train` and `data_test` are lists of str, `betas` a list of two
        float, `save` the name of the experiment (also with --load), `resume` -1, 0 or an epoch. `from_file` is a dict of
        the flags that come from the file of --pre_train: for a test, those that the command line leaves out.

    Raises:
        UserError: with all problems found: unknown flags, unknown names, bad values, flags that exclude each other.
    """
    parser = build_parser()
    argv = sys.argv[1:] if argv is None else list(argv)
    for word in argv:
        if word.startswith("--") and word.endswith(
            "=--"
        ):  # of which argparse would make an empty list
            raise UserError(f"{word}: -- is no value")
    first, _ = parser.parse_known_args(argv)
    for name in (first.template or "").split("+"):
        parser.set_defaults(**TEMPLATES.get(name, {}))
    from_file = {}
    if first.test_only is True and not first.load and first.pre_train not in (None, "download"):
        given = {word.split("=")[0] for word in argv}
        from_file = _flags_of_file(first.pre_train, parser)
        from_file = {k: v for k, v in from_file.items() if f"--{k}" not in given}
        parser.set_defaults(**from_file)
    if first.load:
        config = Path(first.dir_experiment, first.load, "config.txt")
        argv = read_config(config) + argv
    try:
        args = _parse(parser, argv)
    except UserError as error:
        raise UserError(
            f"{error}\nflags that are not on the command line are from {config}"
            if first.load
            else error
        ) from error
    args.from_file = from_file
    args.rgb_range = (
        int(args.rgb_range) if args.rgb_range == int(args.rgb_range) else args.rgb_range
    )
    if args.resume is None:
        args.resume = -1 if args.load else 0
    args.save = args.load or args.save or "test"
    for name in (
        "dir_experiment",
        "dir_data",
        "dir_cache",
        "dir_demo",
        "dir_out",
        "testpath",
        "vgg_path",
    ):
        if (
            getattr(args, name) is not None
        ):  # config.txt must hold for a later run from another folder too
            setattr(args, name, os.path.realpath(getattr(args, name)))
    return args
