"""The driver: parse the flags, build, train or test. `python src/main.py --help` lists the flags."""

import random
import sys
import time

import numpy as np
import torch

from checkpoint import Checkpoint
from checkpoint.config import config_lines
from data import Data
from loss import Loss
from model import build_network, choose_device, count_parameters
from model.inference import OutOfMemoryError
from model.weights import load_pre_train
from option import parse_args
from runtime import distributed
from runtime.errors import UserError
from runtime.memory import disable_malloc_trim
from runtime.precision import allow_tf32
from runtime.signals import Stopped
from trainer import Trainer


def run(args, device):
    """Train or test as the flags say, in this process.

    Raises:
        UserError: bad input; the experiment folder is as it was before, or holds the last good state.
        Stopped: SIGINT or SIGTERM came while training; the state is saved.
    """
    least = distributed.world_size() * args.split_batch
    if args.batch_size < least and not args.test_only:
        raise UserError(
            f"--batch_size {args.batch_size}: is less than processes x --split_batch, {least}"
        )
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    allow_tf32(args.tf32)
    checkpoint = Checkpoint(args)
    names = [name for name in (args.proj_name, args.exp_name) if name]
    several = f", {distributed.world_size()} processes" if distributed.world_size() > 1 else ""
    checkpoint.log(
        f"{'/'.join([*names, args.save])} on {device.type}{several}, torch {torch.__version__}"
    )
    net = build_network(args).to(device)
    checkpoint.log(f"{args.model}: {count_parameters(net):,} parameters")
    if not count_parameters(net) and not args.test_only:
        raise UserError(f"--model {args.model}: has nothing to train; give --test_only")
    if args.print_model:
        checkpoint.log(net)
    if args.pre_train and args.resume == 0:
        load_pre_train(args, net, checkpoint.log)
    elif args.test_only and args.resume == 0 and count_parameters(net):
        raise UserError(
            f"--test_only: {args.model} needs weights: give --pre_train FILE or --load EXPERIMENT"
        )
    loss = None if args.test_only else Loss(args, net).to(device)
    data = Data(args, checkpoint.log)
    trainer = Trainer(args, net, loss, data, checkpoint, device)
    if args.test_only:
        epoch = checkpoint.load_weights(net) if args.resume != 0 else 1
        checkpoint.create(config_lines(args))
        trainer.test(epoch)
        return
    if args.resume != 0:
        with checkpoint.damaged_state_errors():
            trainer.resume()
    checkpoint.create(config_lines(args))
    trainer.train()
    data.close()


def _sentence(error):
    """Give the message of an error; one that a loader process raised comes with that process's traceback around it."""
    text = str(error)
    return text.rpartition("UserError: ")[2].strip() if "Original Traceback" in text else text


def _is_out_of_memory(error):
    """Tell whether an error is numpy's or Python's for memory, or one of torch's, which has no type for it on the CPU."""
    return isinstance(error, (MemoryError, OutOfMemoryError)) or "allocate memory" in str(error)


def _say(text):
    """Print to stderr; ranks other than 0 wait a moment, in which the error of rank 0, if it has one, ends them."""
    if not distributed.is_main_process():
        time.sleep(3)
        text = f"rank {distributed.rank()}: {text}"
    print(text, file=sys.stderr, flush=True)


def main(argv=None):
    """Run the program; gives its exit status: 0, 2 for bad flags, 1 for other bad input, 128 + N when stopped by signal N."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # the name of a file may be no text in the encoding of a terminal
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parse_args(argv)
    except UserError as error:
        _say(f"error: {error}")
        return 2
    if args.n_GPUs > 1 and not distributed.is_started_by_torchrun():
        return distributed.launch(argv, args.n_GPUs, args.save)
    disable_malloc_trim()
    try:
        device = choose_device(args.cpu)
        with distributed.process_group(device):
            run(args, device)
    except (UserError, OSError) as error:
        _say(f"error: {_sentence(error)}")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        what = str(error).splitlines()[0] if str(error) else "no more is to be had"
        _say(
            f"error: out of memory: smaller --batch_size, --patch_size or network, --split_batch or --chop help: {what}"
        )
        return 1
    except Stopped as stopped:
        _say(f"stopped: --load {args.save} goes on from here")
        return 128 + stopped.signum
    except KeyboardInterrupt:
        hint = (
            ""
            if args.test_only
            else f": --load {args.save} goes on from the last state that was saved"
        )
        _say(f"interrupted{hint}")
        return 130
    except distributed.RankFailedError as error:
        _say(
            f"error: another process of the run has ended ({error}): --load {args.save} goes on from the last saved state"
        )
        return 1
    return 0


if __name__ == "__main__":
    distributed.exit_process(main())
