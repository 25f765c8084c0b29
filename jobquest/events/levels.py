"""Levels: how much XP each of them needs."""

from __future__ import annotations

from math import isqrt

XP_STEP = 100


def xp_for_level(level: int) -> int:
    """XP at which `level` (1 and up) is reached: 0, 100, 300, 600, 1000, … = 100·n·(n-1)/2."""
    return XP_STEP * level * (level - 1) // 2


def level_for_xp(xp: int) -> int:
    """The level that `xp` (0 and up) reaches; exact for whole numbers of any size."""
    # n(n-1)/2 <= xp/100  <=>  (2n-1)^2 <= 8·xp/100 + 1
    return (isqrt(8 * xp // XP_STEP + 1) + 1) // 2
