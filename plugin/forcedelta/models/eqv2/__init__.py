"""EquiformerV2 of fairchem-core 1.10, with the gradient of its energy made right."""
