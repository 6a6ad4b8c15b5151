# SPDX-License-Identifier: MIT
"""What `import geodesic_fast` loads beyond torch: nothing that takes long."""

import subprocess
import sys

HEAVY = {
    "matplotlib", "pandas", "sklearn", "sympy", "scipy", "jax", "transformers", "lightning", "torchmetrics",
    "torch._dynamo", "torch._inductor", "torch.export", "torch.distributed.tensor",
}  # fmt: skip
LOADED = "import sys, torch; before = set(sys.modules); {}; print(*(set(sys.modules) - before))"


def loaded_by(code):
    words = [sys.executable, "-c", LOADED.format(code)]
    return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())


def test_import_loads_nothing_heavy():
    loaded = loaded_by("import geodesic_fast")
    assert "geodesic_fast.metrics.ots" in loaded
    assert not {name for name in loaded if any(f"{name}.".startswith(f"{heavy}.") for heavy in HEAVY)}


def test_calls_load_no_compiler():
    calls = "gf.lss(x), gf.nearest_track(x), gf.ots(x), gf.geodesic_gap(x)"
    loaded = loaded_by(f"import geodesic_fast as gf; x = torch.randn(4, 8, 3); {calls}")
    assert "torch._dynamo" not in loaded
