"""Facts about this machine: processors, accelerators, memory and the runtime libraries installed."""
