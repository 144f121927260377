"""config.txt of an experiment: the flags of a run, which `--load` continues with."""

import re
import shlex
from pathlib import Path

from runtime.files import UserError

HEADER = (
    "# An experiment of this program. `python src/main.py --load NAME` resumes with these flags."
)
ROOT = Path(__file__).resolve().parents[2]
PROJECT = "$PROJECT"  # stands for ROOT, so that a project can be moved or copied

# flags of one call of the program, which --load does not restore
NOT_RESTORED = set(
    "load save resume reset test_only save_results save_gt pre_train from_file template cpu n_GPUs "
    "n_threads threads print_model dir_experiment compile compile_mode tf32 dir_out "
    "overwrite format suffix max_pixels".split()
)


def _to_text(value):
    if isinstance(value, (list, tuple)):
        if isinstance(value[0], float):  # --betas 0.9 0.999
            return " ".join(map(str, value))
        return shlex.quote("+".join(map(str, value)))
    if isinstance(value, str) and (value == str(ROOT) or value.startswith(f"{ROOT}/")):
        value = PROJECT + value[len(str(ROOT)) :]
    return shlex.quote(str(value).lower() if isinstance(value, bool) else str(value))


def config_lines(args, provenance=()):
    """Yield the lines of config.txt: a header, provenance as comments, and a flag a line."""
    flags = {
        name: "sep" if value == "sep_reset" else value  # asked for once, not at every resume
        for name, value in sorted(vars(args).items())
        if value is not None and (name not in NOT_RESTORED or name == "pre_train")  # for the record
    }
    yield HEADER
    yield f"# {len(flags)} flags"
    yield from (f"# {line}" for line in provenance)
    for name, value in flags.items():
        yield f"--{name} {_to_text(value)}"


def recorded_pre_train(path):
    """Return the --pre_train that a run started with, or None."""
    found = re.search(r"^--pre_train (.+)$", _read(path), re.M)
    return shlex.split(found[1])[0].replace(PROJECT, str(ROOT), 1) if found else None


def is_config(path):
    """Return whether a file is a config.txt of this program."""
    return path.is_file() and _read(path).startswith(HEADER[:20])


def _read(path):
    """Return the text of config.txt, without a byte order mark."""
    folder = path.parent
    if folder.is_file():
        raise UserError(
            f"--load {folder.name} must be an experiment, not a file: give --pre_train {folder}"
        )
    if not path.is_file():  # OSError: a name that is too long
        raise UserError(
            f"--load {folder.name} must be an experiment: {folder} holds no experiment, config.txt "
            f"is missing{_hint_at_weights(folder)}"
        )
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return data.decode(encoding, "surrogateescape").replace("\r\n", "\n")


def _hint_at_weights(folder, otherwise=""):
    """Return how to start from weights of another program in a folder."""
    for pattern in ("model/model_best.pt", "model/model_latest.pt", "models/net_g_*.pth", "*.pth"):
        for path in sorted(folder.glob(pattern))[-1:]:
            return f": start from its weights with --pre_train {path} --save NEW_NAME"
    return otherwise


def read_config(path):
    """Return the flags of config.txt of an experiment, as argv."""
    try:
        text = _read(path)
        # not splitlines, which splits at more characters than the newline
        lines = [shlex.split(line, comments=True) for line in text.split("\n")]
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    # EDSR-PyTorch writes the date, then "flag: value" lines
    if re.match(r"\d{4}-\d\d-\d\d-\d\d:\d\d:\d\d\s", text):
        hint = _hint_at_weights(path.parent, ": it holds no weights for --pre_train")
        raise UserError(
            f"{path.parent} is an experiment of EDSR-PyTorch, which cannot be resumed here{hint}"
        )
    if not text.startswith(HEADER[:20]):
        raise UserError(
            f"{path}: is damaged, or of another program: it must begin with {HEADER[:20]!r}"
        )
    count = re.search(r"^# (\d{1,9}) flags$", text, re.M)
    flags = [words for words in lines if words]
    if len(flags) < (int(count[1]) if count else 1):
        of = f" of {count[1]}" if count else ""
        raise UserError(f"{path}: is damaged: it holds {len(flags)} flags{of}")
    names = {words[0].removeprefix("--") for words in flags}
    # an earlier version did not have this flag
    argv = [] if "embed_scheduler" in names else ["--embed_scheduler=same"]
    # an earlier version wrote --chop_from if the preset, and not the user, had set --chop
    left_out = NOT_RESTORED | ({"chop", "chop_from"} if "chop_from" in names else set())
    for words in flags:
        words = [str(ROOT) + w[len(PROJECT) :] if w.startswith(PROJECT) else w for w in words]
        if words[0].removeprefix("--") not in left_out:
            # --name=value, since a value may start with - or be empty
            argv += ["=".join(words)] if len(words) == 2 else words
    return argv
