"""scripts/dev/bench.py on work of a second or two."""

import pytest
from bench import main

SMALL = "--n_resblocks 1 --n_feats 8 --scale 2 --patch_size 32 --batch_size 2 --cpu --n_threads 0"


@pytest.fixture
def bench(capsys):
    """Run bench.py in this process: bench("step", ...) gives (exit status, output, errors)."""

    def call(*words):
        status = main([*map(str, words)])
        return status, *capsys.readouterr()

    return call


def test_every_case_ends_in_its_figure_or_a_row(bench):
    cases = f"step {SMALL} -- step {SMALL} --template PCL_InfoNCE --mcl_neg 1"
    cases += f" -- forward {SMALL} --model NLSN --precision bf16"
    status, out, errors = bench("--repeats", 2, "--size", 16, *cases.split())
    assert status == 0, errors
    lines = out.splitlines()
    titles, figures = lines[::2], lines[1::2]
    assert [line.split(", ")[0] for line in titles] == ["step", "step", "forward"]
    assert [line.split()[0] for line in figures] == ["step", "step", "forward"]
    assert 0 < float(figures[0].split()[1]) < float(figures[1].split()[1])
    assert "NLSN x2, bf16" in titles[2]
    status, out, _ = bench("--table", "--repeats", 1, "--size", 16, *cases.split())
    assert [line.count(" | ") for line in out.splitlines()] == [4] * 5
    assert bench("step", "--scale", "four")[0] == 1


@pytest.mark.slow
def test_the_input_pipeline_is_timed_on_images_of_the_size_of_div2k(bench):
    flags = "pipeline --scale 4 --cpu --n_threads 1 --batch_size 64"
    status, out, errors = bench("--repeats", 1, *flags.split())
    assert status == 0, errors
    assert out.splitlines()[-1].startswith("patches/s ")
    assert int(out.split()[-1]) > 100
