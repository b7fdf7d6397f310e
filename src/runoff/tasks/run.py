"""What a task is handed to compute with: arrays by name in, arrays by name out, normally `session.run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from runoff.models.arrays import Arrays

Run: TypeAlias = Callable[[Arrays], Arrays]
