"""Models of metatomic: exported files of any architecture, and the published PETs (uPET).

`catalogue` lists the published ones, `exported` loads files of ``AtomisticModel.save``, and
`checkpoints` those of metatrain. `module` gives them the call that ForceDelta expects, and `pet`
converts PETs for OpenMM's TorchForce.
"""
