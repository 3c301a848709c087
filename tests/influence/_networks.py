"""Networks with every kind of layer, for tests of per-sample gradients."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

CLASSES = 3


class Pooled(nn.Module):
    """A layer under test, an in-place nonlinearity, and a head."""

    def __init__(self, layer, features, space=0):
        super().__init__()
        self.layer = layer
        self.head = nn.Linear(features, CLASSES)
        self.space = space

    def forward(self, x):
        z = F.softplus(self.layer(x)).mul_(2)  # changes the softplus output in place
        if self.space:
            return self.head(z.flatten(2).mean(2))
        return self.head(z.flatten(1, -2).mean(1) if z.ndim > 2 else z)


class Repeated(nn.Module):
    """One layer called twice, on inputs of different lengths."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        once = torch.tanh(self.layer(x))
        return self.head(torch.tanh(self.layer(once[:, :2])).mean(1) + once.mean(1))


class Tied(nn.Module):
    """Two linear layers that share a weight but not the bias, and a use of the weight outside of any module."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)
        self.second.weight = self.first.weight

    def forward(self, x):
        z = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(F.linear(z, self.first.weight))


class SequenceFirst(nn.Module):
    """Puts the tokens before the samples inside."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x.transpose(0, 1))).mean(0))


class FramesInBatch(nn.Module):
    """Folds frames into the batch dimension, as video and window models do."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(2, 3, 2), nn.Linear(3, CLASSES)

    def forward(self, x):
        z = self.layer(x.flatten(0, 1)).flatten(2).mean(2)
        return self.head(torch.tanh(z).unflatten(0, x.shape[:2]).mean(1))


class Crossed(nn.Module):
    """Two layers of the same type, each used with the bias of the other, and once without a bias."""

    def __init__(self, first, second, function):
        super().__init__()
        self.first, self.second, self.function = first, second, function

    def forward(self, x):
        z = torch.tanh(self.function(x, self.first.weight, self.second.bias))
        z = torch.tanh(self.function(z, self.second.weight, self.first.bias))
        return self.function(z, self.first.weight, None)


class Attention(nn.Module):
    """Attention of a sequence to itself or to another sequence."""

    def __init__(self, to_itself, masked=False, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, **options)
        self.head = nn.Linear(4, CLASSES)
        self.to_itself, self.masked = to_itself, masked

    def forward(self, x):
        other = x if self.to_itself else x[:, :2] * 2
        mask = torch.zeros(len(x), other.shape[1], dtype=torch.bool, device=x.device)
        mask[:, -1] = self.masked
        if not self.attention.batch_first:
            x, other = (x, x) if self.to_itself else (x, other)
            x, other = x.transpose(0, 1), other.transpose(0, 1)
            other = x if self.to_itself else other
        z = self.attention(x, other, other, key_padding_mask=mask if self.masked else None)[0]
        return self.head(torch.tanh(z).mean(1 if self.attention.batch_first else 0))


class Text(nn.Module):
    """An embedding, its mean, and a head."""

    def __init__(self, **options):
        super().__init__()
        self.layer, self.head = nn.Embedding(7, 4, **options), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x)).mean(1))


class TiedEmbedding(nn.Module):
    """A table used both as an embedding and as a matrix."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(7, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(F.linear(self.table(x).mean(1), self.table.weight)))


class Positions(nn.Module):
    """Parameters that are added, multiplied and prepended to the tokens, as in vision transformers."""

    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 4, 4))
        self.gamma, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, CLASSES)

    def forward(self, x):
        z = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        return self.head(torch.tanh(z * self.gamma).mean(1))


class TablePositions(nn.Module):
    """Position embeddings, looked up once for the whole batch."""

    def __init__(self, unsqueeze=False):
        super().__init__()
        self.table, self.head, self.unsqueeze = nn.Embedding(5, 4), nn.Linear(4, CLASSES), unsqueeze

    def forward(self, x):
        positions = self.table(torch.arange(x.shape[1], device=x.device))
        z = x + (positions.unsqueeze(0) if self.unsqueeze else positions)
        return self.head(torch.tanh(z).mean(-2).reshape(-1, 4))


class Scaled(nn.Module):
    """A parameter with fewer dimensions than the samples that it multiplies."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.randn(4)), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(x * self.scale).mean((1, 2)))


class HandwrittenNorm(nn.Module):
    """A hand-written root mean square norm with a weight and a bias."""

    def __init__(self):
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(3, 1))

    def forward(self, x):
        return self.weight * x * x.square().mean(-1, keepdim=True).add(1e-5).rsqrt() + self.shift


class ResponseNorm(nn.Module):
    """A weight and a bias of one module that act elementwise, through views with a dimension for each of the input."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.randn(4))

    def forward(self, x):
        scaled = x.mul(self.scale.reshape(1, -1, 1))
        return x + torch.addcmul(self.bias.view(1, 1, -1), self.weight.unsqueeze(0), scaled.transpose(1, 2)).mean(1)[
            :, None
        ].transpose(1, 2)


class Conv1D(nn.Module):
    """Hugging Face's layer of this name: a matrix product with a transposed weight, on flattened tokens."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        flat = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return flat.view(*x.shape[:-1], len(self.bias))


class Projection(nn.Module):
    """A bare parameter that inputs are multiplied with from the left."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x @ self.weight


class BiasByHand(nn.Linear):
    """A layer that adds its bias elementwise."""

    def forward(self, x):
        return F.linear(x, self.weight) + self.bias


class PartlyRecorded(nn.Module):
    """A weight with one use that is recorded and one that is not."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x)) @ self.layer.weight)


class StandardisedConvolution(nn.Conv2d):
    """A convolution whose weight is standardised in the forward pass, as in networks without batch norm."""

    def forward(self, x):
        weight = self.weight.flatten(1)
        weight = (weight - weight.mean(1, keepdim=True)) / weight.std(1, keepdim=True)
        return F.conv2d(x, weight.view_as(self.weight), self.bias)


class OnePlusWeight(nn.Module):
    """A scale that is stored as its difference from one, in front of which nothing needs a gradient."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return x * (1.0 + self.weight)


class RelativePositions(nn.Module):
    """Attention of three tokens with a bias from a table of relative positions, perhaps within windows of them."""

    def __init__(self, fused=False, windows=1):
        super().__init__()
        self.fused, self.windows = fused, windows
        self.table = nn.Parameter(torch.randn(5, 2))  # (positions, heads)
        self.project, self.head = nn.Linear(4, 12), nn.Linear(4, CLASSES)

    def forward(self, x):
        folded = x.reshape(len(x) * self.windows, 3, 4)
        q, k, v = self.project(folded).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        index = torch.arange(3)[:, None] - torch.arange(3) + 2
        bias = self.table[index.view(-1)].view(3, 3, 2).permute(2, 0, 1).contiguous()
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            scores = q @ k.transpose(-2, -1)
            scores += bias
            mixed = scores.softmax(-1) @ v
        return self.head(torch.tanh(mixed.transpose(1, 2).reshape(*x.shape)).mean(1))


class LearnedMask(nn.Module):
    """Attention of three tokens with a learned mask, which knows neither samples nor heads; some pairs are left out."""

    def __init__(self, use):
        super().__init__()
        self.use, self.mask = use, nn.Parameter(torch.randn(3, 3))
        self.project, self.head = nn.Linear(4, 12), nn.Linear(4, CLASSES)

    def forward(self, x):
        q, k, v = self.project(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        seen = (x.sum(-1) > -1)[:, None, None] | torch.eye(3, dtype=torch.bool)  # (B, 1, 3, 3)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self.use(self.mask, seen))
        return self.head(torch.tanh(mixed.transpose(1, 2).flatten(2)).mean(1))


class RelativeKeys(nn.Module):
    """Attention with keys from a normalised table of relative positions, by the projection of the tokens' keys."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(3, 4), nn.LayerNorm(4)
        self.query, self.key, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        query, key = (self.heads(layer(x)) for layer in (self.query, self.key))
        relative = self.heads(self.key(self.norm(self.table.weight)[None])).repeat(len(x), 1, 1)
        scores = torch.bmm(query, (key + relative).transpose(1, 2))
        return self.head(torch.tanh(torch.bmm(scores, query)).unflatten(0, (-1, 2)).transpose(1, 2).flatten(2).mean(1))

    def heads(self, x):
        return x.unflatten(-1, (2, 2)).transpose(1, 2).flatten(0, 1)  # (B·heads, tokens, 2)


class Einsum(nn.Module):
    """A product that no recorded function computes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3))

    def forward(self, x):
        return torch.einsum("bti,iho->btho", x, self.weight).flatten(2)


class Adapter(nn.Module):
    """A low-rank adapter of a frozen layer."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.base(x) + self.up(self.down(x))))


class Squared(nn.Module):
    """A layer with two inputs, called with the same one twice."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, x)


class Recurrent(nn.Module):
    """A recurrent layer, which uses its weights inside a fused kernel."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.GRU(4, 3, batch_first=True), nn.Linear(3, CLASSES)

    def forward(self, x):
        return self.head(self.layer(x)[0].mean(1))


def _with_running_statistics(layer):
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    return layer


def _randomised(layer):
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def _layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias)


def _conv(kernel_size=3, **options):
    return Pooled(nn.Conv2d(4, 6, kernel_size, **options), 6, space=2), (4, 7, 6)


def _pruned():
    layer = nn.Linear(5, 4)
    prune.random_unstructured(layer, "weight", amount=0.5)
    return layer


FAST = {
    "linear": lambda: (Pooled(nn.Linear(5, 4), 4), (5,)),
    "linear without bias": lambda: (Pooled(nn.Linear(5, 4, bias=False), 4), (5,)),
    "linear on tokens": lambda: (Pooled(nn.Linear(5, 4), 4), (6, 5)),
    "linear on a grid": lambda: (Pooled(nn.Linear(5, 4), 4), (3, 2, 5)),
    "repeated": lambda: (Repeated(), (3, 4)),
    "tied": lambda: (Tied(), (4,)),
    "crossed": lambda: (Pooled(Crossed(nn.Linear(4, 4), nn.Linear(4, 4), F.linear), 4), (3, 4)),
    "crossed convolutions": lambda: (
        Pooled(Crossed(nn.Conv2d(4, 4, 2), nn.Conv2d(4, 4, 2), F.conv2d), 4, space=2),
        (4, 4, 4),
    ),
    "crossed norms": lambda: (
        Pooled(Crossed(_randomised(nn.LayerNorm(4)), _randomised(nn.LayerNorm(4)), _layer_norm), 4),
        (3, 4),
    ),
    "adapter": lambda: (Adapter(), (4,)),
    "sequence first": lambda: (SequenceFirst(nn.Linear(4, 4)), (6, 4)),
    "sequence as long as the batch": lambda: (SequenceFirst(nn.Linear(4, 4)), (5, 4)),
    "sequence of length three": lambda: (SequenceFirst(nn.Linear(4, 4)), (3, 4)),
    "frames in the batch": lambda: (FramesInBatch(), (3, 2, 4, 4)),
    "conv1d": lambda: (Pooled(nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), 6, space=1), (4, 9)),
    "conv1d same": lambda: (Pooled(nn.Conv1d(4, 6, 4, padding="same"), 6, space=1), (4, 9)),
    "conv1d circular": lambda: (Pooled(nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), 6, space=1), (4, 9)),
    "conv": _conv,
    "conv without bias": lambda: _conv(bias=False),
    "conv 1x1": lambda: _conv(1),
    "conv oblong": lambda: _conv((3, 2), stride=(2, 1), padding=(2, 0)),
    "conv stride": lambda: _conv(stride=2, padding=1),
    "conv dilation": lambda: _conv(dilation=2, padding=2),
    "conv groups": lambda: _conv(groups=2, padding=1),
    "conv depthwise": lambda: (Pooled(nn.Conv2d(4, 8, 3, groups=4), 8, space=2), (4, 7, 6)),
    "conv same": lambda: _conv((4, 3), padding="same"),
    "conv valid": lambda: _conv(padding="valid"),
    "conv circular": lambda: _conv(padding=1, padding_mode="circular"),
    "conv reflect": lambda: _conv(padding=(2, 1), padding_mode="reflect", groups=2),
    "conv replicate same": lambda: _conv(padding="same", dilation=2, padding_mode="replicate"),
    "conv3d": lambda: (Pooled(nn.Conv3d(2, 4, (2, 3, 2), groups=2, padding=1), 4, space=3), (2, 4, 5, 3)),
    "conv3d dilation stride": lambda: (Pooled(nn.Conv3d(2, 4, 2, dilation=(2, 1, 2), stride=2), 4, 3), (2, 5, 4, 5)),
    "conv3d circular": lambda: (
        Pooled(nn.Conv3d(2, 4, 3, padding=1, padding_mode="circular"), 4, space=3),
        (2, 4, 3, 4),
    ),
    "embedding": lambda: (Text(), 6),
    "embedding with padding": lambda: (Text(padding_idx=-7), 6),
    "layer norm": lambda: (Pooled(nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4)), 4), (6, 5)),
    "layer norm of two dimensions": lambda: (Pooled(nn.LayerNorm((3, 4)), 4), (3, 4)),
    "layer norm without bias": lambda: (Pooled(nn.LayerNorm(4, bias=False), 4), (3, 4)),
    "rms norm": lambda: (Pooled(nn.RMSNorm(4), 4), (3, 4)),
    "group norm": lambda: (Pooled(nn.GroupNorm(2, 4), 4, space=2), (4, 3, 3)),
    "batch norm 1d": lambda: (Pooled(_with_running_statistics(nn.BatchNorm1d(4)), 4), (4,)),
    "batch norm 2d": lambda: (Pooled(_with_running_statistics(nn.BatchNorm2d(4)), 4, space=2), (4, 3, 3)),
    "self attention": lambda: (Attention(True, batch_first=True), (5, 4)),
    "self attention, sequence first": lambda: (Attention(True), (3, 4)),
    "self attention, masked": lambda: (Attention(True, masked=True, batch_first=True), (4, 4)),
    "attention to another": lambda: (Attention(False, batch_first=True, bias=False), (5, 4)),
    "attention to another, sequence first": lambda: (Attention(False), (3, 4)),
    "transformer": lambda: (
        SequenceFirst(nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False)),
        (3, 4),
    ),
    "class token, positions and scale": lambda: (Positions(), (3, 4)),
    "positions from a table": lambda: (TablePositions(), (3, 4)),
    "positions that a batch dimension breaks": lambda: (TablePositions(unsqueeze=True), (3, 4)),
    "scale of a grid": lambda: (Scaled(), (3, 2, 4)),
    "hand-written norm": lambda: (Pooled(HandwrittenNorm(), 4), (3, 4)),
    "response norm": lambda: (Pooled(ResponseNorm(), 4, space=1), (4, 4)),
    "Conv1D of Hugging Face": lambda: (Pooled(nn.Sequential(Conv1D(5, 4), nn.Tanh(), Conv1D(4, 4)), 4), (3, 5)),
    "Conv1D on single vectors": lambda: (Pooled(Conv1D(5, 4), 4), (5,)),
    "bare matrix": lambda: (Pooled(Projection(), 3), (2, 3, 4)),
    "compiled": lambda: (torch.compile(Pooled(nn.Linear(5, 4), 4), backend="eager"), (6, 5)),
    "transposed convolution": lambda: (Pooled(nn.ConvTranspose2d(4, 6, 3), 6, space=2), (4, 5, 5)),
    "transposed convolution with as many outputs": lambda: (
        Pooled(nn.ConvTranspose1d(4, 4, 3, stride=3, padding=1, output_padding=2, groups=2, dilation=2), 4, space=1),
        (4, 5),
    ),
    "instance norm": lambda: (Pooled(nn.InstanceNorm2d(4, affine=True), 4, space=2), (4, 3, 3)),
    "bias added by hand": lambda: (Pooled(BiasByHand(5, 4), 4), (5,)),
    "tied embedding": lambda: (TiedEmbedding(), 5),
    "partly recorded": lambda: (PartlyRecorded(), (4,)),
    "spectral norm": lambda: (Pooled(parametrizations.spectral_norm(nn.Linear(5, 4)), 4), (5,)),
    "weight norm": lambda: (Pooled(parametrizations.weight_norm(nn.Linear(5, 4)), 4), (6, 5)),
    "pruned": lambda: (Pooled(_pruned(), 4), (5,)),
    "standardised convolution": lambda: (Pooled(StandardisedConvolution(4, 6, 3), 6, space=2), (4, 5, 5)),
    "one plus weight": lambda: (Pooled(OnePlusWeight(4), 4), (3, 4)),
    "relative positions": lambda: (RelativePositions(), (3, 4)),
    "relative positions in a mask": lambda: (RelativePositions(fused=True), (3, 4)),
    "relative positions in windows": lambda: (RelativePositions(windows=2), (6, 4)),
    "learned mask": lambda: (LearnedMask(lambda mask, seen: mask), (3, 4)),
    "transformed mask": lambda: (LearnedMask(lambda mask, seen: mask.tanh()), (3, 4)),
    "mask where tokens are seen": lambda: (LearnedMask(lambda mask, seen: torch.where(seen, mask, -9.0)), (3, 4)),
    "transformed mask where tokens are seen": lambda: (
        LearnedMask(lambda mask, seen: torch.where(~seen, -9.0, mask.tanh()[None, None])),
        (3, 4),
    ),
    "filled mask": lambda: (LearnedMask(lambda mask, seen: mask.exp()[None].masked_fill(~seen, -9.0)), (3, 4)),
    "relative positions as keys": lambda: (RelativeKeys(), (3, 4)),
}
"""Networks whose layers all have fast per-sample gradients, with the shape of a sample or the number of tokens."""

DERIVED = {
    "bias added by hand",
    "tied embedding",
    "partly recorded",
    "spectral norm",
    "weight norm",
    "pruned",
    "standardised convolution",
    "one plus weight",
    "relative positions",
    "relative positions in a mask",
    "relative positions in windows",
    "transformed mask",
    "transformed mask where tokens are seen",
    "filled mask",
    "relative positions as keys",
}
"""Those in which tensors are computed from parameters before the data meet them."""

SLOW = {
    "recurrent": lambda: (Recurrent(), (3, 4)),
    "bilinear": lambda: (Pooled(Squared(nn.Bilinear(5, 5, 4)), 4), (5,)),
    "einsum": lambda: (Pooled(Einsum(), 6), (3, 4)),
}
"""Networks with a layer that has no fast per-sample gradients."""
