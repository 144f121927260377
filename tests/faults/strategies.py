"""Strategies of hypothesis for bad flags, folders of data and folders of experiments."""

import os
import shutil

from hypothesis import strategies as st

from flag_checks import InvalidValue
from option import build_parser

# Flags that would start processes, compile or write elsewhere; and those that ask nothing of the program
LEFT_OUT = {"--help", "-h", "--version", "--n_GPUs", "--compile", "--tensorboard", "--vgg_path"}
ACTIONS = {n: action for action in build_parser()._actions for n in action.option_strings}
ACTIONS = {name: ACTIONS[name] for name in sorted(ACTIONS.keys() - LEFT_OUT)}
WORDS = [
    *"0 -1 1 2 3 nan inf -inf 1e400 -1e-400 1e300 + 1- 2+ 2+2 2+4 1-9/4-4 1-3/4-4 1-2/3-4/5-6".split(),
    *"ü✓ -- - ../x / . true false None 1,2 7 0.5 1*L1 1*MSE+1e30*L1 -inf*L1 1*patchD RCAN".split(),
    *"Bicubic RCAN+PCL EDSR_paper Set5 Set5+Mine Demo MyImage DIV2K bin SGD Cosine -x --x".split(),
    *"CosineRestart ' \" # $HOME %s %(prog)s {} １".split(),
    *["", " ", "9" * 400, "9" * 5000, f"1-{'9' * 5000}", "x" * 300],
    *["a\0b", "a\nb", "\udcff", "\x1b[2J", "\u2028"],
]


def words():
    """A word of the command line: a known nuisance, a number of any kind, or any text."""
    numbers = st.integers().map(str) | st.floats().map(str)
    return st.sampled_from(WORDS) | numbers | st.text(st.characters(codec="utf-8"), max_size=8)


def _is_taken(action, word):
    if action.type is str and not word.isprintable():
        return True  # most of what is wrong with a name or a file
    if action.type is str and word.isascii() and word.replace(" ", "").isalnum():
        return False
    value = action.type(word) if action.type else word
    return isinstance(action.const, bool) or type(value) is not InvalidValue


FIT = {name: [w for w in WORDS if _is_taken(action, w)] for name, action in ACTIONS.items()}
# what cannot be printed is rare among all words, and every flag that takes a text takes it
TEXTS = [name for name, action in ACTIONS.items() if action.type is str]
UNPRINTABLE = [[name, word] for name in TEXTS for word in WORDS if not word.isprintable()]


@st.composite
def flags(draw, most=4, wild=7):
    """A list of words: flags with values of their kind; `wild` of 14 have 0 to 3 of any, or are unknown."""
    argv = []
    for _ in range(draw(st.integers(1, most))):
        name = draw(st.sampled_from(list(ACTIONS)))
        kind, count = draw(st.integers(0, 13)), ACTIONS[name].nargs
        count = count if isinstance(count, int) else 1
        values = st.sampled_from(FIT[name]) if kind >= wild and FIT[name] else words()
        count = {1: 0, 2: 2, 3: 3}.get(kind, count)
        values = draw(st.lists(values, min_size=count, max_size=count))
        name = name[:-1] if kind == 0 else name  # unknown, unless it is the name of another flag
        argv += [f"{name}={values[0]}"] if kind in (4, 10) else [name, *values]
    return argv


EVERYWHERE = ["HR", "LR_bicubic/X2", "LR_bicubic", ""]
NAMES = "a b ax2 bx2 c cx2 ax3 .hidden -x ä a\\b %d a.b".split()
NAMES += ["a b", "a\nb", "x" * 200, os.fsdecode(b"\xff")]
ENDINGS = [".png", ".PNG", ".jpg", ".tif", ".gif", ".txt", "", ".npy", ".png.part"]
DEEDS = ["remove", "empty", "file", "rename", "copy", "mkdir", "dangle", "loop", "fifo", "deeper"]


def layouts():
    """A list of deeds on the folder of a data set: (deed, folder, name, ending, number)."""
    chosen = map(st.sampled_from, (DEEDS, EVERYWHERE, NAMES, ENDINGS))
    deed = st.tuples(*chosen, st.integers(0, 9))
    return st.lists(deed, min_size=1, max_size=3)


def do(root, deed, where, name, ending, number):
    """Carry out a deed in the folder of a data set; what cannot be done (any more) is left out."""
    folder = root / where
    files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    target = folder / f"{name}{ending}"
    chosen = files[number % len(files)] if files else None
    if deed in ("remove", "file") and (chosen is None or number > 6):
        if folder.is_dir():
            shutil.rmtree(folder)
        if deed == "file":
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.write_bytes(b"no folder")
    elif deed == "remove":
        chosen.unlink()
    elif deed == "empty":
        for path in files:
            path.unlink()
    elif deed == "deeper" and folder.is_dir():
        folder.rename(root.parent / "moved")
        folder.mkdir(parents=True)
        (root.parent / "moved").rename(folder / "moved")
    elif deed in ("rename", "copy") and chosen is not None:
        if chosen != target:
            (shutil.copy if deed == "copy" else os.replace)(chosen, target)
    elif folder.is_dir() and not os.path.lexists(target):
        {"mkdir": os.mkdir, "fifo": os.mkfifo}.get(deed, lambda path: None)(target)
        if deed in ("dangle", "loop"):
            os.symlink(target if deed == "loop" else folder / "nowhere.png", target)


LINES = ["[1, 2]", *"3 null {} { NaN \0 \udcff".split(" ")]
LINES += ["9" * 5000, "[" * 100000, '{"a":' * 5000, '{"epoch": ' + "9" * 400 + "}"]
LINES += """\
{"epoch": 1}
{"epoch": "1"}
{"epoch": null, "dataset": "Set5"}
{"epoch": 1, "dataset": "Set5", "scale": 2, "psnr": "30"}
{"epoch": 1, "dataset": "Set5", "scale": 2, "psnr": Infinity}
{"epoch": 1, "dataset": "../x", "scale": 2, "psnr": 30}
{"epoch": 1, "dataset": 5, "scale": [], "psnr": 1}
{"epoch": 1e999, "loss": {"L1": 1}}
{"epoch": 1, "loss": 5}
{"epoch": 1, "loss": {"L1": "x"}}
{"epoch": 1, "lr": 1, "loss": {"L1": NaN}}""".split("\n")
SETTINGS = """\
--epochs
--n_feats 0
--scale '2
--nosuch 1
stray
--load other
--resume 3
# nothing
--seed x
--epochs 9\0
--data_train $(touch ran)
--test_only
--reset
--save other
--template RCAN
--loss 1*L7""".split("\n")
DAMAGED = "config.txt metrics.jsonl log.txt .lock".split()
DAMAGED += [f"model/{name}.pt" for name in ("state", "model_latest", "model_best")]


def damages():
    """A list of damages to an experiment: (file, kind, number in [0, 1], bytes, line)."""

    def damage_of(files, kinds, lines):
        file, kind, line = map(st.sampled_from, (files, kinds, lines))
        share, content = st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=30)
        return st.tuples(file, kind, share, content, line)

    kinds = "cut flip garbage line line line gone folder empty".split()
    damage = damage_of(DAMAGED, kinds, LINES + SETTINGS)
    damage |= damage_of(["metrics.jsonl"], ["line"], LINES)
    damage |= damage_of(["config.txt"], ["line"], SETTINGS)
    return st.lists(damage, min_size=1, max_size=2)


def damage(folder, file, kind, share, content, line):
    """Damage a file of an experiment; one that another damage has removed is left out."""
    path = folder / file
    if not path.is_file():
        return
    whole = path.read_bytes()
    at = int(share * len(whole))
    if kind in ("gone", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        return
    lines = whole.splitlines(keepends=True)
    number = int(share * (len(lines) + 1))
    lines.insert(number, line.encode(errors="surrogateescape") + b"\n")
    written = {
        "cut": whole[:at],
        "empty": b"",
        "garbage": content,
        "flip": whole[:at] + content + whole[at + len(content) :],
        "line": b"".join(lines),
    }
    path.write_bytes(written[kind])
