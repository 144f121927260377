"""Types of flag values. A bad value becomes an `InvalidValue`: all are reported together."""

import argparse

from image_quality import parse_metrics
from runtime.errors import UserError


class InvalidValue(str):
    """The problem of a value, kept so that all problems are reported together."""


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


def choice(names):
    names = list(names)

    def convert(text):
        if text not in names:
            raise ValueError
        return text

    parse = value_type(convert, f"one of {', '.join(names)}")
    parse.metavar = "{" + ",".join(names) + "}"
    return parse


def parse_bool(text):
    """Return the value of a switch such as --chop false; an `InvalidValue` for another word."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return values.get(text.lower(), InvalidValue(f"{text!r} must be true or false"))


def _scales(text):
    scales = [int(part) for part in text.split("+")]
    if min(scales) < 1 or len(set(scales)) != len(scales):
        raise ValueError
    return scales


def _names(text):
    names = text.split("+")
    if not all(names) or len(set(names)) != len(names):
        raise ValueError
    return names


def parse_int_list(text, separator):
    """Return the numbers of a list such as '200-400' or '2,4'."""
    return [int(part) for part in text.split(separator)]


def int_list(separator, low):
    def convert(text):
        if min(parse_int_list(text, separator)) < low:
            raise ValueError
        return text  # `parse_int_list` reads it later

    return value_type(convert, f"numbers of at least {low} joined by {separator}")


def _metric_names(text):
    parse_metrics(text)
    return text  # `parse_metrics` reads it later


def _odd_sizes(text):
    sizes = parse_int_list(text, "+")
    if min(sizes) < 1 or max(sizes) > 63 or not all(size % 2 for size in sizes):
        raise ValueError
    return sizes


positive_int = number(int, low=1)
layer_count = number(int, low=1, high=1000)  # far more than networks have, built in seconds
channel_count = number(int, low=1, high=8192)
non_negative_int = number(int, low=0)
positive = number(float, above=0)
non_negative = number(float, low=0)
metric_names = value_type(_metric_names, "names joined by ,")
set_names = value_type(_names, "names joined by +")
indices = int_list(",", 0)
scales = value_type(_scales, "scales joined by +")
odd_sizes = value_type(_odd_sizes, "odd numbers joined by +")


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

    def flag(self, name, kind, default, text, **more):
        """Add a flag with a value."""
        more.setdefault("metavar", getattr(kind, "metavar", None))
        self.add(name, type=kind, default=default, help=text, **more)

    def switch(self, name, text, default=False):
        """Add a flag that is on without a value; --name false turns it off."""
        self.add(
            name, nargs="?", type=parse_bool, const=True, default=default, metavar="BOOL", help=text
        )
