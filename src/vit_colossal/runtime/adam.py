"""The arithmetic of ColossalAI's Adam kernels, in plain PyTorch."""

from __future__ import annotations

import torch

_HALF = (torch.float16, torch.bfloat16)


def _in_single(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` itself, or a float32 copy of a 16-bit one: Adam's arithmetic needs the digits."""
    return tensor.float() if tensor.dtype in _HALF else tensor


def _bias_corrections(step: int, beta1: float, beta2: float, wanted: bool) -> tuple[float, float]:
    return (1 - beta1**step, 1 - beta2**step) if wanted else (1.0, 1.0)


class CPUAdamOptimizer:
    """Adam for one tensor at a time, with the constructor and ``step`` of the compiled kernel.

    The operations and their order are those of ``torch.optim.AdamW(foreach=False)``, so float32
    results agree to the bit. Hyper-parameters are given again with every step; those of the
    constructor are kept only as far as ``step`` does not repeat them.

    Args:
        lr: Learning rate.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the denominator.
        weight_decay: Weight decay.
        adamw_mode: Decoupled weight decay (AdamW) rather than an L2 term in the gradient.
    """

    def __init__(
        self,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        adamw_mode: bool = True,
    ) -> None:
        self.adamw_mode = adamw_mode

    @torch.no_grad()
    def step(
        self,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
        bias_correction: bool,
        param: torch.Tensor,
        grad: torch.Tensor,
        exp_avg: torch.Tensor,
        exp_avg_sq: torch.Tensor,
        loss_scale: float = -1.0,
    ) -> None:
        """Update ``param``, ``exp_avg`` and ``exp_avg_sq`` in place; ``grad`` is left as it is.

        Args:
            step: Number of this step, from 1.
            lr: Learning rate.
            beta1: Decay of the first moment.
            beta2: Decay of the second moment.
            epsilon: Added to the denominator.
            weight_decay: Weight decay.
            bias_correction: Divide the moments by 1 - beta^step.
            param: Weights, float32 or 16 bit, of any shape.
            grad: Gradient of as many elements, float32 or 16 bit.
            exp_avg: First moment, shaped like ``param``.
            exp_avg_sq: Second moment, shaped like ``param``.
            loss_scale: What the gradient is divided by; none if not positive.
        """
        weight, first, second = _in_single(param), _in_single(exp_avg), _in_single(exp_avg_sq)
        slope = grad.to(weight.dtype).view_as(weight)
        if loss_scale > 0:
            slope = slope / loss_scale
        if self.adamw_mode:
            weight.mul_(1 - lr * weight_decay)
        elif weight_decay != 0:
            slope = slope.add(weight, alpha=weight_decay)

        first.lerp_(slope, 1 - beta1)
        second.mul_(beta2).addcmul_(slope, slope, value=1 - beta2)
        correction1, correction2 = _bias_corrections(step, beta1, beta2, bool(bias_correction))
        denominator = (second.sqrt() / correction2**0.5).add_(epsilon)
        weight.addcdiv_(first, denominator, value=-(lr / correction1))

        for tensor, updated in ((param, weight), (exp_avg, first), (exp_avg_sq, second)):
            if updated is not tensor:
                tensor.copy_(updated)


@torch.no_grad()
def multi_tensor_adam(
    chunk_size: int,
    noop_flag: torch.Tensor,
    tensor_lists: list[list[torch.Tensor]],
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    step: int,
    mode: int,
    bias_correction: int,
    weight_decay: float,
    div_scale: float = -1.0,
) -> None:
    """Adam for lists of tensors, as ``torch.optim.AdamW(foreach=True)`` rounds it.

    On CUDA by PyTorch's fused kernel, so that every plugin's update rounds alike there too.
    Positional arguments as ``colossalai.utils.multi_tensor_applier`` passes them to the CUDA kernel
    (upstream ``csrc/kernel/cuda/multi_tensor_adam_kernel.cu``). Like it, infinities and NaNs are
    propagated and gradients are left as they are.

    Args:
        chunk_size: The CUDA kernel's work size; no meaning here.
        noop_flag: The CUDA kernel ignores it too.
        tensor_lists: Four lists of equal length, all on one device: gradients, weights, first and
            second moments. Weights and moments are updated in place.
        lr: Learning rate.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        epsilon: Added to the denominator.
        step: Number of this step, from 1.
        mode: 1 for decoupled weight decay (AdamW), 0 for an L2 term in the gradient.
        bias_correction: 1 to divide the moments by 1 - beta^step.
        weight_decay: Weight decay.
        div_scale: What the gradients are divided by; none if not positive.
    """
    grads, params, exp_avgs, exp_avg_sqs = tensor_lists
    if not params:
        return
    weights = [_in_single(tensor) for tensor in params]
    firsts = [_in_single(tensor) for tensor in exp_avgs]
    seconds = [_in_single(tensor) for tensor in exp_avg_sqs]
    slopes = [grad.to(weight.dtype) for grad, weight in zip(grads, weights, strict=True)]
    if div_scale > 0:
        slopes = list(torch._foreach_div(slopes, div_scale))
    numbers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": epsilon}
    numbers["weight_decay"] = weight_decay
    lists = (weights, slopes, firsts, seconds)
    if bias_correction == 1 and weights[0].device.type == "cuda":
        _update_fused(*lists, step, numbers, decoupled=mode == 1)
    else:
        corrections = _bias_corrections(step, beta1, beta2, bias_correction == 1)
        _update_in_lists(*lists, corrections, numbers, decoupled=mode == 1)

    for tensors, updated in ((params, weights), (exp_avgs, firsts), (exp_avg_sqs, seconds)):
        if any(new is not old for new, old in zip(updated, tensors, strict=True)):
            torch._foreach_copy_(tensors, updated)


def _update_fused(
    weights: list[torch.Tensor],
    slopes: list[torch.Tensor],
    firsts: list[torch.Tensor],
    seconds: list[torch.Tensor],
    step: int,
    numbers: dict[str, float],
    *,
    decoupled: bool,
) -> None:
    """What ``torch.optim.AdamW(fused=True)`` calls, or Adam."""
    # Filled on the device: a number that is copied there would be waited for.
    count = torch.full((), float(step), device=weights[0].device)
    kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
    kernel(
        weights,
        slopes,
        firsts,
        seconds,
        [],
        [count] * len(weights),
        lr=numbers["lr"],
        beta1=numbers["beta1"],
        beta2=numbers["beta2"],
        weight_decay=numbers["weight_decay"],
        eps=numbers["eps"],
        amsgrad=False,
        maximize=False,
    )


def _update_in_lists(
    weights: list[torch.Tensor],
    slopes: list[torch.Tensor],
    firsts: list[torch.Tensor],
    seconds: list[torch.Tensor],
    corrections: tuple[float, float],
    numbers: dict[str, float],
    *,
    decoupled: bool,
) -> None:
    """The operations of ``torch.optim.AdamW(foreach=True)``, in their order; empties ``slopes``."""
    lr, decay = numbers["lr"], numbers["weight_decay"]
    if decay != 0 and decoupled:
        torch._foreach_mul_(weights, 1 - lr * decay)
    elif decay != 0:
        slopes[:] = torch._foreach_add(slopes, weights, alpha=decay)
    torch._foreach_lerp_(firsts, slopes, 1 - numbers["beta1"])
    torch._foreach_mul_(seconds, numbers["beta2"])
    torch._foreach_addcmul_(seconds, slopes, slopes, 1 - numbers["beta2"])
    slopes.clear()  # not needed any more, and as large as the weights
    denominators = torch._foreach_sqrt(seconds)
    torch._foreach_div_(denominators, corrections[1] ** 0.5)
    torch._foreach_add_(denominators, numbers["eps"])
    torch._foreach_addcdiv_(weights, firsts, denominators, -(lr / corrections[0]))


@torch.no_grad()
def multi_tensor_scale(
    chunk_size: int,
    noop_flag: torch.Tensor,
    tensor_lists: list[list[torch.Tensor]],
    scale: float,
) -> None:
    """Write ``inputs * scale`` to the outputs and flag what is not finite.

    Args:
        chunk_size: The CUDA kernel's work size; no meaning here.
        noop_flag: One integer; becomes 1 if any result is infinite or NaN.
        tensor_lists: Two lists of equal length: inputs and outputs.
        scale: The factor.
    """
    inputs, outputs = tensor_lists
    if not inputs:
        return
    scaled = torch._foreach_mul([_in_single(tensor) for tensor in inputs], scale)
    torch._foreach_copy_(outputs, scaled)
    finite = torch.stack([tensor.isfinite().all() for tensor in scaled]).all()
    noop_flag.copy_(torch.maximum(noop_flag, (~finite).to(noop_flag.dtype)))


@torch.no_grad()
def multi_tensor_l2norm(
    chunk_size: int,
    noop_flag: torch.Tensor,
    tensor_lists: list[list[torch.Tensor]],
    per_tensor: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Euclidean norm over all tensors of a list.

    Args:
        chunk_size: The CUDA kernel's work size; no meaning here.
        noop_flag: Not used.
        tensor_lists: One list of tensors, not empty.
        per_tensor: Return each tensor's norm as well.

    Returns:
        The norm over everything, shape (1,), and each tensor's norm, shape (number of tensors,), or
        an empty tensor; float32 for 16-bit input.
    """
    (tensors,) = tensor_lists
    norms = torch.stack(torch._foreach_norm([_in_single(tensor) for tensor in tensors]))
    return norms.norm().reshape(1), norms if per_tensor else norms.new_empty(0)
