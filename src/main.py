"""The driver: parse the flags, build, train or test. `python src/main.py --help` lists the flags."""

import random
import sys

import numpy as np
import torch

from checkpoint import Checkpoint
from data import Data
from errors import InputError
from loss import Loss
from model import build_network, choose_device, count_parameters
from model.weights import load_pre_train
from option import config_lines, parse_args
from trainer import Trainer


def run(args):
    """Train or test as the flags say.

    Raises:
        InputError: bad input; the experiment folder is as it was before, or holds the last good state.
    """
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    checkpoint = Checkpoint(args)
    device = choose_device(args.cpu)
    names = [name for name in (args.proj_name, args.exp_name) if name]
    checkpoint.log(f"{'/'.join([*names, args.save])} on {device}, torch {torch.__version__}")
    net = build_network(args).to(device)
    checkpoint.log(f"{args.model}: {count_parameters(net):,} parameters")
    if not count_parameters(net) and not args.test_only:
        raise InputError(f"--model {args.model}: has nothing to train; give --test_only")
    if args.print_model:
        checkpoint.log(net)
    if args.pre_train and args.resume == 0:
        load_pre_train(args, net, checkpoint.log)
    elif args.test_only and args.resume == 0 and count_parameters(net):
        raise InputError(f"--test_only: {args.model} needs weights: give --pre_train FILE or --load EXPERIMENT")
    loss = None if args.test_only else Loss(args, net).to(device)
    data = Data(args, checkpoint.log)
    trainer = Trainer(args, net, loss, data, checkpoint, device)
    if args.test_only:
        epoch = checkpoint.load_weights(net) if args.resume != 0 else 1
        checkpoint.open(config_lines(args))
        trainer.test(epoch)
        return
    if args.resume != 0:
        trainer.resume()
    checkpoint.open(config_lines(args))
    trainer.train()


def _sentence(error):
    """Give the message of an error; one that a loader process raised comes with that process's traceback around it."""
    text = str(error)
    return text.rpartition("InputError: ")[2].strip() if "Original Traceback" in text else text


def main(argv=None):
    """Run the program; gives its exit status: 0, 2 for bad flags, 1 for other bad input, 130 when interrupted."""
    try:
        args = parse_args(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        run(args)
    except (InputError, OSError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "" if args.test_only else f": --load {args.save} goes on from the last epoch that was done"
        print(f"interrupted{hint}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
