"""The first minute of a training: what a step costs, when the run will end, early lines."""

import re
from types import SimpleNamespace

import pytest

import progress
from option import parse_args


@pytest.fixture
def train(monkeypatch):
    """Return the log of two epochs whose steps take the given seconds, the last also all others."""

    def log_of(durations, *flags):
        now, lines = [0.0], []
        monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
        args = parse_args(["--epochs", "2", *flags])
        timer, loss = progress.Progress(args, lines.append), SimpleNamespace()
        loss.display_loss = lambda: "[L1: 1.0000]"
        for epoch in range(2):
            timer.start_epoch(epoch, 0)
            for step in range(1, args.test_every + 1):
                now[0] += durations[min(step, len(durations)) - 1]
                timer.after_step(step, loss)
        return "\n".join(lines)

    return log_of


@pytest.mark.parametrize("duration", [0.1, 1.5])
def test_a_line_of_losses_after_ten_steps_however_slow_they_are(train, duration):
    out = train([duration], "--test_every", "30", "--print_every", "20")
    steps = re.findall(r"^\[(\d+)/30\]\t\[L1", out, re.M)
    assert steps == ["10", "20", "30", "20", "30"]  # the early line once a process
    assert out.count("s per step") == 1


def test_the_estimate_leaves_out_the_first_step_and_comes_within_ten_seconds(train):
    out = train([3, 2], "--test_every", "25", "--print_every", "100")
    # after 5 s and 2 steps: 23 steps of this epoch and 25 of the next are left
    assert out.startswith("2 s per step: this epoch takes 46 s more, the run 2 min (until ")
    assert out.index("s per step") < out.index("[10/25]")


@pytest.mark.parametrize("duration, is_warned", [(3700, False), (4000, True)])
def test_a_run_of_more_than_a_day_is_warned_of(train, duration, is_warned):
    out = train([duration], "--test_every", "12")  # 23 steps are left after the first
    assert ("WARNING: this run takes 25 h 33 min" in out) == is_warned
    assert ("--template tiny" in out) == is_warned
    assert ("the run 25 h 33 min" if is_warned else "the run 23 h 38 min") in out
