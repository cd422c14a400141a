"""The roofline page matches the current tile sizes, and its figures are plausible."""

from kernel_cases import load_benchmark

roofline = load_benchmark("roofline")


def test_the_page_matches_the_tile_sizes() -> None:
    assert roofline.PAGE.read_text() == roofline.page()


def test_window_scores_moves_far_fewer_bytes_than_the_materialized_baseline() -> None:
    for shape in roofline.MODELS:
        ours, materialized = roofline.window_scores_cost(shape, 131_072)
        assert 8 * ours.once < materialized.once
        assert ours.once <= ours.loaded


def test_the_sparse_prefill_grows_linearly_where_dense_attention_grows_quadratically() -> None:
    shape = roofline.MODELS[0]
    short, long = (roofline.vertical_slash_cost(shape, tokens) for tokens in (65_536, 131_072))
    assert 1.9 < long[0].operations / short[0].operations < 2.2
    assert long[1].operations / short[1].operations == 4
    assert long[0].once <= long[0].loaded
