"""Batch normalization of the embedding, with the statistics of a sample set over all ranks."""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm

from loss.stacking import batches_sets_together
from runtime import distributed


class _NormalizeSets(torch.autograd.Function):
    """Normalize sample sets by their statistics over all ranks: one exchange for all sets.

    With the CUDA kernels of torch.nn.SyncBatchNorm, which would need one exchange for each set.
    Not differentiable twice, unlike `CrossRankBatchNorm.forward`.
    """

    @staticmethod
    def forward(ctx, norm, n_sets, weight, bias, *stacks):
        """Return the stacks normalized; also update the running statistics of `norm`.

        Args:
            ctx: what `backward` needs is saved here.
            norm: the CrossRankBatchNorm, with its running statistics.
            n_sets: number of sample sets in each stack.
            weight, bias: affine parameters (C,).
            stacks: each (n * B, C, H, W), n sets of B images.
        """
        ctx.set_materialize_grads(False)
        stacks = [x.contiguous(memory_format=torch.channels_last) for x in stacks]
        sets = [x for stack, n in zip(stacks, n_sets, strict=True) for x in stack.chunk(n)]
        rows, counts = _gather_statistics([torch.batch_norm_stats(x, norm.eps) for x in sets], sets)
        running = norm.running_mean, norm.running_var, norm.momentum, norm.eps
        statistics = [
            torch.batch_norm_gather_stats_with_counts(x, *rows[:, i].unbind(1), *running, counts)
            for i, x in enumerate(sets)
        ]
        results = [torch.empty_like(x) for x in stacks]
        parts = [y for stack, n in zip(results, n_sets, strict=True) for y in stack.chunk(n)]
        for x, own, part in zip(sets, statistics, parts, strict=True):
            torch.batch_norm_elemt(x, weight, bias, *own, norm.eps, out=part)
        needed = [any(ctx.needs_input_grad[2:4]) or need for need in ctx.needs_input_grad[4:]]
        ctx.mark_non_differentiable(*(y for y, n in zip(results, needed, strict=True) if not n))
        if any(needed):
            ctx.n_sets = [n if need else 0 for n, need in zip(n_sets, needed, strict=True)]
            kept = [need for n, need in zip(n_sets, needed, strict=True) for _ in range(n)]
            pairs = [pair for pair, keep in zip(statistics, kept, strict=True) if keep]
            inputs = [x for x, keep in zip(sets, kept, strict=True) if keep]
            values = [value for pair in pairs for value in pair]
            ctx.save_for_backward(weight, counts.to(torch.int32), *inputs, *values)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        """Return the gradients of the inputs of `forward`, from those of the normalized stacks.

        Those of the stacks account for the statistics of all ranks; those of weight and bias, of
        this rank's images alone.
        """
        weight, counts, *saved = ctx.saved_tensors
        n_total = sum(ctx.n_sets)
        inputs, values = saved[:n_total], saved[n_total:]
        sets = [
            (grad, x, mean, invstd, weight)
            for grad, x, mean, invstd in zip(
                _split_gradients(grads, ctx.n_sets), inputs, values[::2], values[1::2], strict=True
            )
        ]
        needed = True, *ctx.needs_input_grad[2:4]
        sums = [torch.batch_norm_backward_reduce(*x, *needed) for x in sets]
        total = distributed.all_reduce_sum(torch.stack([y for x in sums for y in x[:2]]))
        parts = iter(
            torch.batch_norm_backward_elemt(*x, *pair, counts)
            for x, pair in zip(sets, total.unflatten(0, (-1, 2)).unbind(), strict=True)
        )
        grad_stacks = [_join([next(parts) for _ in range(n)]) for n in ctx.n_sets]
        affine = [
            sum(column) if need else None
            for column, need in zip(list(zip(*sums, strict=True))[2:], needed[1:], strict=True)
        ]
        return None, None, *affine, *grad_stacks


def _gather_statistics(pairs, sets):
    """Return the statistics of all ranks (ranks, S, 2, C) and their counts (ranks,).

    Args:
        pairs: (mean, 1 / standard deviation) of each of S sample sets, each (C,).
        sets: list of S sample sets of one shape (B, C, H, W).
    """
    x, mean = sets[0], pairs[0][0]
    count = mean.new_full((1,), x.numel() / x.shape[1])
    row = torch.cat([value for pair in pairs for value in pair] + [count])
    rows = distributed.all_gather_rows(row)
    return rows[:, :-1].unflatten(1, (len(pairs), 2, -1)), rows[:, -1]


def _split_gradients(grads, n_sets):
    """Return the gradient of each sample set, in channels_last."""
    result = []
    for grad, n in zip(grads, n_sets, strict=True):
        if n:
            result += grad.contiguous(memory_format=torch.channels_last).chunk(n)
    return result


def _join(parts):
    """Return the stack of a list of sample sets; None for an empty one."""
    return torch.cat(parts) if len(parts) > 1 else (parts or [None])[0]


class CrossRankBatchNorm(nn.BatchNorm2d):
    """Batch normalization with the statistics of a sample set over all ranks."""

    def _statistics(self, x):
        """Return mean and variance (C,) of x (B, C, H, W), float32, over all ranks.

        The running statistics are updated.
        """
        own_mean = x.mean((0, 2, 3))
        own_var = (x - own_mean.view(1, -1, 1, 1)).square().mean((0, 2, 3))
        row = torch.cat([own_mean, own_var, own_mean.new_full((1,), x.numel() / x.shape[1])])
        rows = distributed.all_gather_batch(
            row[None], (distributed.rank(), distributed.world_size())
        )  # (ranks, 2*C + 1)
        n_feats = len(own_mean)
        means, variances, counts = rows.split([n_feats, n_feats, 1], dim=1)
        count = counts.sum()
        mean = (means * counts).sum(0) / count
        var = ((variances + (means - mean).square()) * counts).sum(0) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        return mean, var

    def forward(self, x):
        """Return a sample set x (B, C, H, W), in 16 or 32 bits, normalized."""
        if distributed.world_size() == 1 or not self.training:
            # nn.BatchNorm2d would count batches, a launch each; only momentum None needs the count
            running, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
            return batch_norm(x, *running, *affine, self.training, self.momentum, self.eps)
        mean, var = self._statistics(x.float())
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        scale, shift = (v.view(1, -1, 1, 1) for v in (scale, shift))
        return torch.addcmul(shift, x.float(), scale).to(x.dtype)

    def forward_sets(self, stacks, n_sets):
        """Return stacks of sample sets, each set normalized by its own statistics.

        Args:
            stacks: list of (n*B, C, H, W), sample sets of B images. If n is above 1 and there is
                one rank, without gradient.
            n_sets: n of each stack.
        """
        if distributed.world_size() > 1 and batches_sets_together(stacks[0]):
            return _NormalizeSets.apply(self, n_sets, self.weight, self.bias, *stacks)
        return [
            self(x) if n == 1 else self._normalize_stack(x, n)
            for x, n in zip(stacks, n_sets, strict=True)
        ]

    def _normalize_stack(self, stack, n_sets):
        result = torch.empty_like(stack)
        fixed = self.weight, self.bias, self.running_mean, self.running_var
        settings = True, self.momentum, self.eps
        for x, out in zip(stack.chunk(n_sets), result.chunk(n_sets), strict=True):
            unused = torch.empty_like(self.running_mean), torch.empty_like(self.running_mean)
            torch.native_batch_norm(x, *fixed, *settings, out=(out, *unused))
        return result
