"""The GPU benchmark without a GPU: its comparison notices a difference, and it says in one line that nothing was measured."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu


def test_the_comparison_of_attention_sees_rounding_and_nothing_else() -> None:
    assert gpu.attention_error("cpu", torch.float32) == 0
    assert 1e-4 < gpu.attention_error("cpu", torch.bfloat16) < gpu.TOLERANCE[torch.bfloat16]


def test_the_comparison_of_attention_sees_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    right = gpu.packed_attention
    monkeypatch.setattr(
        gpu, "packed_attention", lambda q, k, v, *rest: right(q, k, v, *rest) * (1 + (q.dtype != torch.float32))
    )
    assert gpu.attention_error("cpu", torch.bfloat16) > gpu.TOLERANCE[torch.bfloat16]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run python -m benchmarks.gpu")
def test_without_a_gpu_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main() == 2
    assert capsys.readouterr().err == "no CUDA GPU here: nothing was measured\n"
