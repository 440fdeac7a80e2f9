"""MindSpore's own log lines, kept away where an error says it."""

from __future__ import annotations

import mindspore as ms
import pytest

from mindvit.runtime.quiet import quiet


def test_a_warning_of_mindspore_s_is_kept_away_inside_only(caplog: pytest.LogCaptureFixture) -> None:
    with quiet():
        ms.set_context(enable_compile_cache=False)  # an old name, which MindSpore warns of
    assert not caplog.records
    ms.set_context(enable_compile_cache=False)
    assert "enable_compile_cache" in caplog.text
