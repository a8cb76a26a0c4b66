"""Direct-force models of fairchem-core 2.x: eSEN, AllScAIP and EScAIP."""
