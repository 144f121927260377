"""Every flag of the program. Other code calls `parse_args(argv)`.

Values win in this order: the command line, the experiment named by --load, the file of --pre_train,
the preset named by --template (in a training it wins over the file), the default. All problems that
can be seen without reading data are found here and reported in one message.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from checkpoint.config import ROOT, read_config, recorded_pre_train
from data.degradation import DEGRADATIONS
from demo.outputs import FORMATS
from flag_checks import InvalidValue, find_conflicts, unknown_flags
from loss import LOSSES
from model import NETWORKS, is_network
from model.inferred import flags_of_weights
from model.spandrel import PUBLISHED, complete_options
from model.weights import read_weights
from optim import OPTIMIZERS, SCHEDULES
from runtime.files import UserError, bullet_list
from runtime.precision import PRECISIONS
from runtime.process import COMPILE_MODES, VERSION
from template import TEMPLATES

N_HELD_OUT = 10  # images of a training set for tests, if no test set is given
CL_LOSSES = ("InfoNCE", "LMCL", "cosine", "l2", "l1")


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


def _network(text):
    if not is_network(text):
        raise ValueError
    return text


def _json_object(text):
    if not isinstance(json.loads(text), dict):
        raise ValueError
    return text


def choice(names):
    names = list(names)

    def convert(text):
        if text not in names:
            raise ValueError
        return text

    parse = value_type(convert, f"one of {', '.join(names)}")
    parse.metavar = "{" + ",".join(names) + "}"
    return parse


def joined(separator, kind, is_valid, expected, as_text=False):
    """Return the argparse type of a list; with `as_text`, the text is kept and parsed later."""

    def convert(text):
        parts = [kind(part) for part in text.split(separator)]
        if not is_valid(parts):
            raise ValueError
        return text if as_text else parts

    return value_type(convert, expected)


def int_list(separator, low):
    expected = f"numbers of at least {low} joined by {separator}"
    return joined(separator, int, lambda numbers: min(numbers) >= low, expected, as_text=True)


def _are_unique(parts):
    return len(set(parts)) == len(parts)


def parse_bool(text):
    """Return the value of a switch such as --chop false; an `InvalidValue` for another word."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return values.get(text.lower(), InvalidValue(f"{text!r} must be true or false"))


def path(text):
    """Return an absolute path: config.txt must hold in another working directory."""
    return text and os.path.abspath(
        os.path.expanduser(text)
    )  # shells expand no ~ in --flag=~/folder


def weights_file(text):
    is_name = text == "download" or "://" in text  # a URL is refused when it is read
    return text if is_name else path(text)


positive_int = number(int, low=1)
layer_count = number(int, low=1, high=1000)  # far more than networks have, built in seconds
channel_count = number(int, low=1, high=8192)
non_negative_int = number(int, low=0)
positive = number(float, above=0)
non_negative = number(float, low=0)
indices = int_list(",", 0)
metric_names = joined(",", str.strip, all, "names joined by ,", as_text=True)
set_names = joined("+", str, lambda x: all(x) and _are_unique(x), "names joined by +")
scales = joined("+", int, lambda x: min(x) >= 1 and _are_unique(x), "scales joined by +")
odd_sizes = joined("+", int, lambda x: set(x) <= set(range(1, 64, 2)), "odd numbers joined by +")
json_object = value_type(_json_object, "a JSON object")
network = value_type(
    _network, f"one of {', '.join((*NETWORKS, *PUBLISHED))} or a class of spandrel"
)


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

    def flag(self, name, kind, default, text, alias=(), **more):
        """Add a flag with a value; `alias` is another name of it."""
        more.setdefault("metavar", getattr(kind, "metavar", None))
        names = [name, alias] if alias else [name]
        self.add(*names, type=kind, default=default, help=text, **more)

    def switch(self, name, text):
        """Add a flag that is on without a value; --name false turns it off."""
        self.add(
            name, nargs="?", type=parse_bool, const=True, default=False, metavar="BOOL", help=text
        )


def _add_run_flags(parser):
    group = FlagGroup(parser, "run")
    flag, switch = group.flag, group.switch
    flag("--template", str, None, f"presets, joined by +: {', '.join(TEMPLATES)}")
    flag("--save", str, None, "name of the experiment, a folder of DIR_EXPERIMENT (default: test)")
    flag("--load", str, None, "resume this experiment; flags given here override its own")
    last = "-1: latest state (default with --load), 0: none, N: that epoch"
    flag("--resume", number(int, low=-1), None, last)
    switch("--reset", "empty the folder of the experiment first")
    switch("--test_only", "test and stop")
    flag("--seed", number(int, low=0, high=2**32 - 1), 1, "seed of weights, patches, augmentation")
    switch("--cpu", "use the CPU, even if there is an accelerator")
    processes = "processes on this machine: one per GPU, or on the CPU; several machines: torchrun"
    flag("--n_GPUs", layer_count, 1, processes)
    flag("--n_threads", non_negative_int, 6, "data loader workers")
    flag("--threads", positive_int, None, "threads of the CPU (default: the free cores)")
    formats = "number format of networks; half: float16 on CUDA; auto: the fastest, single in tests"
    flag("--precision", choice(PRECISIONS), "auto", formats)
    switch("--tf32", "allow TF32 in single precision on CUDA")
    switch("--compile", "compile the network with torch.compile for training")
    flag("--compile_mode", choice(COMPILE_MODES), "default", "mode of torch.compile")
    flag("--dir_experiment", path, str(ROOT / "experiment"), "folder of the experiments")
    flag("--exp_name", str, None, "name of the run in the log")
    flag("--proj_name", str, None, "name of the project in the log")


def _add_data_flags(parser):
    group = FlagGroup(parser, "data")
    flag, switch = group.flag, group.switch
    flag("--dir_data", path, str(ROOT / "datasets"), "folder of the data sets")
    flag("--dir_cache", path, None, "folder of decoded training images (default: DIR_DATA/cache)")
    demo = "image, video, or folder of them, for --data_test Demo"
    flag("--dir_demo", path, str(ROOT / "test"), demo)
    flag("--testpath", path, None, "folder of the sets of --data_test MyImage")
    flag("--testset", str, None, "set of --data_test MyImage: TESTPATH/TESTSET/xSCALE")
    flag("--data_train", set_names, ["DIV2K"], "training sets, joined by +")
    tests = "test sets, joined by + (default: DIV2K, or --hold_out 10 of other training sets)"
    flag("--data_test", set_names, None, tests)
    held_out = "images at the end of each training set, except DIV2K, kept for tests of this set"
    flag("--hold_out", positive_int, None, held_out)
    flag("--max_pixels", positive_int, 178_956_970, "pixels above which an image file is refused")
    flag("--data_range", str, "1-800/801-810", "DIV2K images for training / for tests, by position")
    how = "sep: cache; sep_reset: rebuild it; bin: cache in RAM; img: decode each time"
    flag("--ext", choice(["sep", "sep_reset", "bin", "img"]), "sep", how)
    flag("--scale", scales, [4], "scales, joined by +")
    how = "LR from HR: BI bicubic, BD blur, DN noise, real: blur, noise and JPEG, drawn per patch"
    flag("--degradation", choice(DEGRADATIONS), "BI", how)
    flag("--patch_size", positive_int, 192, "side of a training patch, HR pixels")
    flag("--rgb_range", number(float, low=0.001, high=65535), 255.0, "maximum pixel value")
    flag("--n_colors", number(int, low=1), 3, "input channels: 3 (RGB) or 1 (Y)")
    switch("--no_augment", "no random flips and transposes")


def _add_network_flags(parser):
    group = FlagGroup(parser, "network")
    flag, switch = group.flag, group.switch
    spandrel = f"of the package spandrel {', '.join(PUBLISHED)} and its other architectures"
    flag("--model", network, "EDSR", f"the SR network: {', '.join(NETWORKS)}; {spandrel}")
    options = "options of a network of spandrel that differ from the published ones, as JSON"
    flag("--model_options", json_object, None, options)
    weights = "file of weights to start from or to test; `download`: the published EDSR"
    flag("--pre_train", weights_file, None, weights)
    flag("--n_resblocks", layer_count, 16, "residual blocks (of each group in RCAN and HAN)")
    flag("--n_resgroups", layer_count, 10, "residual groups (RCAN, HAN)")
    flag("--n_feats", channel_count, 64, "feature channels")
    flag("--res_scale", positive, 1.0, "factor of the residual branches (EDSR, NLSN)")
    flag("--reduction", positive_int, 16, "channel reduction of channel attention (RCAN, HAN)")
    flag("--nlsn_n_hashes", positive_int, 4, "hash rounds (NLSN)", alias="--n_hashes")
    chunk = "pixels of an attention chunk (NLSN)"
    flag("--nlsn_chunk_size", positive_int, 144, chunk, alias="--chunk_size")
    switch("--print_model", "print the layers of the network")


def _add_training_flags(parser):
    group = FlagGroup(parser, "training")
    flag, switch = group.flag, group.switch
    flag("--epochs", positive_int, 300, "number of epochs")
    flag("--test_every", positive_int, 1000, "training steps per epoch; a test follows each epoch")
    flag("--batch_size", positive_int, 16, "patches per training step, over all processes")
    parts = "parts of a batch that run one after the other, to save memory"
    flag("--split_batch", positive_int, 1, parts)
    flag("--optimizer", choice(OPTIMIZERS), "ADAM", "update rule of the weights")
    flag("--lr", positive, 1e-4, "learning rate at the start")
    flag("--warmup", non_negative_int, 0, "steps over which the learning rate rises from 0")
    flag("--momentum", non_negative, 0.9, "momentum (SGD)")
    moments, pair = "decay of both moments (ADAM, ADAMW)", ("B1", "B2")
    flag("--betas", non_negative, [0.9, 0.999], moments, nargs=2, metavar=pair)
    flag("--epsilon", positive, 1e-8, "added to the denominator (ADAM, ADAMW, RMSprop)")
    flag("--weight_decay", non_negative, 0.0, "L2 penalty of the weights; decoupled in ADAMW")
    flag("--gclip", non_negative, 0.0, "clip each gradient to [-GCLIP, GCLIP]; 0: no clipping")
    flag("--gclip_norm", non_negative, 0.0, "clip the norm of all gradients; 0: no clipping")
    flag("--scheduler", choice(SCHEDULES), "MileStone", "schedule of the learning rate")
    flag("--decay", int_list("-", 1), "200", "MileStone: epochs, joined by -")
    flag("--gamma", positive, 0.5, "MileStone: factor of the learning rate at each milestone")
    cycle = "epochs of a cosine cycle (default: --epochs, for CosineRestart a third of it)"
    flag("--cosine_tmax", positive_int, None, cycle)
    flag("--cosine_etamin", non_negative, 1e-7, "smallest learning rate of a cosine cycle")
    flag("--cosine_restart_weight", positive, 0.5, "CosineRestart: factor of cycles 2 and 3")
    switch("--use_ema", "test and save the exponential moving average (EMA) of the weights")
    flag("--ema_decay", number(float, low=0, high=1), 0.99, "decay of the EMA at an update")
    flag("--ema_iter", positive_int, 10, "steps between two updates of the EMA")
    skip = "skip a batch whose loss is above this many times the mean of the last epoch"
    flag("--skip_threshold", positive, 1e8, skip)


def _add_loss_flags(parser):
    group = FlagGroup(parser, "loss")
    flag, switch = group.flag, group.switch
    flag("--loss", str, "1*L1", f"WEIGHT*NAME joined by +. Names: {', '.join(LOSSES)}")
    vgg = "file vgg19-dcbb9e9d.pth (default: in torch.hub's folder, downloaded)"
    flag("--vgg_path", path, None, vgg)
    flag("--teacher", path, None, "weights of a frozen network, for KD and the next two flags")
    switch("--teacher_blend", "the target moves from the teacher's SR to HR over the training")
    switch("--pos_teacher", "the teacher's SR is one more positive of the contrastive losses")

    group = FlagGroup(parser, "adversarial and contrastive losses (PCL-SR)")
    flag, switch = group.flag, group.switch
    updates = "updates of the discriminator (the embedding) in a step; 0: it stays fixed"
    flag("--gan_k", non_negative_int, 1, updates)
    flag("--embed_lr", positive, None, "learning rate of the embedding (default: --lr)")
    schedule = "same: that of the SR network without --warmup; constant: as in the release"
    flag("--embed_scheduler", choice(["same", "constant"]), "constant", schedule)
    embed = "weights of the embedding: a state_dict, or state.pt of an experiment"
    flag("--embed_load", path, None, embed)
    switch("--no_ad_loss", "leave out the adversarial term of the generator")
    switch("--contras_D_train", "train the embedding with the generated samples, too")
    switch("--use_wavelet", "the embedding sees Haar high frequencies")
    layers = "blocks of the embedding whose features are compared, 0 to 7, joined by ,"
    flag("--cl_layer", indices, "0,2,4,6", layers)
    switch("--before_relu", "features before the activation")
    flag("--cl_loss_type", choice(CL_LOSSES), "cosine", "contrastive loss of CL-NAME")
    flag("--cl_temperature", positive, 1.0, "divides similarities in InfoNCE and LMCL")
    switch("--layer_weight", "halve the weight from layer to layer of --cl_layer (cosine, l1, l2)")


def _add_sample_flags(parser):
    group = FlagGroup(parser, "positives and negatives of the contrastive losses")
    flag, switch = group.flag, group.switch
    switch("--use_aug", "add the positives and negatives that the following flags choose")
    flag("--mcl_neg", non_negative_int, 3, "extra positives and extra negatives per image")
    flag("--mcl_pos", non_negative_int, None, "extra positives per image (default: --mcl_neg)")
    switch("--sharp_hr", "sharpened HR as positives")
    flag("--sharp_value", non_negative, 0.5, "smallest factor of sharpening; below 1 smooths")
    flag("--sharp_range", non_negative, 5.0, "width of the range of sharpening factors")
    switch("--random_neg", "degraded HR as negatives: blur, downsampling, noise, JPEG, upsampling")
    switch("--only_blur", "degraded negatives: only blur")
    switch("--blur_sr", "blurred SR as negatives, --mcl_neg of them")
    flag("--blur_sizes", odd_sizes, [3, 5, 7, 9, 11], "sizes of blur kernels, pixels")
    sigmas, pair = "standard deviation of blur kernels, pixels (range)", ("LOW", "HIGH")
    flag("--blur_sigma", positive, [0.1, 2.0], sigmas, nargs=2, metavar=pair)
    switch("--neg_sr", "upsample degraded negatives with the SR network")
    switch("--use_noise_pos", "noisy HR as positives, --mcl_pos of them")
    flag("--pos_noise_value", non_negative, 2.0, "noise of --use_noise_pos, 8-bit steps")
    switch("--only_aug", "leave HR and LR themselves out of the contrastive loss")
    flag("--pos_id", indices, None, "indices of the positives to keep, joined by ,")
    flag("--neg_id", indices, None, "indices of the negatives to keep, joined by ,")
    switch("--shuffle_neg", "add the negatives of other images of the batch")
    flag("--shuffle_neg_num", positive_int, 1, "other images whose negatives are added")
    history = "copies of the SR network that lag behind, whose SR are negatives"
    flag("--neg_history", number(int, low=0, high=16), 0, history)
    every = "steps after which each copy takes over the weights, joined by ,"
    flag("--history_every", int_list(",", 1), "100,200,500,1000", every)
    keep = "part of its own weights that a copy then keeps"
    flag("--history_keep", number(float, low=0, high=1), 0.1, keep)
    for name in ("--gpu_blur", "--gpu_sharp"):
        switch(name, "accepted for published scripts: samples are always made on the device")


def _add_test_flags(parser):
    group = FlagGroup(parser, "test and output")
    flag, switch = group.flag, group.switch
    switch("--self_ensemble", "mean over the 8 flips and transposes")
    switch("--chop", "always test in overlapping tiles; otherwise if the memory is too small")
    flag("--chop_size", number(int, low=16), 192, "side of a tile, LR pixels")
    flag("--chop_overlap", non_negative_int, 48, "LR pixels that tiles share, below half a tile")
    metrics = "metrics beside PSNR and SSIM, joined by ,: haar (energy of the high frequencies, "
    metrics += "SR's over HR's), and those of the package pyiqa"
    flag("--metrics", metric_names, "psnr,ssim", metrics)
    flag("--print_every", positive_int, 100, "steps between two lines of the training log")
    switch("--save_models", "keep the weights and the training state of every epoch")
    switch("--save_results", "save the SR images in the folder of the experiment")
    out = "save SR of Demo and MyImage as DIR_OUT/NAME.png and .mp4 instead; one input: also a file"
    flag("--dir_out", path, None, out)
    flag("--format", choice(FORMATS), None, "with --dir_out: format of pictures (default: png)")
    flag("--suffix", str, None, "with --dir_out: text after the name of each output, such as _x4")
    switch("--overwrite", "let --dir_out replace existing files")
    switch("--save_gt", "save the LR and HR images in the folder of the SR images")
    switch("--tensorboard", "curves and images for TensorBoard (package tensorboard)")


def build_parser():
    """Build the parser of all flags, in the groups of --help."""
    parser = FlagParser(
        prog="main.py",
        usage="main.py [--FLAG VALUE ...]",
        description="Train and test networks for single-image super-resolution.",
        allow_abbrev=False,
        formatter_class=DefaultsFormatter,
    )
    parser.add_argument("--version", action="version", version=VERSION, help="print the version")
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


def _flags_of_file(first, parser, given):
    """Return the flags of the network in the file of --pre_train that may still be set."""
    # Those of the command line win and, in a training, those of a preset. {} if another network is
    # asked for, as with RCAN's weights for HAN, or the file cannot be read.
    try:
        state = read_weights(first.pre_train)
    except UserError:  # loading the weights reports it
        return {}

    def parse(argv):
        args = parser.parse_known_args(argv)[0]
        _complete(args)
        return args

    model = first.model if "--model" in given else parser.get_default("model")
    if not first.test_only:
        presets = (TEMPLATES.get(name, {}) for name in (first.template or "").split("+"))
        given = given.union(*({f"--{name}" for name in preset} for preset in presets))
    flags = flags_of_weights(first.pre_train, state, parse, read_config)
    if "--model" in given and flags.get("model") != model:
        return {}
    return {name: value for name, value in flags.items() if f"--{name}" not in given}


def _complete(args):
    """Derive values from others."""
    is_whole = args.rgb_range == int(args.rgb_range)
    args.rgb_range = int(args.rgb_range) if is_whole else args.rgb_range
    if args.model not in NETWORKS:
        args.model_options = complete_options(args.model, args.model_options)
    if args.resume is None:
        args.resume = -1 if args.load else 0
    args.save = args.load or args.save or "test"


def parse_args(argv=None):
    """Parse the command line.

    Args:
        argv: the words of the command line without the program's name; None takes sys.argv.

    Returns:
        argparse.Namespace. `scale` is a list of int, `data_train` and `data_test` are lists of str,
        `betas` a list of two float, `save` the name of the experiment (also with --load), `resume`
        -1, 0 or an epoch. `from_file` is a dict of the flags that come from the file of
        --pre_train.
    """
    parser = build_parser()
    argv = sys.argv[1:] if argv is None else list(argv)
    for word in argv:
        if word.startswith("--") and word.endswith("=--"):  # argparse would make an empty list
            raise UserError(f"{word} must have a value other than --")
    given = {word.split("=")[0] for word in argv}
    given |= {f"--{x.dest}" for x in parser._actions if given & set(x.option_strings)}  # aliases
    first, _ = parser.parse_known_args(argv)
    for name in (first.template or "").split("+"):
        parser.set_defaults(**TEMPLATES.get(name, {}))
    from_file = {}
    if not first.load and first.pre_train not in (None, "download"):
        from_file = _flags_of_file(first, parser, given)
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
    if first.load and first.pre_train is None:
        args.pre_train = recorded_pre_train(config)
    _complete(args)
    return args
