"""The program: parse the flags, build, train or test. `src/main.py --help` lists the flags."""

from runtime.interpreter import use_project_packages
from runtime.threads import watch_cores

if __name__ == "__main__":
    use_project_packages()  # before imports that need them
    watch_cores()  # during these imports, which take seconds

import random
import sys
import time
from pathlib import Path

import numpy as np
import torch

from checkpoint import Checkpoint
from checkpoint.config import config_lines
from checkpoint.state import resume
from data import Data
from data.datasets import DEMO_SETS
from loss import Loss
from loss.frozen import Teacher
from model import build_network, choose_device, count_parameters
from model.loading import load_pre_train
from option import parse_args
from runtime import distributed, launcher, process
from runtime.files import UserError, print_error
from trainer import Trainer


def run(args, device):
    """Train or test in this process, as the flags say."""
    n_parts = distributed.world_size() * args.split_batch
    if args.batch_size < n_parts and not args.test_only:
        raise UserError(
            f"--batch_size {args.batch_size} must be at least processes x --split_batch, {n_parts}"
        )
    if args.compile and not args.test_only:
        process.require_compiler(device)
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = args.tf32
    is_upscaling = args.test_only and set(args.data_test) <= DEMO_SETS
    checkpoint = Checkpoint(args, is_upscaling)
    net = _build(args, device, checkpoint)
    loss = None if args.test_only else build_loss(args, net, device, checkpoint.log)
    data = Data(args, checkpoint.log)
    trainer = Trainer(args, net, loss, data, checkpoint, device)
    config = config_lines(args, process.provenance(device))
    if args.test_only:
        epoch = checkpoint.load_weights(net) if args.resume != 0 else 1
        checkpoint.create(config)
        trainer.test(epoch)
        return
    if args.resume != 0:
        resume(trainer)
    checkpoint.create(config)
    try:
        trainer.train()
    finally:
        data.close()


def _build(args, device, checkpoint):
    """Build the network, log what runs, and load --pre_train."""
    names = "/".join([name for name in (args.proj_name, args.exp_name) if name] + [args.save])
    n_ranks = distributed.world_size()
    ranks = f", {n_ranks} processes" if n_ranks > 1 else ""
    threads = process.set_threads(args.threads)
    checkpoint.log(f"{names} on {device.type}{ranks}, {threads}, torch {torch.__version__}")
    if device.type == "cpu" and not args.cpu and process.gpu_problem():
        checkpoint.log(f"No GPU is used: {process.gpu_problem()}")
    net = build_network(args).to(device)
    checkpoint.log(f"{args.model}: {count_parameters(net):,} parameters")
    if not count_parameters(net) and not args.test_only:
        raise UserError(f"--model {args.model} must be used with --test_only: it has no weights")
    if args.print_model:
        checkpoint.log(net)
    if args.pre_train and args.resume == 0:
        load_pre_train(args, net, checkpoint.log)
    elif args.test_only and args.resume == 0 and count_parameters(net):
        raise UserError("--test_only must have weights: give --pre_train FILE or --load EXPERIMENT")
    return net


def build_loss(args, net, device, log):
    """Build the losses, and the network of --teacher, which leaves the random state as it is."""
    if not args.teacher:
        return Loss(args, net, log).to(device)
    if not Path(args.teacher).is_file():
        raise UserError(f"--teacher {args.teacher} must be a file (no state holds its weights)")
    with torch.random.fork_rng(devices=[]):
        own = parse_args(["--test_only", "--pre_train", args.teacher])
        teacher = build_network(own).to(device)
    load_pre_train(own, teacher, log)
    pairs = [("scale", args.scale, own.scale), ("n_colors", [args.n_colors], [own.n_colors])]
    for flag, here, there in pairs:
        if not set(here) <= set(there):
            here, there = ("+".join(map(str, numbers)) for numbers in (here, there))
            raise UserError(f"--teacher {args.teacher} must have --{flag} {here}, not {there}")
    log(f"--teacher: {own.model}, {count_parameters(teacher):,} parameters")
    return Loss(args, net, log, Teacher(teacher, own.rgb_range, args.rgb_range)).to(device)


def _report(text):
    """Print to stderr. Ranks above 0 wait first: an error of rank 0 ends them before."""
    if not distributed.is_main_process():
        time.sleep(3)
        text = f"rank {distributed.rank()}: {text}"
    print_error(text)


def main(argv=None):
    """Run the program; return 0, 2 for bad flags, 1 for other errors, 128 + N after signal N."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # names of files may not fit the terminal's encoding
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        launcher.read_environment(argv)
        args = parse_args(argv)
        is_launcher = launcher.needs_launch(args.n_GPUs)
    except UserError as error:
        _report(f"error: {error}")
        return 2
    if is_launcher:
        return launcher.launch(argv, args.n_GPUs, args.save)
    process.disable_malloc_trim()
    return _run_and_report(args)


def _run_and_report(args):
    """Run, with a message for errors and signals; return the exit status."""
    continues = f"--load {args.save} continues from"
    try:
        device = choose_device(args.cpu)
        with process.raise_on_signals(), distributed.process_group(device):
            run(args, device)
        return 0
    except (UserError, OSError) as error:
        text, status = f"error: {error}", 1
    except (MemoryError, RuntimeError) as error:
        if not process.is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else "no memory is left"
        advice = "a smaller --batch_size, --patch_size or network, --split_batch or --chop help"
        text, status = f"error: out of memory: {advice}: {reason}", 1
    except process.Stopped as stopped:
        where = "" if args.test_only else " outside of the training"
        text = f"stopped: {continues} here" if stopped.is_saved else f"stopped by {stopped}{where}"
        status = 128 + stopped.signum
    except KeyboardInterrupt:
        hint = "" if args.test_only else f": {continues} the last saved state"
        text, status = f"interrupted{hint}", 130
    except distributed.RankFailedError as error:
        why = f"another process of the run has ended, or cannot be reached: {error}"
        text, status = f"error: {why}; {continues} the last saved state", 1
    _report(text)
    return status


if __name__ == "__main__":
    distributed.exit_process(main())
