"""The Open Inference Protocol's tensors, as every service reads and writes them."""
