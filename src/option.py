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
from data.datasets import expand_names
from data.degradation import DEGRADATIONS
from demo import FORMATS
from flag_checks import InvalidValue, find_conflicts, unknown_flags
from loss import LOSSES
from model import NETWORKS, is_network
from model.loading import flags_of_weights
from model.spandrel import PUBLISHED, complete_options, how_to_install
from model.weights import read_weights
from optim import OPTIMIZERS, SCHEDULES
from runtime.files import UserError, bullet_list
from runtime.precision import PRECISIONS
from runtime.process import VERSION
from template import TEMPLATES

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
CL_LOSSES = ("InfoNCE", "LMCL", "cosine", "l2", "l1")


def value_type(convert, is_valid, expected):
    """Return an argparse type: the converted text if it is valid, else an `InvalidValue`."""

    def parse(text):
        try:
            value = convert(text)
            fits = is_valid(value)
        except ValueError:
            fits = False
        return value if fits else InvalidValue(f"{text!r} must be {expected}")

    return parse


def number(kind, low=None, above=None, high=None):
    """Return the argparse type of a number, limited to 32 bits by default."""
    high = high or (2**31 - 1 if kind is int else 1e30)

    def is_valid(value):  # false for nan
        return (low is None or value >= low) and (above is None or value > above) and value <= high

    noun = "a whole number" if kind is int else "a number"
    lower = f" above {above}" if above is not None else ""
    lower = f" of at least {low}" if low is not None else lower
    top = f"{high:,}" if kind is int else f"{high:g}"
    return value_type(kind, is_valid, f"{noun}{lower} and at most {top}")


def choice(names):
    parse = value_type(str, names.__contains__, f"one of {', '.join(names)}")
    parse.metavar = "{" + ",".join(names) + "}"
    return parse


def list_of(kind, is_valid, expected):
    return value_type(lambda text: [kind(part) for part in text.split("+")], is_valid, expected)


def int_list(separator, low):
    """Return the argparse type of a list of numbers that stays a text."""
    expected = f"numbers of at least {low} joined by {separator}"
    return value_type(str, lambda x: min(map(int, x.split(separator))) >= low, expected)


def path(text):
    """Return an absolute path: config.txt must hold in another working directory."""
    text = os.path.expanduser(text)  # shells expand no ~ in --flag=~/folder
    return text and os.path.abspath(text)


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
metric_names = value_type(str, lambda x: all(map(str.strip, x.split(","))), "names joined by ,")
set_names = list_of(str, lambda x: all(x) and len(set(x)) == len(x), "names joined by +")
scales = list_of(int, lambda x: min(x) >= 1 and len(set(x)) == len(x), "scales joined by +")
odd_sizes = list_of(int, lambda x: set(x) <= set(range(1, 64, 2)), "odd numbers joined by +")
json_object = value_type(str, lambda x: isinstance(json.loads(x), dict), "a JSON object")
known_networks = f"one of {', '.join((*NETWORKS, *PUBLISHED))} or a class of spandrel"
known_networks += how_to_install()
network = value_type(str, is_network, known_networks)
BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
boolean = value_type(lambda x: BOOLS.get(x.lower()), lambda x: x is not None, "true or false")


class FlagParser(argparse.ArgumentParser):
    """A parser with groups of flags that raises UserError where argparse would end the program."""

    def error(self, message):
        raise UserError(message)

    def group(self, title):
        """Start a group of --help, which the next flags belong to."""
        self.add = self.add_argument_group(title).add_argument

    def flag(self, names, kind, default, text, **more):
        """Add a flag with a value; `names` are its name and its aliases."""
        more.setdefault("metavar", getattr(kind, "metavar", None))
        self.add(*names.split(), type=kind, default=default, help=text, **more)

    def switch(self, name, text):
        """Add a flag that is on without a value; --name false turns it off."""
        value = {"nargs": "?", "type": boolean, "const": True, "metavar": "BOOL"}
        self.add(name, default=False, help=text, **value)


class DefaultsFormatter(argparse.HelpFormatter):
    """Append the default of a flag to its help, unless the help names one."""

    def _get_help_string(self, action):
        text, value = action.help or "", action.default
        if value in (None, argparse.SUPPRESS) or "default" in text or not action.type:
            return text
        if isinstance(value, list):
            value = (" " if isinstance(value[0], float) else "+").join(map(str, value))
        value = str(value).lower() if isinstance(value, bool) else value
        return f"{text} (default: {value})".replace("%", "%%")


def build_parser():
    """Build the parser of all flags, in the groups of --help."""
    about = "Train and test networks for single-image super-resolution."
    names = {"prog": "main.py", "usage": "main.py [--FLAG VALUE ...]", "description": about}
    parser = FlagParser(**names, allow_abbrev=False, formatter_class=DefaultsFormatter)
    parser.add_argument("--version", action="version", version=VERSION, help="print the version")
    group, flag, switch = parser.group, parser.flag, parser.switch

    group("run")
    flag("--template", str, None, f"presets, joined by +: {', '.join(TEMPLATES)}")
    flag("--save", str, None, "name of the experiment, a folder of DIR_EXPERIMENT (default: test)")
    flag("--load", str, None, "resume this experiment; flags given here override its own")
    which = "-1: latest (default with --load), 0: none, N: epoch N"
    flag("--resume", number(int, low=-1), None, which)
    switch("--reset", "empty the folder of the experiment first")
    switch("--test_only", "test and stop")
    flag("--seed", number(int, low=0, high=2**32 - 1), 1, "seed of weights, patches, augmentation")
    switch("--cpu", "use the CPU, even if there is an accelerator")
    processes = "processes on this machine: one per GPU, or on the CPU; several machines: torchrun"
    flag("--n_GPUs", layer_count, 1, processes)
    flag("--n_threads", non_negative_int, 6, "data loader workers")
    n_threads = "threads of the CPU (default: the free cores)"
    flag("--threads", number(int, low=1, high=1024), None, n_threads)
    formats = "number format of networks; half: float16 on CUDA; auto: the fastest, single in tests"
    flag("--precision", choice(PRECISIONS), "auto", formats)
    switch("--tf32", "allow TF32 in single precision on CUDA")
    switch("--compile", "compile the network with torch.compile for training")
    flag("--compile_mode", choice(COMPILE_MODES), "default", "mode of torch.compile")
    flag("--dir_experiment", path, str(ROOT / "experiment"), "folder of the experiments")
    flag("--exp_name", str, None, "name of the run in the log")
    flag("--proj_name", str, None, "name of the project in the log")

    group("data")
    flag("--dir_data", path, str(ROOT / "datasets"), "folder of the data sets")
    flag("--dir_cache", path, None, "folder of decoded training images (default: DIR_DATA/cache)")
    flag("--dir_demo", path, str(ROOT / "test"), "image, video, or folder of them, for Demo")
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

    group("network")
    spandrel = f"of the package spandrel {', '.join(PUBLISHED)} and its other architectures"
    flag("--model", network, "EDSR", f"the SR network: {', '.join(NETWORKS)}; {spandrel}")
    flag("--model_options", json_object, None, "options of a network of spandrel, as JSON")
    weights = "file of weights to start from or to test; `download`: the published EDSR"
    flag("--pre_train", weights_file, None, weights)
    flag("--n_resblocks", layer_count, 16, "residual blocks (of each group in RCAN and HAN)")
    flag("--n_resgroups", layer_count, 10, "residual groups (RCAN, HAN)")
    flag("--n_feats", channel_count, 64, "feature channels")
    flag("--res_scale", positive, 1.0, "factor of the residual branches (EDSR, NLSN)")
    flag("--reduction", positive_int, 16, "channel reduction of channel attention (RCAN, HAN)")
    flag("--nlsn_n_hashes --n_hashes", positive_int, 4, "hash rounds (NLSN)")
    flag("--nlsn_chunk_size --chunk_size", positive_int, 144, "pixels of a chunk (NLSN)")
    switch("--print_model", "print the layers of the network")

    group("training")
    flag("--epochs", positive_int, 300, "number of epochs")
    flag("--test_every", positive_int, 1000, "training steps per epoch; a test follows each epoch")
    flag("--batch_size", positive_int, 16, "patches per training step, over all processes")
    flag("--split_batch", positive_int, 1, "parts of a batch, run in turn to save memory")
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

    group("loss")
    flag("--loss", str, "1*L1", f"WEIGHT*NAME joined by +. Names: {', '.join(LOSSES)}")
    flag("--vgg_path", path, None, "vgg19-dcbb9e9d.pth (default: torch.hub's, downloaded)")
    flag("--teacher", path, None, "weights of a frozen network, for KD and the next two flags")
    switch("--teacher_blend", "the target moves from the teacher's SR to HR over the training")
    switch("--pos_teacher", "the teacher's SR is one more positive of the contrastive losses")

    group("adversarial and contrastive losses (PCL-SR)")
    flag("--gan_k", non_negative_int, 1, "updates of the embedding per step; 0: it stays fixed")
    flag("--embed_lr", positive, None, "learning rate of the embedding (default: --lr)")
    schedule = "same: that of the SR network without --warmup; constant: as in the release"
    flag("--embed_scheduler", choice(["same", "constant"]), "constant", schedule)
    flag("--embed_load", path, None, "weights of the embedding, or state.pt of an experiment")
    switch("--no_ad_loss", "leave out the adversarial term of the generator")
    switch("--contras_D_train", "train the embedding with the generated samples, too")
    switch("--use_wavelet", "the embedding sees Haar high frequencies")
    flag("--cl_layer", indices, "0,2,4,6", "compared blocks of the embedding, 0-7, joined by ,")
    switch("--before_relu", "features before the activation")
    flag("--cl_loss_type", choice(CL_LOSSES), "cosine", "contrastive loss of CL-NAME")
    flag("--cl_temperature", positive, 1.0, "divides similarities in InfoNCE and LMCL")
    switch("--layer_weight", "halve the weight from layer to layer of --cl_layer (cosine, l1, l2)")

    group("positives and negatives of the contrastive losses")
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
    kept = "part of its weights that a copy keeps"
    flag("--history_keep", number(float, low=0, high=1), 0.1, kept)
    for name in ("--gpu_blur", "--gpu_sharp"):
        switch(name, "accepted for published scripts: samples are always made on the device")

    group("test and output")
    switch("--self_ensemble", "mean over the 8 flips and transposes")
    switch("--chop", "always test in overlapping tiles; otherwise if the memory is too small")
    flag("--chop_size", number(int, low=16), 192, "side of a tile, LR pixels")
    flag("--chop_overlap", non_negative_int, 48, "LR pixels that tiles share, below half a tile")
    metrics = "metrics, joined by ,: haar (SR's high-frequency energy over HR's), pyiqa's names"
    flag("--metrics", metric_names, "psnr,ssim", metrics)
    flag("--print_every", positive_int, 100, "steps between two lines of the training log")
    switch("--save_models", "keep the weights and the training state of every epoch")
    switch("--save_results", "save the SR images in the folder of the experiment")
    out = "save SR of Demo and MyImage as DIR_OUT/NAME.png and .mp4 instead; one input: also a file"
    flag("--dir_out", path, None, out)
    flag("--format", choice(FORMATS), None, "with --dir_out: format of pictures (default: png)")
    flag("--suffix", str, None, "with --dir_out: text after the name of each output, such as _x4")
    switch("--overwrite", "let --dir_out replace existing files")
    switch("--save_gt", "with --save_results, save LR and HR images, too")
    switch("--tensorboard", "curves and images for TensorBoard (package tensorboard)")
    return parser


def _choose_tests(args):
    """Set --data_test: DF2K as its parts; by default DIV2K, or 10 images of other training sets."""
    trained = args.data_train if isinstance(args.data_train, list) else []
    if isinstance(args.data_test, list):
        args.data_test = expand_names(args.dir_data, args.data_test)
    elif args.data_test is None:
        is_own = trained and not args.test_only and {"DIV2K", "DF2K"}.isdisjoint(trained)
        args.data_test = list(trained) if is_own else ["DIV2K"]
        args.hold_out = args.hold_out or (10 if is_own else None)


def _flags_of_file(first, parser, given):
    """Return the flags of the network in the file of --pre_train, except those that are given."""
    try:
        state = read_weights(first.pre_train)
    except UserError:  # loading the weights reports it
        return {}
    flags = flags_of_weights(
        first.pre_train,
        state,
        lambda argv: _complete(parser.parse_known_args(argv)[0]),
        read_config,
    )
    model = first.model.removesuffix("-light")
    if "--model" in given and flags.get("model", "").removesuffix("-light") != model:
        return {}  # another network is asked for, as with RCAN's weights for HAN
    return {name: value for name, value in flags.items() if f"--{name}" not in given}


def _complete(args):
    """Derive values from others; return `args`."""
    is_whole = args.rgb_range == int(args.rgb_range)
    args.rgb_range = int(args.rgb_range) if is_whole else args.rgb_range
    if args.model not in NETWORKS:
        args.model_options = complete_options(args.model, args.model_options)
    if args.resume is None:
        args.resume = -1 if args.load else 0
    args.save = args.load or args.save or "test"
    return args


def parse_args(argv=None):
    """Parse the words of a command line, by default sys.argv; return an argparse.Namespace.

    `scale` is a list of int, `data_train` and `data_test` are lists of str, `betas` a list of two
    float, `save` the name of the experiment (also with --load), `resume` -1, 0 or an epoch.
    `from_file` is a dict of the flags that come from the file of --pre_train.
    """
    parser = build_parser()
    argv = sys.argv[1:] if argv is None else list(argv)
    for word in argv:
        if word.startswith("--") and word.endswith("=--"):  # argparse would make an empty list
            raise UserError(f"{word} must have a value other than --")
    given = {word.split("=")[0] for word in argv}
    given |= {f"--{x.dest}" for x in parser._actions if given & set(x.option_strings)}  # aliases
    first, _ = parser.parse_known_args(argv)
    templates = "" if first.load else first.template or ""
    preset = " ".join(TEMPLATES.get(name, "") for name in templates.split("+")).split()
    values = vars(parser.parse_args(preset))
    parser.set_defaults(**{name: values[name] for name in values if f"--{name}" in preset})
    first, _ = parser.parse_known_args(argv)
    if not first.test_only:  # in a training, presets win over the file
        given.update(preset)
    from_file = {}
    if not first.load and first.pre_train not in (None, "download"):
        from_file = _flags_of_file(first, parser, given)
        parser.set_defaults(**from_file)
    origin = ""
    if first.load:
        config = Path(first.dir_experiment, first.load, "config.txt")
        argv = read_config(config) + argv
        origin = f"\nflags that are not on the command line are from {config}"
    args, unknown = parser.parse_known_args(argv)
    _choose_tests(args)
    problems = [*unknown_flags(unknown, parser), *find_conflicts(args)]
    if problems:
        listed = "bad flags:" + bullet_list(problems) if len(problems) > 1 else problems[0]
        raise UserError(listed + origin)
    args.from_file = from_file
    if first.load and first.pre_train is None:
        args.pre_train = recorded_pre_train(config)
    return _complete(args)
