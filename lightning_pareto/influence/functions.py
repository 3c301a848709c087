"""The torch functions in which parameters act on data, each with a wrapper that records the use.

A wrapper takes the recorder and then the arguments of the function. It returns the same output, and records which
operation the parameters performed on which input.
"""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_pareto.influence.operations import (
    Broadcast,
    Convolution,
    Lookup,
    MatrixProduct,
    Scaling,
    Terms,
    TransposedConvolution,
    TransposedProduct,
)

if TYPE_CHECKING:
    from lightning_pareto.influence.recorder import Recorder


def _linear(recorder: Recorder, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return recorder.linear(input, weight, bias)


def _product_with_bias(recorder: Recorder, bias: Tensor, x: Tensor, weight: Tensor, **options: Any) -> Tensor:
    output = torch.addmm(bias, x, weight, **options)
    if options:
        return output
    items = _items(x)
    x, output = x.reshape(*items, -1), output.reshape(*items, -1)
    recorder.record(x, output, None, bias, MatrixProduct)
    return recorder.record(x, output, weight, None, lambda _: TransposedProduct()).flatten(0, -2)


def _items(x: Tensor) -> tuple[int, ...]:
    """Leading dimensions of a matrix (items, features) before it was flattened, such as samples and tokens."""
    shape = x.shape if x._base is None else x._base.shape
    counts = itertools.accumulate(shape, operator.mul)
    leading = next((end for end, count in enumerate(counts, 1) if count == len(x)), None)
    return tuple(x.shape[:1] if leading is None else shape[:leading])


def _product(recorder: Recorder, input: Any, other: Any) -> Any:
    output = torch.matmul(input, other)
    if isinstance(other, Tensor) and other.ndim == 2 and input.ndim > 1:
        recorder.record(input, output, other, None, lambda _: TransposedProduct())
    return output


_OPTIONS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED_OPTIONS = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


def _convolution(function: Callable[..., Tensor], transposed: bool = False) -> Callable[..., Tensor]:
    names = _TRANSPOSED_OPTIONS if transposed else _OPTIONS

    def convolve(recorder: Recorder, *args: Any, **kwargs: Any) -> Tensor:
        output = function(*args, **kwargs)
        given = dict(zip(names, args, strict=False)) | kwargs
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        kernel, item = tuple(weight.shape[2:]), weight.ndim - 1  # an item has channels and spatial dimensions
        stride, dilation = (_per_dimension(given.get(name, 1), len(kernel)) for name in ("stride", "dilation"))
        sides = _padded_sides(given.get("padding", 0), kernel, dilation)

        def convolution(terms: Terms) -> Convolution:
            return Convolution(terms, item, kernel, stride, sides, dilation, given.get("groups", 1))

        if not transposed:
            return recorder.record(x, output, weight, bias, convolution)
        recorder.record(x, output, weight, None, lambda terms: TransposedConvolution(convolution(terms)))
        ones, shape = output.new_ones(1).expand_as(output), (output.shape[1], *[1] * len(kernel))
        return recorder.record(ones, output, None, bias, lambda terms: Broadcast(terms, shape, item))

    return convolve


def _per_dimension(value: Any, space: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * space if len(values) == 1 else values


def _padded_sides(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Padding before and after, for every dimension."""
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in _per_dimension(0 if padding == "valid" else padding, len(kernel)))


def _normalisation(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    signature = inspect.signature(function)

    def normalise(recorder: Recorder, *args: Any, **kwargs: Any) -> Tensor:
        given = signature.bind(*args, **kwargs).arguments
        output = function(**given)
        if given.get("training"):  # a batch norm that mixes the samples
            return output
        weight, bias = given.pop("weight", None), given.pop("bias", None)
        with torch.no_grad():
            x = function(**given)
        space = len(given.get("normalized_shape", ()))
        item, features = (space, space) if space else (x.ndim - 1, 1)
        return recorder.record(x, output, weight, bias, lambda terms: Scaling(terms, item, features))

    return normalise


def _embedding(
    recorder: Recorder,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Look up rows of a table, once per sample if the batch shares the lookup (for instance of its positions)."""
    if recorder.expands_lookup(input):
        input = (input[0] if input.ndim > 1 else input).expand(recorder.samples, -1)  # noqa: A001
    output = F.embedding(input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    padding = None if padding_idx is None else padding_idx % len(weight)
    return recorder.record(input, output, weight, None, lambda _: Lookup(len(weight), padding))


_ATTENTION = inspect.signature(F.multi_head_attention_forward)


def _attention(recorder: Recorder, *args: Any, **kwargs: Any) -> Any:
    """Compute the projections outside of torch's function, where they are recorded; inside, use identity matrices."""
    bound = _ATTENTION.bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if given["use_separate_proj_weight"]:
        return F.multi_head_attention_forward(**given)
    weight, bias = given["in_proj_weight"], given["in_proj_bias"]
    width = given["embed_dim_to_check"]
    query, key, value = given["query"], given["key"], given["value"]
    if query is key and key is value:
        given["query"], given["key"], given["value"] = recorder.linear(query, weight, bias).chunk(3, dim=-1)
    else:
        for number, name in enumerate(("query", "key", "value")):
            rows = slice(number * width, (number + 1) * width)
            given[name] = recorder.linear(given[name], weight, bias, rows)
    eye = torch.eye(width, dtype=weight.dtype, device=weight.device)
    out_weight, out_bias = given["out_proj_weight"], given["out_proj_bias"]
    identities = dict.fromkeys(("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj_weight"), eye)
    given |= identities | dict.fromkeys(("in_proj_weight", "in_proj_bias", "out_proj_bias"))
    given["use_separate_proj_weight"] = True
    mixed, attention = F.multi_head_attention_forward(**given)
    return recorder.linear(mixed, out_weight, out_bias), attention


def _elementwise(function: Callable[..., Tensor], multiplies: bool) -> Callable[..., Tensor]:
    def combine(recorder: Recorder, input: Any, other: Any, **options: Any) -> Any:
        output = function(input, other, **options)
        for one, companion in ((input, other), (other, input)):
            if isinstance(output, Tensor) and not options:
                x = companion if multiplies and isinstance(companion, Tensor) else output.new_ones(1)
                _record_broadcast(recorder, x, output, one)
        return output

    return combine


def _scaled_sum(recorder: Recorder, input: Tensor, tensor1: Tensor, tensor2: Tensor) -> Tensor:
    output = torch.addcmul(input, tensor1, tensor2)
    for one, x in ((input, output.new_ones(1)), (tensor1, tensor2), (tensor2, tensor1)):
        _record_broadcast(recorder, x, output, one)
    return output


def _where(recorder: Recorder, condition: Tensor, input: Any, other: Any) -> Tensor:
    output = torch.where(condition, input, other)
    for one, chosen in ((input, condition), (other, ~condition)):
        _record_broadcast(recorder, chosen.to(output.dtype), output, one)
    return output


def _masked_fill(recorder: Recorder, input: Tensor, mask: Tensor, value: Any) -> Tensor:
    output = input.masked_fill(mask, value)
    _record_broadcast(recorder, (~mask).to(output.dtype), output, input)
    return output


def _record_broadcast(recorder: Recorder, x: Tensor, output: Tensor, value: Any, repeated: bool = False) -> None:
    """Record a parameter that is broadcast over the samples; any other one has a row for each of them."""
    if not recorder.is_watched(value) or not output.ndim or len(output) % recorder.samples:
        return
    if value.ndim < output.ndim or len(value) == 1 or repeated:
        shape, item = tuple(value.shape), output.ndim - 1
        parameter = recorder.parameter(value)
        weight, bias = (value, None) if parameter is None else (parameter, parameter)
        recorder.record(x.expand_as(output), output, weight, bias, lambda terms: Broadcast(terms, shape, item))


def _expand(recorder: Recorder, input: Tensor, *sizes: Any) -> Tensor:
    output = input.expand(*sizes)
    if output.ndim > 1:
        _record_broadcast(recorder, output.new_ones(1), output, input)
    return output


def _repeat(recorder: Recorder, input: Tensor, *sizes: Any) -> Tensor:
    output = input.repeat(*sizes)
    if output.ndim == input.ndim > 1 and output.shape == (recorder.samples * len(input), *input.shape[1:]):
        _record_broadcast(recorder, output.new_ones(1), output, input, repeated=True)
    return output


def _dot_product_attention(
    recorder: Recorder, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, *args: Any, **options: Any
) -> Tensor:
    """Repeat a mask that is computed from parameters, such as a bias of relative positions, for each sample."""
    if recorder.is_watched(attn_mask):
        per_sample = (len(query), *[1] * (query.ndim - 1))
        attn_mask = _expand(recorder, attn_mask, torch.broadcast_shapes(attn_mask.shape, per_sample))
    return F.scaled_dot_product_attention(query, key, value, attn_mask, *args, **options)


def _reshaped(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reshape(recorder: Recorder, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = function(input, *args, **kwargs)
        if output.numel() == input.numel():
            recorder.remember_view(output, input)
        return output

    return reshape


RECORDED: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    F.conv1d: _convolution(F.conv1d),
    F.conv2d: _convolution(F.conv2d),
    F.conv3d: _convolution(F.conv3d),
    F.conv_transpose1d: _convolution(F.conv_transpose1d, transposed=True),
    F.conv_transpose2d: _convolution(F.conv_transpose2d, transposed=True),
    F.conv_transpose3d: _convolution(F.conv_transpose3d, transposed=True),
    F.layer_norm: _normalisation(F.layer_norm),
    F.rms_norm: _normalisation(F.rms_norm),
    F.group_norm: _normalisation(F.group_norm),
    F.batch_norm: _normalisation(F.batch_norm),
    F.instance_norm: _normalisation(F.instance_norm),
    F.embedding: _embedding,
    F.multi_head_attention_forward: _attention,
    F.scaled_dot_product_attention: _dot_product_attention,
    torch.addmm: _product_with_bias,
    torch.matmul: _product,
    torch.Tensor.matmul: _product,
    torch.Tensor.add: _elementwise(torch.add, multiplies=False),
    torch.add: _elementwise(torch.add, multiplies=False),
    torch.Tensor.add_: _elementwise(torch.Tensor.add_, multiplies=False),
    torch.Tensor.__iadd__: _elementwise(torch.Tensor.add_, multiplies=False),
    torch.Tensor.mul: _elementwise(torch.mul, multiplies=True),
    torch.mul: _elementwise(torch.mul, multiplies=True),
    torch.addcmul: _scaled_sum,
    torch.where: _where,
    torch.Tensor.masked_fill: _masked_fill,
    torch.Tensor.expand: _expand,
    torch.Tensor.repeat: _repeat,
    torch.Tensor.view: _reshaped(torch.Tensor.view),
    torch.Tensor.reshape: _reshaped(torch.Tensor.reshape),
    torch.reshape: _reshaped(torch.reshape),
    torch.Tensor.unsqueeze: _reshaped(torch.unsqueeze),
    torch.unsqueeze: _reshaped(torch.unsqueeze),
}
"""Functions that are recorded, with their wrappers."""

REPEATS = torch.Tensor.expand, torch.Tensor.repeat
"""Functions that may copy a parameter for each sample."""
