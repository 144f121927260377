"""Every flag of the program. Other code calls `parse_args(argv)`.

Values win in this order: the command line, the experiment named by --load, the file of --pre_train
(in tests), the preset named by --template, the default. All problems that can be seen without
reading data are found here and reported in one message.
"""

import argparse
import os
import sys
from pathlib import Path

from checkpoint.config import ROOT, read_config
from demo.outputs import FORMATS
from flag_checks import InvalidValue, find_conflicts, parse_int_list, unknown_flags
from image_quality import parse_metrics
from loss import LOSSES
from model import NETWORKS
from model.inferred import flags_of_weights
from model.weights import read_weights
from optim import OPTIMIZERS
from runtime.files import UserError, bullet_list
from runtime.precision import PRECISIONS
from runtime.process import COMPILE_MODES
from template import TEMPLATES

N_HELD_OUT = 10  # images of a training set for tests, if no test set is given
CL_LOSSES = ("InfoNCE", "LMCL", "cosine", "l2", "l1")
SCHEDULERS = ("MileStone", "Cosine", "CosineRestart")
PATH_FLAGS = (
    "dir_experiment dir_data dir_cache dir_demo dir_out testpath vgg_path embed_load".split()
)


def value_type(convert, expected):
    """Return an argparse type that returns `InvalidValue` if `convert` raises ValueError."""

    def parse(text):
        try:
            return convert(text)
        except ValueError:
            return InvalidValue(f"{text!r} must be {expected}")

    return parse


def number(kind, low=None, above=None, high=None):
    """Return the argparse type of a number, limited to 32 bits by default."""
    high = high or (2**31 - 1 if kind is int else 1e30)

    def convert(text):
        value = kind(text)
        is_low = low is not None and not value >= low  # nan is low, too
        if is_low or (above is not None and not value > above) or not value <= high:
            raise ValueError
        return value

    noun = "a whole number" if kind is int else "a number"
    lower = f" of at least {low}" if low is not None else ""
    lower = f" above {above}" if above is not None else lower
    return value_type(convert, f"{noun}{lower} and at most {high:{',' if kind is int else 'g'}}")


def choice(names):
    names = list(names)

    def convert(text):
        if text not in names:
            raise ValueError
        return text

    parse = value_type(convert, f"one of {', '.join(names)}")
    parse.metavar = "{" + ",".join(names) + "}"
    return parse


def parse_bool(text):
    """Return the value of a switch such as --chop false; an `InvalidValue` for another word."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return values.get(text.lower(), InvalidValue(f"{text!r} must be true or false"))


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


def int_list(separator, low):
    def convert(text):
        if min(parse_int_list(text, separator)) < low:
            raise ValueError
        return text  # `parse_int_list` reads it later

    return value_type(convert, f"numbers of at least {low} joined by {separator}")


def _metric_names(text):
    parse_metrics(text)
    return text  # `parse_metrics` reads it later


def _odd_sizes(text):
    sizes = parse_int_list(text, "+")
    if min(sizes) < 1 or max(sizes) > 63 or not all(size % 2 for size in sizes):
        raise ValueError
    return sizes


positive_int = number(int, low=1)
layer_count = number(int, low=1, high=1000)  # far more than networks have, built in seconds
channel_count = number(int, low=1, high=8192)
non_negative_int = number(int, low=0)
positive = number(float, above=0)
non_negative = number(float, low=0)
metric_names = value_type(_metric_names, "names joined by ,")
set_names = value_type(_names, "names joined by +")
indices = int_list(",", 0)
scales = value_type(_scales, "scales joined by +")
odd_sizes = value_type(_odd_sizes, "odd numbers joined by +")


class FlagParser(argparse.ArgumentParser):
    """Raise UserError where argparse would end the program."""

    def error(self, message):
        raise UserError(message)


class DefaultsFormatter(argparse.HelpFormatter):
    """Append the default of a flag to its help, unless the help names one."""

    def _get_help_string(self, action):
        text = action.help or ""
        if action.default in (None, argparse.SUPPRESS) or "default" in text or not action.type:
            return text
        value = action.default
        if isinstance(value, list):
            value = (" " if isinstance(value[0], float) else "+").join(map(str, value))
        value = str(value).lower() if isinstance(value, bool) else value
        return f"{text} (default: {value})".replace("%", "%%")


class FlagGroup:
    """A group of flags of --help."""

    def __init__(self, parser, title):
        self.add = parser.add_argument_group(title).add_argument

    def flag(self, name, kind, default, text, **more):
        """Add a flag with a value."""
        more.setdefault("metavar", getattr(kind, "metavar", None))
        self.add(name, type=kind, default=default, help=text, **more)

    def switch(self, name, text, default=False):
        """Add a flag that is on without a value; --name false turns it off."""
        self.add(
            name, nargs="?", type=parse_bool, const=True, default=default, metavar="BOOL", help=text
        )


def _add_run_flags(parser):
    group = FlagGroup(parser, "run")
    flag, switch = group.flag, group.switch
    flag("--template", str, None, f"presets, joined by +: {', '.join(TEMPLATES)}")
    flag("--save", str, None,
         "name of the experiment, a folder of --dir_experiment (default: test)")  # fmt: skip
    flag("--load", str, None, "resume this experiment; flags given here override its own")
    flag("--resume", number(int, low=-1), None, "-1: latest state (default with --load), 0: none, "
         "N: that epoch")  # fmt: skip
    switch("--reset", "empty the folder of the experiment first")
    switch("--test_only", "test and stop")
    flag("--seed", number(int, low=0, high=2**32 - 1), 1, "seed of weights, patches, augmentation")
    switch("--cpu", "use the CPU, even if there is an accelerator")
    flag("--n_GPUs", layer_count, 1, "processes on this machine, one for each GPU (with --cpu: on "
         "the CPU); several machines: torchrun")  # fmt: skip
    flag("--n_threads", non_negative_int, 6, "data loader workers")
    flag("--precision", choice(PRECISIONS), "auto", "number format of networks; weights stay in "
         "single. half: float16 on CUDA. auto: the fastest for training, single for "
         "tests")  # fmt: skip
    switch("--tf32", "allow TF32 in single precision on CUDA")
    switch("--compile", "compile the network with torch.compile for training")
    flag("--compile_mode", choice(COMPILE_MODES), "default", "mode of torch.compile")
    flag("--dir_experiment", str, str(ROOT / "experiment"), "folder of the experiments")
    flag("--exp_name", str, None, "name of the run in the log")
    flag("--proj_name", str, None, "name of the project in the log")


def _add_data_flags(parser):
    group = FlagGroup(parser, "data")
    flag, switch = group.flag, group.switch
    flag("--dir_data", str, str(ROOT / "datasets"), "folder of the data sets")
    flag("--dir_cache", str, None, "folder of decoded training images (default: DIR_DATA/cache)")
    demo = "image, video, or folder of them, for --data_test Demo"
    flag("--dir_demo", str, str(ROOT / "test"), demo)
    flag("--testpath", str, None, "folder of the sets of --data_test MyImage")
    flag("--testset", str, None,
         "set of --data_test MyImage: images are in TESTPATH/TESTSET/xSCALE")  # fmt: skip
    flag("--data_train", set_names, ["DIV2K"], "training sets, joined by +")
    flag("--data_test", set_names, None, "test sets, joined by + (default: DIV2K; if other sets "
         "are used for training, --hold_out 10 of each)")  # fmt: skip
    flag("--hold_out", positive_int, None, "images at the end of each training set, except DIV2K, "
         "that are kept for tests of this set")  # fmt: skip
    flag("--max_pixels", positive_int, 178_956_970, "pixels above which an image file is refused")
    flag("--data_range", str, "1-800/801-810", "DIV2K images for training / for tests, by position")
    flag("--ext", choice(["sep", "sep_reset", "bin", "img"]), "sep", "sep (cached), sep_reset "
         "(rebuild the cache), bin (cache in RAM), img (decode each time)")  # fmt: skip
    flag("--scale", scales, [4], "scales, joined by +")
    flag("--patch_size", positive_int, 192, "side of a training patch, HR pixels")
    flag("--rgb_range", number(float, low=0.001, high=65535), 255.0, "maximum pixel value")
    flag("--n_colors", number(int, low=1), 3, "input channels: 3 (RGB) or 1 (Y)")
    switch("--no_augment", "no random flips and transposes")


def _add_network_flags(parser):
    group = FlagGroup(parser, "network")
    flag, switch = group.flag, group.switch
    flag("--model", choice(NETWORKS), "EDSR", "the SR network")
    flag("--pre_train", str, None, "file of weights to start from or to test; `download`: the "
         "published EDSR")  # fmt: skip
    flag("--n_resblocks", layer_count, 16, "residual blocks (of each group in RCAN and HAN)")
    flag("--n_resgroups", layer_count, 10, "residual groups (RCAN, HAN)")
    flag("--n_feats", channel_count, 64, "feature channels")
    flag("--res_scale", positive, 1.0, "factor of the residual branches (EDSR, NLSN)")
    flag("--reduction", positive_int, 16, "channel reduction of channel attention (RCAN, HAN)")
    flag("--nlsn_n_hashes", positive_int, 4, "hash rounds (NLSN); also --n_hashes")
    flag("--nlsn_chunk_size", positive_int, 144,
         "pixels of an attention chunk (NLSN); also --chunk_size")  # fmt: skip
    for alias, default in (("n_hashes", 4), ("chunk_size", 144)):
        parser.add_argument(f"--{alias}", dest=f"nlsn_{alias}", type=positive_int, default=default,
                            help=argparse.SUPPRESS)  # fmt: skip
    switch("--print_model", "print the layers of the network")


def _add_training_flags(parser):
    group = FlagGroup(parser, "training")
    flag, switch = group.flag, group.switch
    flag("--epochs", positive_int, 300, "number of epochs")
    flag("--test_every", positive_int, 1000, "training steps per epoch; a test follows each epoch")
    flag("--batch_size", positive_int, 16, "patches per training step, over all processes")
    flag("--split_batch", positive_int, 1,
         "parts of a batch that run one after the other, to save memory")  # fmt: skip
    flag("--optimizer", choice(OPTIMIZERS), "ADAM", "update rule of the weights")
    flag("--lr", positive, 1e-4, "learning rate at the start")
    flag("--warmup", non_negative_int, 0, "steps over which the learning rate rises from 0")
    flag("--momentum", non_negative, 0.9, "momentum (SGD)")
    flag("--betas", non_negative, [0.9, 0.999], "decay of both moments (ADAM, ADAMW)", nargs=2,
         metavar=("B1", "B2"))  # fmt: skip
    flag("--epsilon", positive, 1e-8, "added to the denominator (ADAM, ADAMW, RMSprop)")
    flag("--weight_decay", non_negative, 0.0, "L2 penalty of the weights; decoupled in ADAMW")
    flag("--gclip", non_negative, 0.0, "clip each gradient to [-GCLIP, GCLIP]; 0: no clipping")
    flag("--gclip_norm", non_negative, 0.0, "clip the norm of all gradients; 0: no clipping")
    flag("--scheduler", choice(SCHEDULERS), "MileStone", "schedule of the learning rate")
    flag("--decay", int_list("-", 1), "200", "MileStone: epochs, joined by -")
    flag("--gamma", positive, 0.5, "MileStone: factor of the learning rate at each milestone")
    flag("--cosine_tmax", positive_int, None, "epochs of a cosine cycle (default: --epochs, for "
         "CosineRestart a third of it; in the release of PCL-SR 150)")  # fmt: skip
    flag("--cosine_etamin", non_negative, 1e-7, "smallest learning rate of a cosine cycle")
    flag("--cosine_restart_weight", positive, 0.5, "CosineRestart: factor of cycles 2 and 3")
    switch("--use_ema", "test and save the exponential moving average (EMA) of the weights")
    flag("--ema_decay", number(float, low=0, high=1), 0.99, "decay of the EMA at an update")
    flag("--ema_iter", positive_int, 10, "steps between two updates of the EMA")
    flag("--skip_threshold", positive, 1e8, "do not update the SR network by a batch whose loss is "
         "above this many times the mean of the last epoch")  # fmt: skip


def _add_loss_flags(parser):
    flag = FlagGroup(parser, "loss").flag
    flag("--loss", str, "1*L1", f"WEIGHT*NAME joined by +. Names: {', '.join(LOSSES)}")
    flag("--vgg_path", str, None,
         "file vgg19-dcbb9e9d.pth (default: in torch.hub's folder, downloaded)")  # fmt: skip

    group = FlagGroup(parser, "adversarial and contrastive losses (PCL-SR)")
    flag, switch = group.flag, group.switch
    flag("--gan_k", non_negative_int, 1, "updates of the discriminator (the embedding) in a step; "
         "0: it stays fixed")  # fmt: skip
    flag("--embed_lr", positive, None, "learning rate of the embedding (default: --lr)")
    flag("--embed_scheduler", choice(["same", "constant"]), "constant", "schedule "
         "of the embedding's learning rate: that of the SR network without --warmup, or constant "
         "(as in the release)")  # fmt: skip
    flag("--embed_load", str, None,
         "weights of the embedding: a state_dict, or state.pt of an experiment")  # fmt: skip
    switch("--no_ad_loss", "leave out the adversarial term of the generator")
    switch("--contras_D_train", "train the embedding with the generated samples, too")
    switch("--use_wavelet", "the embedding sees Haar high frequencies")
    flag("--cl_layer", indices, "0,2,4,6", "blocks of the embedding whose features are compared, "
         "0 to 7, joined by ,")  # fmt: skip
    switch("--before_relu", "features before the activation")
    flag("--cl_loss_type", choice(CL_LOSSES), "cosine", "contrastive loss of CL-NAME")
    flag("--cl_temperature", positive, 1.0, "divides similarities in InfoNCE and LMCL")
    switch("--layer_weight", "halve the weight from layer to layer of --cl_layer (cosine, l1, l2)")


def _add_sample_flags(parser):
    group = FlagGroup(parser, "positives and negatives of the contrastive losses")
    flag, switch = group.flag, group.switch
    switch("--use_aug", "add generated positives (--sharp_hr, --use_noise_pos) and negatives "
           "(--random_neg, --blur_sr)")  # fmt: skip
    flag("--mcl_neg", non_negative_int, 3, "extra positives and extra negatives per image")
    flag("--mcl_pos", non_negative_int, None, "extra positives per image (default: --mcl_neg)")
    switch("--sharp_hr", "sharpened HR as positives")
    flag("--sharp_value", non_negative, 0.5, "smallest factor of sharpening; below 1 smooths")
    flag("--sharp_range", non_negative, 5.0, "width of the range of sharpening factors")
    switch("--random_neg", "degraded HR as negatives: blur, downsampling, noise, JPEG, upsampling")
    switch("--only_blur", "degraded negatives: only blur")
    switch("--blur_sr", "blurred SR as negatives, --mcl_neg of them")
    flag("--blur_sizes", odd_sizes, [3, 5, 7, 9, 11],
         "sizes of blur kernels, pixels")  # fmt: skip
    flag("--blur_sigma", positive, [0.1, 2.0], "standard deviation of blur kernels, "
         "pixels (range)", nargs=2, metavar=("LOW", "HIGH"))  # fmt: skip
    switch("--neg_sr", "upsample degraded negatives with the SR network")
    switch("--use_noise_pos", "noisy HR as positives, --mcl_pos of them")
    flag("--pos_noise_value", non_negative, 2.0, "standard deviation of the noise of "
         "--use_noise_pos, 8-bit steps")  # fmt: skip
    switch("--only_aug", "leave HR and LR themselves out of the contrastive loss")
    flag("--pos_id", indices, None, "indices of the positives to keep, joined by ,")
    flag("--neg_id", indices, None, "indices of the negatives to keep, joined by ,")
    switch("--shuffle_neg", "add the negatives of other images of the batch")
    flag("--shuffle_neg_num", positive_int, 1, "other images whose negatives are added")
    switch("--gpu_blur", "accepted for published scripts: samples are always made on the device")
    switch("--gpu_sharp", "accepted for published scripts: samples are always made on the device")


def _add_test_flags(parser):
    group = FlagGroup(parser, "test and output")
    flag, switch = group.flag, group.switch
    switch("--self_ensemble", "mean over the 8 flips and transposes")
    switch("--chop", "run test images in overlapping tiles; Demo and MyImage always do")
    # the preset that has set --chop: tests then use tiles only if whole images need too much memory
    parser.add_argument("--chop_from", help=argparse.SUPPRESS)
    flag("--chop_size", number(int, low=16), 192, "side of a tile, LR pixels")
    flag("--chop_overlap", non_negative_int, 48, "LR pixels that tiles share, below half a tile")
    flag("--metrics", metric_names, "psnr,ssim", "metrics of tests, joined by commas; psnr and "
         "ssim are always there; haar: energy of the Haar high frequencies, SR's over HR's; other "
         "names are passed to pyiqa (pip install pyiqa)")  # fmt: skip
    flag("--print_every", positive_int, 100, "steps between two lines of the training log")
    switch("--save_models", "keep the weights and the training state of every epoch")
    switch("--save_results", "save the SR images in the folder of the experiment")
    flag("--dir_out", str, None, "save the SR images of Demo and MyImage as DIR_OUT/NAME.png, and "
         "videos as DIR_OUT/NAME.mp4, instead; for one input also a file that ends in .png, .tif "
         "or .mp4")  # fmt: skip
    flag("--format", choice(FORMATS), None, "with --dir_out: format of pictures (default: png)")
    flag("--suffix", str, None, "with --dir_out: text after the name of each output, such as _x4")
    switch("--overwrite", "let --dir_out replace existing files")
    switch("--save_gt", "save the LR and HR images in the folder of the SR images")
    switch("--tensorboard", "curves and images for TensorBoard (pip install tensorboard)")


def build_parser():
    """Build the parser of all flags, in the groups of --help."""
    parser = FlagParser(
        prog="main.py",
        usage="main.py [--FLAG VALUE ...]",
        description="Train and test networks for single-image super-resolution.",
        allow_abbrev=False,
        formatter_class=DefaultsFormatter,
    )
    first = (_add_run_flags, _add_data_flags, _add_network_flags, _add_training_flags)
    for add in (*first, _add_loss_flags, _add_sample_flags, _add_test_flags):
        add(parser)
    return parser


def _choose_tests(args):
    """Set the default of --data_test: DIV2K, or the last images of other training sets."""
    if args.data_test is not None:
        return
    trained = args.data_train if isinstance(args.data_train, list) else []
    if args.test_only or not trained or {"DIV2K", "DF2K"} & set(trained):
        args.data_test = ["DIV2K"]
    else:
        args.data_test = list(trained)
        args.hold_out = args.hold_out or N_HELD_OUT


def _parse(parser, argv):
    args, unknown = parser.parse_known_args(argv)
    _choose_tests(args)
    problems = [*unknown_flags(unknown, parser), *find_conflicts(args)]
    if problems:
        raise UserError("bad flags:" + bullet_list(problems) if len(problems) > 1 else problems[0])
    return args


def _flags_of_file(path, parser):
    """Return the flags that a file of weights shows; {} if it cannot be read."""
    try:
        state = read_weights(path)
    except UserError:  # loading the weights reports it
        return {}

    def parse_config(config):
        return parser.parse_known_args(read_config(config))[0]

    return flags_of_weights(path, state, parse_config)


def _complete(args):
    """Derive values from others, and make paths absolute."""
    is_whole = args.rgb_range == int(args.rgb_range)
    args.rgb_range = int(args.rgb_range) if is_whole else args.rgb_range
    if args.resume is None:
        args.resume = -1 if args.load else 0
    args.save = args.load or args.save or "test"
    for name in PATH_FLAGS:
        if getattr(args, name) is not None:  # config.txt must hold in another working directory
            setattr(args, name, os.path.abspath(getattr(args, name)))


def parse_args(argv=None):
    """Parse the command line.

    Args:
        argv: the words of the command line without the program's name; None takes sys.argv.

    Returns:
        argparse.Namespace. `scale` is a list of int, `data_train` and `data_test` are lists of str,
        `betas` a list of two float, `save` the name of the experiment (also with --load), `resume`
        -1, 0 or an epoch. `from_file` is a dict of the flags that come from the file of
        --pre_train: for a test, those that the command line leaves out. `chop_from` names the
        preset that sets --chop, or is None.

    Raises:
        UserError: with all problems: unknown flags and names, bad values, flags that contradict.
    """
    parser = build_parser()
    argv = sys.argv[1:] if argv is None else list(argv)
    for word in argv:
        if word.startswith("--") and word.endswith("=--"):  # argparse would make an empty list
            raise UserError(f"{word} must have a value other than --")
    given = {word.split("=")[0] for word in argv}
    first, _ = parser.parse_known_args(argv)
    for name in (first.template or "").split("+"):
        parser.set_defaults(**TEMPLATES.get(name, {}))
        if TEMPLATES.get(name, {}).get("chop"):
            parser.set_defaults(chop_from=name)
    from_file = {}
    if first.test_only is True and not first.load and first.pre_train not in (None, "download"):
        from_file = _flags_of_file(first.pre_train, parser)
        from_file = {k: v for k, v in from_file.items() if f"--{k}" not in given}
        parser.set_defaults(**from_file)
    origin = ""
    if first.load:
        config = Path(first.dir_experiment, first.load, "config.txt")
        argv = read_config(config) + argv
        origin = f"\nflags that are not on the command line are from {config}"
    try:
        args = _parse(parser, argv)
    except UserError as error:
        raise UserError(f"{error}{origin}") from error
    args.from_file = from_file
    if "--chop" in given:
        args.chop_from = None
    _complete(args)
    return args
