"""What chips send one another, read from compiled HLO, against counts by hand."""

import re

import numpy as np
import pytest

from tests.planning.test_hlo import HIDDEN, LAYERS, PERCEPTRONS, WIDTH
from vla_jax.planning import collectives as reader
from vla_jax.planning import hlo
from vla_jax.planning.collectives import GATHER_BY_SUM, collectives, replica_groups

MATRIX = 2 * WIDTH * HIDDEN
"""Bytes in bf16."""
ADD = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}
"""


def read(text: str, chips: int = 16):
    return collectives(hlo.parse(text), text, chips)


def totals(found) -> dict[tuple[str, str], tuple[int, int]]:
    """(kind, phase) -> bytes and times a step."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for one in found:
        size, count = sums.get((one.kind, one.phase), (0, 0))
        sums[one.kind, one.phase] = (size + one.bytes * one.count, count + one.count)
    return sums


def test_collectives_of_a_real_program_are_those_by_hand():
    """Both matrices are gathered forward; again, one to recompute and one for the gradient of the rows. Gradients are
    scattered along fsdp, and the parts summed along data. One of the latter has rows of padding, sent by permutes.
    """
    found = read(PERCEPTRONS)
    assert found.unaccounted == ()
    sums = totals(found.found)
    assert sums["all-gather", "forward"] == (2 * LAYERS * MATRIX, 2 * LAYERS)
    assert sums["all-gather", "recomputed"] == (LAYERS * MATRIX, LAYERS)
    assert sums["all-gather", "backward"] == (LAYERS * MATRIX, LAYERS)
    scattered, count = sums["reduce-scatter", "backward"]
    assert count == 2 * LAYERS
    assert 2 * LAYERS * MATRIX <= scattered <= 1.02 * 2 * LAYERS * MATRIX
    assert sums["all-reduce", "backward"] == (2 * LAYERS * MATRIX // 4, LAYERS)
    assert {one.layer for one in found.found} == {"language/decoder"}
    along_fsdp = {tuple(group) for one in found.found if one.kind == "reduce-scatter" for group in one.groups.tolist()}
    assert along_fsdp == {(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15)}


def test_counting_bodies_once_would_miss_them(monkeypatch):
    monkeypatch.setattr(hlo, "trip_count", lambda *_: 1)
    assert totals(read(PERCEPTRONS).found)["all-gather", "forward"][0] == 2 * MATRIX


def test_counting_every_link_of_a_chain_would_be_four_times_too_much(monkeypatch):
    monkeypatch.setattr(reader, "_begins", lambda _: True)
    assert totals(read(PERCEPTRONS).found)["all-gather", "backward"][0] == 4 * LAYERS * MATRIX


def test_taking_a_scattered_reduction_for_a_whole_one_would_hide_it(monkeypatch):
    monkeypatch.setattr(reader, "_is_sliced", lambda *_: False)
    assert ("reduce-scatter", "backward") not in totals(read(PERCEPTRONS).found)


def test_a_chain_without_its_beginning_is_unaccounted():
    text = PERCEPTRONS.replace('custom_call_target="AsyncCollectiveStart"', 'custom_call_target="Other"')
    assert any("nothing begins" in line for line in read(text).unaccounted)


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("f32[16]{0} all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}", "all-gather", 64),
        ("(f32[4]{0}, f32[16]{0}) all-gather-start(%x), replica_groups={{0,1,2,3}}, dimensions={0}", "all-gather", 64),
        ("f32[4]{0} all-reduce(%x), replica_groups={}, to_apply=%add", "all-reduce", 16),
        ("f32[4]{0} all-reduce-start(%x), replica_groups={{0,1},{2,3}}, to_apply=%add", "all-reduce", 16),
        (
            "f32[1]{0} reduce-scatter(%x), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add",
            "reduce-scatter",
            16,
        ),
        ("(f32[4]{0}, bf16[6]{0}) all-reduce(%x, %y), replica_groups={}, to_apply=%add", "all-reduce", 16 + 12),
        ("f32[4]{0} all-to-all(%x), replica_groups={{0,1,2,3}}, dimensions={0}", "all-to-all", 16),
        ("f32[4]{0} collective-permute(%x), source_target_pairs={{0,1},{1,2},{2,3}}", "collective-permute", 16),
        (
            "(f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
            "collective-permute",
            16,
        ),
    ],
)
def test_every_kind_counts_the_whole_array(line, kind, size):
    text = f"""HloModule one
{ADD}
ENTRY %main (x: f32[4], y: bf16[6]) -> f32[4] {{
  %x = f32[4]{{0}} parameter(0)
  %y = bf16[6]{{0}} parameter(1)
  ROOT %out = {line}
}}
"""
    (one,) = (found := read(text, 4)).found
    assert (one.kind, one.bytes, one.count, found.unaccounted) == (kind, size, 1, ())


@pytest.mark.parametrize(("placed", "kind"), [(True, GATHER_BY_SUM), (False, "all-reduce")])
def test_a_sum_of_parts_among_zeros_is_a_gather_that_costs_a_sum(placed, kind):
    part = "dynamic-update-slice(%zeros, %x, %i)" if placed else "add(%zeros, %zeros)"
    text = f"""HloModule one
{ADD}
ENTRY %main (x: f32[1], i: s32[]) -> f32[4] {{
  %x = f32[1]{{0}} parameter(0)
  %i = s32[] parameter(1)
  %zeros = f32[4]{{0}} constant({{0, 0, 0, 0}})
  %part = f32[4]{{0}} {part}
  ROOT %out = f32[4]{{0}} all-reduce(%part), replica_groups={{}}, to_apply=%add
}}
"""
    (one,) = read(text, 4).found
    assert (one.kind, one.bytes) == (kind, 16)


def test_a_collective_without_a_name_is_of_the_loop_around_it():
    """The second half of a reduction has none of its own on a TPU; the loop that it runs in says where it belongs."""
    text = re.sub(
        r"metadata=\{[^}]*\}", lambda found: found[0] if '/while"' in found[0] else "metadata={}", PERCEPTRONS
    )
    phases = {one.phase for one in read(text).found if one.count == LAYERS}
    assert phases
    assert "unnamed" not in phases


def test_one_that_another_instruction_starts_counts_once():
    text = f"""HloModule one
{ADD}
%wrapped (p: f32[4]) -> f32[1] {{
  %p = f32[4]{{0}} parameter(0)
  ROOT %scattered = f32[1]{{0}} reduce-scatter(%p), replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}, to_apply=%add
}}

ENTRY %main (x: f32[4]) -> f32[1] {{
  %x = f32[4]{{0}} parameter(0)
  %started = ((f32[4]{{0}}), f32[1]{{0}}) async-start(%x), calls=%wrapped
  ROOT %out = f32[1]{{0}} async-done(%started), calls=%wrapped
}}
"""
    (one,) = (found := read(text, 4)).found
    assert (one.kind, one.bytes, one.count, found.unaccounted) == ("reduce-scatter", 16, 1, ())


FUSED = f"""HloModule one
{ADD}
%inside (p: f32[4]) -> f32[1] {{
  %p = f32[4]{{0}} parameter(0)
  ROOT %scattered = f32[1]{{0}} reduce-scatter(%p), replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}, to_apply=%add
}}

ENTRY %main (x: f32[4]) -> f32[1] {{
  %x = f32[4]{{0}} parameter(0)
  ROOT %out = f32[1]{{0}} fusion(%x), kind=kCustom, calls=%inside
}}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fusion(%x), kind=kCustom, calls=%inside", "negate(%x)", "nothing is known to run inside"),
        ("replica_groups={{0,1,2,3}}", "replica_groups=[[0,1]]", "not readable"),
        ("replica_groups={{0,1,2,3}}", "replica_groups={{0,1,2},{3}}", "unequal"),
        ("reduce-scatter(", "collective-broadcast(", "not known to the planner"),
        ("reduce-scatter(%p)", "reduce-scatter(%elsewhere)", "its operands are not in the text"),
    ],
)
def test_what_cannot_be_accounted_for_is_named(old, new, message):
    assert read(FUSED, 4).unaccounted == ()
    found = read(FUSED.replace(old, new), 4)
    assert found.found == ()
    assert message in found.unaccounted[0]


def test_one_in_a_loop_of_unknown_length_is_named():
    looped = PERCEPTRONS.replace("direction=LT", "direction=EQ")
    assert all("unknown length" in line for line in read(looped).unaccounted)
    assert read(looped).found == ()


def test_what_the_text_names_and_the_reader_missed_is_named():
    found = collectives(hlo.parse(FUSED), FUSED + "  %more = f32[] all-reduce(%x)\n", 4)
    assert found.unaccounted == ("1 more that the text names",)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("[2,4]<=[4,2]T(1,0)", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("[4,2]<=[2,2,2]T(1,0,2)", [[0, 1], [4, 5], [2, 3], [6, 7]]),
        ("mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=1,'b'=4,'c'=2], device_ids=([2,4]T(1,0)) {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=4,'b'=2] {'a':(1)2}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ],
)
def test_groups_are_read_in_every_form(text, groups):
    np.testing.assert_array_equal(replica_groups(text, 8), groups)
