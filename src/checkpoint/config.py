"""config.txt of an experiment: the flags of a run, which `--load` goes on with."""

import re
import shlex

from runtime.errors import UserError

MARKER = (
    "# An experiment of this program. `python src/main.py --load NAME` goes on with these flags."
)

# Flags that belong to one call of the program and are not taken from the experiment that --load goes on with.
PER_CALL = {
    "load",
    "save",
    "resume",
    "reset",
    "test_only",
    "save_results",
    "save_gt",
    "pre_train",
    "from_file",
    "template",
}
PER_CALL |= {
    "cpu",
    "n_GPUs",
    "n_threads",
    "print_model",
    "dir_experiment",
    "compile",
    "tf32",
    "dir_out",
    "overwrite",
    "format",
    "suffix",
    "max_pixels",
}


def config_lines(args):
    """Give the flags of a run, one a line, in the form that `--load` reads back, after what they are and their number."""
    kept = [
        (name, value)
        for name, value in sorted(vars(args).items())
        if value is not None and name not in PER_CALL
    ]
    yield MARKER
    yield f"# {len(kept)} flags"
    for name, value in kept:
        if value == "sep_reset":  # asked for once, not at every resume
            value = "sep"
        if isinstance(value, (list, tuple)):
            joined = "+".join(map(str, value)) if name != "betas" else None
            text = shlex.quote(joined) if joined else " ".join(map(str, value))
        else:
            text = shlex.quote(str(value).lower() if isinstance(value, bool) else str(value))
        yield f"--{name} {text}"


def read_config(path):
    """Give the flags that config.txt of an experiment holds, as argv.

    Raises:
        UserError: it cannot be read, or was cut.
    """
    try:
        if not path.is_file():  # OSError: a name that is too long
            raise UserError(
                f"--load {path.parent.name}: there is no experiment in {path.parent} (no config.txt)"
            )
        text = path.read_text(encoding="utf-8")
        # not splitlines, which takes more than the newline for the end of a line
        lines = [shlex.split(line, comments=True) for line in text.split("\n")]
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    count = re.search(r"^# (\d{1,9}) flags$", text, re.M)
    if not text.startswith(MARKER[:20]):
        raise UserError(f"{path}: is damaged: it does not begin with {MARKER[:20]!r}")
    flags = [words for words in lines if words]
    if len(flags) < (int(count[1]) if count else 1):
        raise UserError(
            f"{path}: is damaged: it holds {len(flags)} flags{f' of {count[1]}' if count else ''}"
        )
    argv = []
    for words in flags:
        if (
            words[0].removeprefix("--") not in PER_CALL
        ):  # --name=value, as a value may start with - or be empty
            argv += ["=".join(words)] if len(words) == 2 else words
    return argv
