"""Make candidates, check fidelity, time, decide, record."""
