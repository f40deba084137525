"""ascendrun: launch, watch, stop and collect training jobs on Huawei Ascend clusters."""

__version__ = "0.1.0"
