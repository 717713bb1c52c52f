"""The text of compiled programs, read."""

from snnkd_jax.planning.collectives import Collective, collectives, total_bytes

TEXT = """
HloModule jit_step, entry_computation_layout={(f32[3,3,64,64]{3,2,1,0:T(8,128)})->f32[]}

%region (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b), metadata={op_name="all-reduce(x)"}
}

ENTRY %main {
  %all-reduce.1 = f32[3,3,64,64]{3,2,1,0:T(8,128)S(1)} all-reduce(%fusion.3), channel_id=1, to_apply=%region
  %all-reduce-start = (f32[64]{0:T(128)}, bf16[8,2]{1,0:T(8,128)(2,1)}) all-reduce-start(%a, %b), channel_id=2
  %all-reduce-done = (f32[64]{0}, bf16[8,2]{1,0}) all-reduce-done(%all-reduce-start)
  %fusion.9 = f32[64]{0} fusion(%all-reduce.1, %all-reduce-done), kind=kLoop, calls=%fused
  %permute = pred[5]{0} collective-permute(%p), channel_id=3, source_target_pairs={{0,1}}
  ROOT %gather = f32[] all-gather(%q), channel_id=4, dimensions={0}
}
"""


def test_every_array_of_every_collective_is_found_once():
    assert collectives(TEXT) == (
        Collective("all-reduce", "f32", (3, 3, 64, 64)),
        Collective("all-reduce", "f32", (64,)),
        Collective("all-reduce", "bf16", (8, 2)),
        Collective("collective-permute", "pred", (5,)),
        Collective("all-gather", "f32", ()),
    )


def test_bytes():
    """By hand: 4 · 9 · 64 · 64 + 4 · 64 + 2 · 16."""
    assert total_bytes(collectives(TEXT)) == {
        "all-reduce": 147_456 + 256 + 32,
        "collective-permute": 5,
        "all-gather": 4,
    }
