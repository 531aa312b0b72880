"""A GPU's stand-in where there is none: tensors that say they are on another device and compute on the CPU.

It protects code that follows a policy to its device from mixing tensors of two: what CUDA refuses raises here. A tensor
with dimensions meets none of the other device, but where it is copied, or where it picks from a tensor on the stand-in
by indices on the CPU; `.numpy()` asks for `.cpu()` first; a CPU's generator draws nothing there. It does not protect
what only a real GPU has: its kernels (`is_cuda` is False), its rounding, its memory.

The device is PyTorch's own for backends written in Python. It is there for good once this is imported, so import it in
a process of its own.
"""

from contextlib import contextmanager
from unittest.mock import patch

import torch
from accelerate import Accelerator
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import TrainingArguments

backend_registration._setup_privateuseone_for_python_backend("standin")
DEVICE = torch.device("standin:0")

aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class There(torch.Tensor):
    """A tensor on the stand-in. `values`: what it holds, on the CPU."""

    @staticmethod
    def __new__(cls, values):
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        return cls._make_wrapper_subclass(cls, values.size(), **layout, dtype=values.dtype, device=DEVICE)

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values.tolist()  # which torch has for none but its own tensors

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


def _computed(func, args, kwargs):
    """What `func` gives of tensors here and there. Raises RuntimeError where a GPU would."""
    given = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
    there = [part for part in given if isinstance(part, There)]
    indices = tree_leaves(args[1]) if func in INDEXED else []
    alone = [part for part in given if part.ndim and not any(part is one for one in (*there, *indices))]
    if there and alone and func not in COPIES:
        raise RuntimeError(f"{func}: {[(str(part.device), tuple(part.shape)) for part in given]}")
    device = kwargs.get("device")
    stays = bool(there) if device is None else torch.device(device).type == DEVICE.type
    if stays and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: a generator of another device")
    if func is aten._fused_sdp_choice.default:
        return 0  # plain products: fused attention is for devices that PyTorch knows
    if device is not None:
        kwargs = {**kwargs, "device": "cpu"}
    held = {id(part.values): part for part in there}
    result = func(*tree_map(_values, args), **tree_map(_values, kwargs))

    def placed(part):
        if not isinstance(part, torch.Tensor) or any(part is one for one in given):
            return part
        if id(part) in held:
            return held[id(part)]  # changed in place
        return There(part) if stays else part

    return tree_map(placed, result)


def _values(part):
    return part.values if isinstance(part, There) else part


class _Seen(TorchDispatchMode):
    """Sees what makes a tensor from none: the class of its arguments cannot."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


@contextmanager
def standin():
    """Inside, the stand-in is there, and trainers train on it."""
    trains = property(lambda arguments: arguments._setup_devices and DEVICE)
    torch._C._set_only_lift_cpu_tensors(True)  # or torch.tensor(values, device=DEVICE) would go unseen
    try:
        with (
            _Seen(),
            patch.object(Accelerator, "device", DEVICE),
            patch.object(TrainingArguments, "device", trains),
        ):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


def moved(policy):
    """The policy, its parameters and buffers on the stand-in: what `harness.policy.to_gpu` does with a GPU."""
    tied = {}
    for module in policy.model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                there = tied.setdefault(parameter, torch.nn.Parameter(There(parameter.data)))
                module._parameters[name] = there
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = There(buffer)
    return policy
