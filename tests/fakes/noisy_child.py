"""A child that writes to standard output before it answers calls, as a library may when it is imported."""

from __future__ import annotations

import sys

from runoff.child import serve

if __name__ == "__main__":
    sys.stdout.write("welcome to the noisy library\n")
    sys.stdout.flush()
    serve({"echo": lambda **arguments: arguments})
