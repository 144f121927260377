"""scripts/dev/bench.py on work of a second or two."""

import json

import pytest
from bench import main


@pytest.fixture
def bench(capsys):
    """Run bench.py in this process: bench("step", ...) gives (exit status, output, errors)."""

    def call(*words):
        status = main([*map(str, words)])
        return status, *capsys.readouterr()

    return call


def test_every_case_ends_in_its_figure_and_goes_into_the_json(bench, tmp_path):
    small = "--n_resblocks 1 --n_feats 8 --scale 2 --patch_size 32 --batch_size 2 --cpu --n_threads 0".split()
    pcl = ["--template", "PCL_InfoNCE", "--mcl_neg", 1]
    status, out, errors = bench(
        "--repeats", 2, "--size", 16, "--json", tmp_path / "bench.json", *small, "--", "step", *small, *pcl, "--",
        "plain", *small, "--without", "channels_last", "--", "forward", *small, "--model", "NLSN",
    )  # fmt: skip
    assert status == 0, errors
    results = json.loads((tmp_path / "bench.json").read_text())
    assert [result["case"] for result in results] == ["step", "step", "plain", "forward"]
    assert [result["without"] for result in results] == [None, None, "channels_last", None]
    for result in results:
        assert f"{result['case']} {result['seconds']:.3g} s" in out.splitlines()
        assert 0 < result["fastest"] <= result["seconds"] <= result["slowest"]
        assert result["gflops"] > 0
        assert result["share_of_gemm"] > 0
        assert result["share_of_convolution"] > 0
        assert result["peak_memory_gib"] > 0.1
    assert results[1]["seconds"] > results[0]["seconds"]
    assert (
        results[1]["gflops"] * results[1]["seconds"]
        > 1.1 * results[0]["gflops"] * results[0]["seconds"]
    )


@pytest.mark.slow
def test_the_input_pipeline_is_timed_on_images_of_the_size_of_div2k(bench):
    status, out, errors = bench(
        "--repeats", 1, "pipeline", "--scale", 4, "--cpu", "--n_threads", 1, "--batch_size", 64
    )
    assert status == 0, errors
    assert out.splitlines()[-1].startswith("patches/s ")
    assert int(out.split()[-1]) > 100


def test_the_table_has_a_row_for_each_case(bench):
    small = "--n_resblocks 1 --n_feats 8 --scale 2 --patch_size 32 --batch_size 2 --cpu --precision bf16".split()
    status, out, errors = bench(
        "--table", "--repeats", 1, "--size", 16, "step", *small, "--", "forward", *small
    )
    assert status == 0, errors
    lines = [line.split(" | ") for line in out.splitlines() if line.startswith("|")]
    assert {len(line) for line in lines} == {8}
    assert [line[0].split(",")[0] for line in lines[2:]] == ["| step", "| forward"]
    assert [line[1] for line in lines[2:]] == ["bf16", "bf16"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("step --scale four", "--scale"),
        (
            "plain --scale 2 --without nothing",
            "--without nothing must be one of channels_last, fused, kept_memory, for the case `plain`",
        ),
        ("step --scale 2 --without fused", "--without fused must be"),
    ],
)
def test_bad_flags_are_named(bench, words, named):
    status, _, errors = bench(*words.split())
    assert status == 1
    assert named in errors
