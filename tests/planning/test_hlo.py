"""The reader of compiled HLO against counts by hand.

`perceptrons.hlo` is what libtpu 0.0.42.1 made, for v5e:4x4 as data 4 x fsdp 4, of the gradient of five rematerialised
perceptrons 1024 -> 4096 -> 1024 in a scan over 4096 rows, without `backend_config` and with a file name of ours.
"""

from pathlib import Path

import pytest

from vla_jax.planning import hlo
from vla_jax.planning.work import product_flops, work

PERCEPTRONS = (Path(__file__).parent / "perceptrons.hlo").read_text()
LAYERS, WIDTH, HIDDEN, ROWS = 5, 1024, 4096, 4096 // 16
PRODUCT = 2 * ROWS * WIDTH * HIDDEN
"""Of a chip's rows with one matrix."""

LOOP = """HloModule loop

%body (state: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {{
  %state = (s32[]{{:T(128)}}, f32[8,8]{{1,0:T(8,128)S(1)}}) parameter(0)
  %count = s32[]{{:T(128)}} get-tuple-element(%state), index=0
  %step = s32[]{{:T(128)}} constant({step})
  %next = s32[]{{:T(128)}} add(%count, %step)
  %x = f32[8,8]{{1,0:T(8,128)S(1)}} get-tuple-element(%state), index=1
  %y = f32[8,8]{{1,0:T(8,128)S(1)}} dot(%x, %x), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  ROOT %both = (s32[]{{:T(128)}}, f32[8,8]{{1,0:T(8,128)S(1)}}) tuple(%next, %y)
}}

%condition (state.1: (s32[], f32[8,8])) -> pred[] {{
  %state.1 = (s32[]{{:T(128)}}, f32[8,8]{{1,0:T(8,128)S(1)}}) parameter(0)
  %count.1 = s32[]{{:T(128)}} get-tuple-element(%state.1), index=0
  %limit = s32[]{{:T(128)}} constant({limit})
  ROOT %less = pred[]{{:T(512)}} compare(%count.1, %limit), direction={direction}
}}

ENTRY %main (x.2: f32[8,8], n: s32[]) -> f32[8,8] {{
  %x.2 = f32[8,8]{{1,0:T(8,128)}} parameter(0)
  %n = s32[]{{:T(128)}} parameter(1)
  %first = s32[]{{:T(128)}} constant({first})
  %copied = s32[]{{:T(128)}} copy(%first)
  %start = (s32[]{{:T(128)}}, f32[8,8]{{1,0:T(8,128)S(1)}}) tuple({counter}, %x.2)
  %loop = (s32[]{{:T(128)}}, f32[8,8]{{1,0:T(8,128)S(1)}}) while(%start), condition=%condition, body=%body{note}
  ROOT %out = f32[8,8]{{1,0:T(8,128)}} get-tuple-element(%loop), index=1
}}
"""


def loop(step=1, limit=7, direction="LT", first=0, counter="%copied", note=""):
    text = LOOP.format(step=step, limit=limit, direction=direction, first=first, counter=counter, note=note)
    return hlo.parse(text)


@pytest.mark.parametrize(
    ("of", "rounds"),
    [
        ({}, 7),
        ({"first": 2}, 5),
        ({"step": 3}, 3),  # 0, 3, 6
        ({"step": 3, "limit": 6}, 2),
        ({"direction": "LE"}, 8),
        ({"direction": "NE"}, 7),
        ({"direction": "GT", "first": 7, "limit": 0, "step": -1}, 7),
        ({"direction": "GE", "first": 7, "limit": 0, "step": -2}, 4),  # 7, 5, 3, 1
        ({"first": 9}, 0),
        ({"counter": "%n", "note": ', backend_config={"known_trip_count":{"n":"24"}}'}, 24),
    ],
)
def test_a_loop_goes_round_as_its_condition_or_its_note_says(of, rounds):
    module = loop(**of)
    assert module.trips == {"loop": rounds}
    assert module.runs.get("body", 0) == rounds or not rounds
    assert work(module).flops == max(rounds, 1) * 2 * 8 * 8 * 8


@pytest.mark.parametrize("of", [{"counter": "%n"}, {"step": -1}, {"direction": "EQ"}])
def test_a_loop_whose_length_is_not_written_down_is_unknown(of):
    module = loop(**of)
    assert module.trips == {"loop": None}
    assert {"body", "condition"} <= module.in_unknown_loops


def test_products_of_a_real_program_are_those_by_hand():
    """Two forward, the first of them again, four backward; the compiler's own count has each body once."""
    module = hlo.parse(PERCEPTRONS)
    assert set(module.trips.values()) == {LAYERS}
    counted = work(module)
    assert counted.flops == 7 * LAYERS * PRODUCT
    assert counted.uncounted == ()


def test_counting_bodies_once_would_miss_them(monkeypatch):
    monkeypatch.setattr(hlo, "trip_count", lambda *_: 1)
    assert work(hlo.parse(PERCEPTRONS)).flops == 7 * PRODUCT


def test_memory_traffic_of_a_real_program_is_near_what_it_must_move():
    """The gradients' loop reads and writes bf16 shards of both matrices; nothing reads a whole stack in each round."""
    stack = LAYERS * WIDTH * HIDDEN // 4 * 4
    assert stack < work(hlo.parse(PERCEPTRONS)).hbm_bytes < 40 * stack


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Attention's scores of 4 rows and 3 heads, each with its own: the batch axes are spatial ones, dilated.
        (
            "f32[4,3,17,8]{2,3,1,0} convolution(%a, %b), window={size=4x3 stride=3x2 lhs_dilate=4x3}, "
            "dim_labels=01bf_01io->01bf",
            2 * 4 * 3 * 17 * 8 * 6,
        ),
        ("f32[5,17,8]{2,1,0} convolution(%c, %d), window={size=1}, dim_labels=0bf_io0->0bf", 2 * 5 * 17 * 8 * 6),
        # 3 x 3 over 6 x 6 with a border of padding, which does not count.
        (
            "f32[2,6,6,8]{3,2,1,0} convolution(%e, %f), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
            2 * 2 * 8 * 6 * (6 * 3 - 2) ** 2,
        ),
        (
            "f32[2,3,3,8]{3,2,1,0} convolution(%e, %g), window={size=2x2 stride=2x2}, dim_labels=b01f_01io->b01f, "
            "feature_group_count=2",
            2 * 2 * 8 * 3 * (3 * 2) ** 2,
        ),
    ],
)
def test_a_convolution_counts_where_its_window_meets_entries(text, expected):
    operands = """
  %a = f32[4,3,17,6]{3,2,1,0} parameter(0)
  %b = f32[4,3,6,8]{3,2,1,0} parameter(1)
  %c = f32[5,17,6]{2,1,0} parameter(2)
  %d = f32[6,8,1]{2,1,0} parameter(3)
  %e = f32[2,6,6,6]{3,2,1,0} parameter(4)
  %f = f32[3,3,6,8]{3,2,1,0} parameter(5)
  %g = f32[2,2,3,8]{3,2,1,0} parameter(6)"""
    module = hlo.parse(f"HloModule one\n\nENTRY %main (a: f32[]) -> f32[] {{{operands}\n  ROOT %out = {text}\n}}\n")
    entry = module.computations["main"]
    assert product_flops(entry, entry.root) == expected


def test_a_kernel_says_what_it_costs_or_is_named():
    line = '  ROOT %k = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call"'
    cost = ', backend_config={"custom_call_config":{"body":"x","cost_estimate":{"flops":1234,"bytes_accessed":5}}}'
    start = "HloModule one\n\nENTRY %main (a: f32[8]) -> f32[8] {\n  %a = f32[8]{0} parameter(0)\n"
    assert work(hlo.parse(f"{start}{line}{cost}\n}}\n")).flops == 1234
    silent = work(hlo.parse(f"{start}{line}\n}}\n"))
    assert (silent.flops, silent.uncounted) == (0, ("k: custom call tpu_custom_call",))
    mark = line.replace("tpu_custom_call", "PrepareAsyncCallStart")
    assert work(hlo.parse(f"{start}{mark}\n}}\n")).uncounted == (), "a v6e's scatter on another core begins with it"


def test_splash_costs_the_products_that_its_kernels_do_and_its_attributes_run_over_lines():
    text = """HloModule one

ENTRY %main (m: s8[1,5,5], q: bf16[8,20,640,64], k: bf16[8,20,512,64], l: f32[8,20,1,640]) -> bf16[8,20,640,64] {
  %m = s8[1,5,5]{2,1,0} parameter(0)
  %q = bf16[8,20,640,64]{3,2,1,0} parameter(1)
  %k = bf16[8,20,512,64]{3,2,1,0} parameter(2)
  %dq = bf16[8,20,640,64]{3,2,1,0} custom-call(%m, %q, %k, %k), custom_call_target="tpu_custom_call", a={m={
"xprof_metadata":"{\\"block_q_dq\\": 128}"
}}, metadata={op_name="jit(f)/splash_mha_dq_no_residuals/pallas_call"}
  ROOT %out = bf16[8,20,640,64]{3,2,1,0} add(%dq, %q)
}
"""
    module = hlo.parse(text)
    assert list(module.computations["main"].instructions) == ["m", "q", "k", "dq", "out"]
    assert (found := work(module)).uncounted == ()
    assert found.flops == 3 * 2 * 8 * 20 * 640 * 512 * 64


SLICES = """HloModule slices

%read (p: f32[32,1024], i: s32[]) -> f32[1,1024] {
  %p = f32[32,1024]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = f32[1,1024]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,1024}
}

%write (q: f32[32,1024], u: f32[1,1024], j: s32[]) -> f32[32,1024] {
  %q = f32[32,1024]{1,0} parameter(0)
  %u = f32[1,1024]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %updated = f32[32,1024]{1,0} dynamic-update-slice(%q, %u, %j, %zero.1)
}

"""
"""Fusions that read a row of a stack, and write one."""


def test_only_the_slice_that_a_fusion_reads_or_writes_is_traffic():
    text = (
        SLICES
        + """ENTRY %main (stack: f32[32,1024], n: s32[]) -> f32[32,1024] {
  %stack = f32[32,1024]{1,0} parameter(0)
  %n = s32[]{:S(6)} parameter(1)
  %row = f32[1,1024]{1,0} fusion(%stack, %n), kind=kLoop, calls=%read
  %kept = f32[1,1024]{1,0:T(1,128)S(1)} copy(%row)
  ROOT %out = f32[32,1024]{1,0} fusion(%stack, %kept, %n), kind=kLoop, calls=%write
}
"""
    )
    row = 4 * 1024
    # Read and written by the first; read by the copy, which stays on the chip; written by the last.
    assert work(hlo.parse(text)).hbm_bytes == 2 * row + row + row


def test_a_slice_is_no_more_traffic_in_a_fusion_of_fusions_or_on_its_own_way_to_the_chip():
    text = (
        SLICES
        + """%both (stack.1: f32[32,1024], other: f32[32,1024], n.1: s32[]) -> f32[32,1024] {
  %stack.1 = f32[32,1024]{1,0} parameter(0)
  %other = f32[32,1024]{1,0} parameter(1)
  %n.1 = s32[] parameter(2)
  %inner = f32[1,1024]{1,0} fusion(%stack.1, %n.1), kind=kLoop, calls=%read
  ROOT %outer = f32[32,1024]{1,0} fusion(%other, %inner, %n.1), kind=kLoop, calls=%write
}

ENTRY %main (stack: f32[32,1024], target: f32[32,1024], n: s32[]) -> f32[32,1024] {
  %stack = f32[32,1024]{1,0} parameter(0)
  %target = f32[32,1024]{1,0} parameter(1)
  %n = s32[]{:S(6)} parameter(2)
  %moves = ((f32[32,1024]{1,0}), f32[4,1024]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%stack), slice={[0:4], [0:1024]}
  %there = f32[4,1024]{1,0:S(1)} slice-done(%moves)
  ROOT %out = f32[32,1024]{1,0} fusion(%stack, %target, %n), kind=kLoop, calls=%both
}
"""
    )
    row = 4 * 1024
    # Four rows are read on their way to the chip; one is read and one written by the fusion.
    assert work(hlo.parse(text)).hbm_bytes == 4 * row + row + row


def test_source_places_come_from_the_tables_of_the_text():
    module = hlo.parse(PERCEPTRONS)
    products = [i for c in module.computations.values() for i in c.instructions.values() if i.opcode == "convolution"]
    stacks = [list(module.frames.stack(product.stack_frame)) for product in products]
    assert all(stack[0] == ("/src/vla_jax/language/decoder.py", "loss.<locals>.body") for stack in stacks)
    assert all(stack[-1][1] == "<module>" for stack in stacks)
