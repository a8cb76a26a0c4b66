"""EquiformerV2 of fairchem-core 1.10, with the correct gradient of its energy."""
