"""Problems of the flags that are found before any data is read."""

import difflib
import pkgutil
import re
from pathlib import Path

from data.datasets import DATASETS, DEMO_SETS, dataset_spec, is_held_out, parse_ranges
from data.degradation import DEGRADATIONS, degradation_of
from loss import LOSSES, parse_loss
from loss.discriminator import N_LAYERS
from model import NETWORKS
from runtime.files import UserError
from template import TEMPLATES


class InvalidValue(str):
    """The problem of a value, kept so that all problems are reported together."""


def find_conflicts(args):
    """Yield every problem of the flags that can be found without data."""
    broken = set()  # flags whose value is invalid: conflicts with them are not looked for
    for name, value in vars(args).items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, InvalidValue):
                yield f"--{name} {part}"
            elif isinstance(part, str) and re.search(r"[\0-\x1f\x7f]", part):
                yield f"--{name} {part!r} must not contain control characters"  # in config.txt
            else:
                continue
            broken.add(name)
    for name in args.template.split("+") if args.template else ():
        if name not in TEMPLATES:
            yield f"--template {name!r} must be one of {', '.join(TEMPLATES)}"
    for check, text in ((parse_loss, args.loss), (parse_ranges, args.data_range)):
        try:
            check(text)
        except UserError as error:
            yield str(error)
    yield from _experiment_conflicts(args)
    yield from _teacher_conflicts(args)
    yield from _data_conflicts(args)
    yield from _number_conflicts(args, broken)


def _experiment_conflicts(args):
    if args.model in NETWORKS and args.model_options is not None:
        yield f"--model_options must be used with a network of spandrel, not with {args.model}"
    for flag in ("save", "load"):
        name = getattr(args, flag)
        path = Path(name or "test")
        is_outside = path.is_absolute() or ".." in path.parts or path.parts[:1] == ("model",)
        if name is not None and (is_outside or not re.sub(r"[./\\]", "", name)):
            yield f"--{flag} {name!r} must be a folder of {args.dir_experiment} other than model"
    if args.load and args.save and args.load != args.save:
        yield f"--save {args.save} must not be used with --load {args.load}: remove --save"
    if args.compile_mode != "default" and not args.compile:
        yield f"--compile_mode {args.compile_mode} must be used with --compile"
    if args.load and args.reset:
        yield "--load must not be used with --reset: one keeps the experiment, the other empties it"
    elif args.resume and args.reset:
        yield f"--resume {args.resume} must not be used with --reset"
    if args.pre_train and (args.resume or (args.load and args.resume is None)):
        yield "--pre_train must not be used with --load or --resume: both say which weights to use"


def _teacher_conflicts(args):
    uses = [f"--{name}" for name in ("teacher_blend", "pos_teacher") if getattr(args, name) is True]
    names = [name for name in re.split(r"[+*]", args.loss) if name in LOSSES]
    uses += [f"--loss {x}" for x in names if "teacher" in pkgutil.resolve_name(LOSSES[x]).inputs]
    if not args.teacher:
        yield from (f"{flag} must be used with --teacher FILE" for flag in uses)
    elif not uses:
        uses = "a loss like KD, --teacher_blend or --pos_teacher"
        yield f"--teacher must be used with {uses} (--teacher= drops it)"


def _data_conflicts(args):
    only_upscales = args.test_only and set(args.data_test) <= DEMO_SETS
    is_range = re.fullmatch(r"[\d-]+", args.data_range)
    if is_range and not args.test_only and "DIV2K" in args.data_test:
        yield f"--data_range {args.data_range} must have two ranges for training, TRAIN/TEST"
    scales = degradation_of(args.degradation).scales if args.degradation in DEGRADATIONS else ()
    if scales and not only_upscales and not set(args.scale) <= set(scales):
        defined = "+".join(map(str, scales))
        yield f"--degradation {args.degradation} must be used with --scale {defined}"
    if "MyImage" in args.data_test and not (args.testpath and args.testset):
        yield "--data_test MyImage must be used with --testpath and --testset"
    if args.dir_out and not only_upscales:
        sets = ", ".join(sorted(DEMO_SETS))
        yield f"--dir_out must be used with --test_only and sets without ground truth ({sets})"
    for name in ("format", "suffix"):
        if getattr(args, name) is not None and not args.dir_out:
            yield f"--{name} {getattr(args, name)} must be used with --dir_out"
    if args.suffix and re.search(r"[/\\]", args.suffix):
        yield f"--suffix {args.suffix} must not contain / or \\"
    for name in () if args.test_only else sorted(set(args.data_train) & DEMO_SETS):
        sets = ", ".join(DATASETS)
        yield f"--data_train {name} must have HR images: {sets}, or a folder of your own"


def _number_conflicts(args, broken):
    if "cl_layer" not in broken and max(map(int, args.cl_layer.split(","))) >= N_LAYERS:
        yield f"--cl_layer {args.cl_layer} must be blocks of the embedding, 0 to {N_LAYERS - 1}"
    if broken.isdisjoint({"chop_size", "chop_overlap"}) and args.chop_overlap >= args.chop_size / 2:
        size = f"--chop_size {args.chop_size}"
        yield f"--chop_overlap {args.chop_overlap} must be less than half of {size}"
    is_held_out_test = args.hold_out and args.test_only and not args.load
    if is_held_out_test and broken.isdisjoint({"hold_out", "data_train", "data_test"}):
        for name in sorted(set(args.data_test) - DEMO_SETS):
            spec = dataset_spec(name)
            fixed = spec.uses_data_range or spec.is_published_test()
            if not fixed and not is_held_out(args, name):
                flag = f"--hold_out {args.hold_out}"
                yield f"{flag} must be used with --data_train {name} to test {name}"
    if "betas" not in broken and max(args.betas) >= 1:
        yield f"--betas {max(args.betas)} must be below 1"
    if "blur_sigma" not in broken and args.blur_sigma[0] > args.blur_sigma[1]:
        yield f"--blur_sigma {args.blur_sigma[0]} must not be above {args.blur_sigma[1]}"
    n_copies = len(args.history_every.split(","))
    if broken.isdisjoint({"neg_history", "history_every"}) and args.neg_history > n_copies:
        flag = f"--neg_history {args.neg_history}"
        yield f"{flag} must be at most {n_copies}, the numbers of --history_every"
    if "n_colors" not in broken and args.n_colors not in (1, 3):
        yield f"--n_colors {args.n_colors} must be 1 or 3"
    if broken.isdisjoint({"patch_size", "scale"}) and args.patch_size < max(args.scale):
        yield f"--patch_size {args.patch_size} must be at least the scale {max(args.scale)}"
    if broken.isdisjoint({"split_batch", "batch_size"}) and args.split_batch > args.batch_size:
        yield f"--split_batch {args.split_batch} must be at most --batch_size {args.batch_size}"
    is_split = broken.isdisjoint({"split_batch", "compile_mode"}) and args.split_batch > 1
    if is_split and args.compile_mode != "default":
        # CUDA graphs keep the gradients of a part in memory that the next part overwrites
        yield f"--compile_mode {args.compile_mode} must not be used with --split_batch"
    is_cosine = args.scheduler.startswith("Cosine")
    if is_cosine and broken.isdisjoint({"lr", "cosine_etamin"}) and args.cosine_etamin > args.lr:
        yield f"--cosine_etamin {args.cosine_etamin} must be at most --lr {args.lr:g}"


# flags of other programs, and what they are here
OTHER_NAMES = {
    "learning_rate": "--lr",
    "epoch nEpochs num_epochs n_epochs max_epochs": "--epochs",
    "batchSize bs": "--batch_size",
    "upscale_factor sf": "--scale",
    "gpu_ids gpus num_gpu": "--n_GPUs",
    "workers num_workers": "--n_threads",
    "lr_decay decay_type step_size": "--decay 200-400-600, the epochs that halve the rate",
    "beta1 beta2": "--betas B1 B2",
    "n_train n_val offset_val offset_train": "--data_range 1-800/801-810",
    "wandb use_wandb wandb_project": "--tensorboard",
    "use_fft": "--use_wavelet",
    "cl_gan_cl_weight cl_weight": "the weight in --loss 1*L1+5*CL-patchD",
    "ema ema_rate": "--use_ema, --ema_decay",
}
OTHER_NAMES = {f"--{name}": here for names, here in OTHER_NAMES.items() for name in names.split()}


def unknown_flags(words, parser, other_names=OTHER_NAMES):
    """Yield a problem for each unknown word, with the flag that may be meant."""
    known = [name for action in parser._actions for name in action.option_strings]
    for word in words:
        name = word.split("=")[0]
        if not word.startswith("--"):
            yield f"{word!r} must follow a flag"
            continue
        close = [other_names[name]] if name in other_names else []
        close = close or difflib.get_close_matches(name, known, 1)
        yield f"unknown flag {word}" + (f" (did you mean {close[0]}?)" if close else "")
