"""The one exception for what a user can put right: bad flags, files, folders and checkpoints."""


class UserError(Exception):
    """Bad input. The message names the flag or the file and says what to do; main.py prints it without a traceback."""


def bullet_list(lines, limit=20):
    """Join lines as an indented list, cut after `limit` entries with the number of the rest."""
    lines = list(lines)
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "".join(f"\n  - {line}" for line in lines[:limit] + more)
