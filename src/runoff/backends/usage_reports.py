"""Switches off the usage reports of libraries that send some when they are imported. Knows no runtime."""

from __future__ import annotations

import sys


def hide_openvino_telemetry() -> None:
    """Make OpenVINO and NNCF do without the library that reports their use over the network.

    Importing them forks a process that sends the reports and may outlive this one. To be called before that.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
