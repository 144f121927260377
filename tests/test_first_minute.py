"""The first minute of a training: what a step costs, when the run will end, early lines."""

import re
import time
import types

import pytest

import progress


@pytest.fixture
def seconds_per_step(monkeypatch):
    """Return a function that sets the duration of each step, on a clock of the test's own."""

    def set_duration(*durations):
        now, after_step = [0.0], progress.Progress.after_step

        def advance(self, step, loss):
            now[0] += durations[min(step, len(durations)) - 1]
            after_step(self, step, loss)

        clock = types.SimpleNamespace(**vars(time) | {"perf_counter": lambda: now[0]})
        monkeypatch.setattr(progress, "time", clock)
        monkeypatch.setattr(progress.Progress, "after_step", advance)

    return set_duration


def train(sr, *flags):
    status, out, err = sr.train("--save", "run", "--batch_size", 1, "--epochs", 2, *flags)
    assert status == 0, err
    return out


@pytest.mark.parametrize("duration", [0.1, 1.5])
def test_a_line_of_losses_after_ten_steps_however_slow_they_are(sr, seconds_per_step, duration):
    seconds_per_step(duration)
    out = train(sr, "--test_every", 30, "--print_every", 20)
    steps = re.findall(r"^\[(\d+)/30\]\t\[L1", out, re.M)
    assert steps == ["10", "20", "30", "20", "30"]  # the early line once a process
    assert out.count("s per step") == 1


def test_the_estimate_leaves_out_the_first_step_and_comes_within_ten_seconds(sr, seconds_per_step):
    seconds_per_step(3, 2)  # the first step takes 3 s, all others 2 s
    out = train(sr, "--test_every", 25, "--print_every", 100)
    # after 5 s and 2 steps: 23 steps of this epoch and 25 of the next are left
    assert "\n2 s per step: this epoch takes 46 s more, the run 2 min (until " in out
    assert out.index("s per step") < out.index("[10/25]")


@pytest.mark.parametrize("duration, is_warned", [(3700, False), (4000, True)])
def test_a_run_of_more_than_a_day_is_warned_of(sr, seconds_per_step, duration, is_warned):
    seconds_per_step(duration)
    out = train(sr, "--test_every", 12)  # 23 steps are left after the first
    assert ("WARNING: this run takes 25 h 33 min" in out) == is_warned
    assert ("--template tiny" in out) == is_warned
    assert ("the run 25 h 33 min" if is_warned else "the run 23 h 38 min") in out
