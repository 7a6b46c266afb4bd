"""Streams keep their promises to the last sequence: mixing, replay, passes, and what Stage 1 left."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.stream import Interleaved, Windows, count_for_share, whole_sequences, window
from run.files import UserError


def windows_of(count: int, seed: int = 42, stage: int = 1, context: int = 4) -> Windows:
    """`count` windows whose tokens say which window they are: window i holds i, i, i, i."""
    tokens = np.repeat(np.arange(count + 1), context)[:count * context + 1]
    return Windows("post", tokens, context, seed, stage, np.arange(count, dtype=np.uint32))


def sequences(stream: Interleaved) -> list[int]:
    return [int(stream.sequence(slot)[0]) for slot in range(stream.length)]


def minor_slots(stream: Interleaved, before: int) -> list[int]:
    return [slot for slot in range(before) if stream.minor_before(slot + 1) > stream.minor_before(slot)]


@pytest.mark.parametrize("lam, mixed",
                         [(0, 0), (0.25, 73_242), (0.5, 146_484), (0.75, 219_726), (1, 292_968)])
def test_token_counts_of_the_135m_setting(lam, mixed):
    """8.7B + λ · 300M tokens in windows of 1,024: by hand 8,496,093 and λ · 292,968 sequences, 512 a step."""
    n_pre, n_post = 8_700_000_000 // 1024, 300_000_000 // 1024
    stream = Interleaved(windows_of(1), windows_of(1), n_pre, round(lam * n_post), 512)
    assert stream.seen(stream.steps) == (8_496_093, mixed)
    assert stream.steps == -(-(8_496_093 + mixed) // 512)
    gaps = np.diff(minor_slots(stream, 100_000))
    assert len(set(gaps)) <= 2 and (len(gaps) == 0 or max(gaps) - min(gaps) <= 1)


def test_windows_do_not_overlap_and_targets_are_one_further():
    tokens = np.arange(20, dtype=np.uint16)
    assert window(tokens, 0, 4).tolist() == [0, 1, 2, 3, 4]
    assert window(tokens, 1, 4).tolist() == [4, 5, 6, 7, 8]
    windows = Windows("pre", tokens, 4, 0, 1, np.arange(4))
    inputs, targets = Interleaved(windows, windows, 4, 0, 2).batch(0)
    assert torch.equal(inputs + 1, targets)


def test_each_pass_reads_every_window_once_in_a_fresh_order():
    windows = windows_of(50)
    passes = [[int(windows[p * 50 + i][0]) for i in range(50)] for p in range(3)]
    assert all(sorted(order) == list(range(50)) for order in passes)
    assert passes[0] != passes[1] != passes[2]
    assert passes[0] == [int(windows_of(50)[i][0]) for i in range(50)]
    assert passes[0] != [int(windows_of(50, stage=2)[i][0]) for i in range(50)]


def test_what_stage_1_left_by_hand():
    """Stage 1 read the first 3 of 8 windows in its order; the other 5 are left, whatever order is ours."""
    def stage_1(sequences: int) -> dict:
        return {"args": {"seed": 9}, "tokens": {"pre": 400, "post": sequences * 4}}
    order = np.random.default_rng([9, 1, 0]).permutation(8).tolist()
    windows = windows_of(8, seed=42, stage=2)
    left = windows.left_after(stage_1(3))
    assert left.chosen.tolist() == sorted(order[3:])
    assert (left.role, left.seed, left.stage, left.context) == ("post", 42, 2, 4)
    assert sorted(int(left[i][0]) for i in range(5)) == sorted(order[3:])      # one pass reads just these
    assert len(windows.left_after(stage_1(0))) == 8
    assert len(windows.left_after(stage_1(8))) == len(windows.left_after(stage_1(20))) == 0
    assert len(windows) == 8                                                    # itself it is as before


def test_the_order_of_either_corpus_does_not_depend_on_the_share():
    major, minor = windows_of(60), windows_of(30, seed=7)
    minor = replace(minor, tokens=minor.tokens + 1000)
    for n_minor in (0, 1, 7, 30, 200):
        seen = sequences(Interleaved(major, minor, 60, n_minor, 8))
        assert [i for i in seen if i < 1000] == [int(major[i][0]) for i in range(60)]
        assert [i for i in seen if i >= 1000] == [int(minor[i][0]) for i in range(len(seen) - 60)]


def test_minor_slots_by_hand():
    """3 among 20 are 3/23 of the slots: a third each of 23, and in the middle of its third."""
    stream = Interleaved(windows_of(20), windows_of(3), 20, 3, 8)
    assert minor_slots(stream, 23) == [3, 11, 19]


def test_a_share_of_the_stream_by_hand():
    """1% of the stream: 9,900 sequences become 10,000; 3/10: 70 become 100; 1/4: 5 become 6.67, so 7."""
    assert [count_for_share(0.01, 9_900), count_for_share(0.3, 70), count_for_share(0, 50)] == [100, 30, 0]
    assert count_for_share(0.25, 5) == 2
    assert [whole_sequences(tokens, 128) for tokens in (128, 383)] == [1, 2]
    with pytest.raises(UserError, match="less than one sequence"):
        whole_sequences(127, 128)


def test_one_pass_is_no_repetition():
    assert Interleaved(windows_of(8), windows_of(3), 8, 3, 4).repeats() == []
    assert Interleaved(windows_of(8), windows_of(3), 8, 6, 4).repeats() == [
        "up to 2 passes over D_post, which has 12 tokens"]


def test_batches_are_the_same_for_any_number_of_ranks_and_the_last_is_short():
    stream = Interleaved(windows_of(20), windows_of(9, seed=3), 20, 3, 8)
    whole = [stream.batch(step) for step in range(stream.steps)]
    for step, (inputs, targets) in enumerate(whole):
        halves = [stream.batch(step, rank, 2) for rank in (0, 1)]
        assert torch.equal(torch.cat([half[0] for half in halves]), inputs)
        assert torch.equal(torch.cat([half[1] for half in halves]), targets)
    assert stream.steps == 3
    assert (whole[2][1][7] == -1).all() and (whole[2][1][:7] >= 0).all()
    assert stream.batch(1)[0].dtype == torch.int64


def test_streams_hold_no_more_than_an_index_per_window():
    """At 8.7B tokens: the windows' numbers and one order of them, four bytes each."""
    tokens, chosen = np.broadcast_to(np.uint16(0), 8_700_000_001), np.arange(8_496_093, dtype=np.uint32)
    windows = Windows("pre", tokens, 1024, 42, 1, chosen)
    order = windows.permutation(0)
    assert order.nbytes == windows.chosen.nbytes == 4 * 8_496_093
    assert Interleaved(windows, windows, 8_496_093, 0, 512).batch(16_593)[0].shape == (512, 1024)
