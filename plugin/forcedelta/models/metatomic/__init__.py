"""Models of metatomic: exported files of any architecture, and the published PETs (uPET).

`catalogue` names the published ones, `exported` loads files of ``AtomisticModel.save``, and
`checkpoints` those of metatrain. `module` makes them modules of forcedelta, and `pet` gives PETs the
form that OpenMM's TorchForce needs.
"""
