"""The three-stem network: one dense encoder-decoder a sequence, a fused trunk for masks, a space of concepts.

Data's road::

    t2w (1, 24, 112, 112) -> stem -> features -> folded 2x2 -------\\
    adc (1, 24,  64,  64) -> stem -> features -> to the folded grid - trunk -> unfolded: zones, lesion, residual
    hbv (1, 24,  64,  64) -> stem -> features -> to the folded grid -/
                   |-> tower -> voxel embedding (3 extent classes x d), attention (3), conspicuity (3)
    phrases (values x paraphrases x 384) -> projection -> value embeddings (values, d)

A concept of a sequence reads that sequence's stem only, so its evidence cannot depend on another sequence. Evidence of
a value has two factors, both the sequence's own: *what* is seen (the cosine to the value's phrase) and *that something
is seen here at all* (conspicuity, one map an extent class). Values of normal tissue need only the first.

Folding puts each 2x2 block of a slice's pixels into channels (sub-pixel convolution, Shi 2016): nothing is lost, and
convolutions run on a quarter of the voxels, which is what makes training and reading on a processor affordable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from MedRationaleLogic.model.grids import FINE, SEQUENCES
from MedRationaleLogic.model.pooling import EXTENTS, GEOMETRY, OF_A_REGION, Region, attend
from MedRationaleLogic.model.unet import Triple, UNet

TEXT_DIM = 384

#: Parts of a stem that a network without towers does not have.
OF_A_TOWER: Final = ("tower", "conspicuity", "placed", "together")

#: What normal tissue shows: needs nothing conspicuous. Evidence of any other value outside regions is a fault.
QUIET_VALUES: Final = frozenset(
    {
        ("t2.pattern", "normal"), ("t2.signal", "hyper"), ("t2.signal", "iso"), ("t2.capsule", "none"),
        ("adc.signal", "normal"), ("adc.pattern", "none"), ("hbv.signal", "normal"), ("hbv.pattern", "none"),
    }
)  # fmt: skip


@dataclass(frozen=True)
class AttributeSpec:
    """What the network must know of one attribute: its values in order, whose stem reads it, where it looks."""

    id: str
    sequence: str
    extent: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class NetworkSpec:
    """Arguments that rebuild the network; stored in a bundle's manifest.

    Attributes:
        attributes: the concept space, in the order of every value tensor.
        t2w_filters, diffusion_filters, coarse_filters: channels per resolution level.
        features: channels that a stem hands to the trunk.
        embedding: size d of the concept space.
        trunk: channels of the fused trunk, on the folded grid.
        paraphrases: phrases per value.
        residual_limit: largest absolute contribution of the trunk's residual to a suspicion's logit.
        smoothed: concepts read smoothed features (:func:`smooth`). A network must be read as it was trained: one that
            was trained without (a manifest that does not say so) loses calibration and kappa by it (docs/training.md);
            of such a network only the finished maps are smoothed.
        tower: channels of the concepts' own encoder-decoder over T2W's features, two thirds over the others'
            (:class:`Tower`), and whether there is conspicuity and an outline's say in readings (:class:`Placed`). 0 (a
            manifest that does not say so): concepts read the stem's features as they are, and evidence is the cosine's
            alone.
        together: hidden units of what a region's extents say together (:class:`Together`); 0 (a manifest that does not
            say so): each attribute is read from its own extent alone. Needs towers.
    """

    attributes: tuple[AttributeSpec, ...]
    t2w_filters: tuple[int, ...] = (24, 48, 96, 128)
    diffusion_filters: tuple[int, ...] = (16, 32, 64, 96)
    coarse_filters: tuple[int, ...] = (12, 24, 48, 64)
    features: int = 24
    embedding: int = 24
    trunk: int = 32
    paraphrases: int = 10
    residual_limit: float = 1.0
    smoothed: bool = True
    tower: int = 24
    together: int = 64

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NetworkSpec:
        """The inverse of :meth:`to_dict`.

        Raises:
            KeyError, TypeError: a field is missing or unknown.
        """
        fields = {"smoothed": False, "tower": 0, "together": 0, **data}
        fields["attributes"] = tuple(
            AttributeSpec(a["id"], a["sequence"], a["extent"], tuple(a["values"])) for a in fields["attributes"]
        )
        for name in ("t2w_filters", "diffusion_filters", "coarse_filters"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


def spec_from_lexicon(**changes: Any) -> NetworkSpec:
    """The default network over the lexicon's attributes."""
    from MedRationaleLogic.pirads import lexicon

    attributes = tuple(AttributeSpec(a.id, a.sequence, a.extent, a.value_ids) for a in lexicon.load().attributes)
    return NetworkSpec(attributes, **changes)


def _unet(inputs: int, outputs: int, filters: Sequence[int], flat: int, planar: int) -> UNet:
    """For slices thicker than pixels: the first ``flat`` halvings, and the kernels of the ``planar`` finest levels, are
    in plane only."""
    levels = range(len(filters))
    strides: list[Triple] = [(1, 1, 1), *((1, 2, 2) if k < flat else (2, 2, 2) for k in levels[:-1])]
    kernels: list[Triple] = [(1, 3, 3) if k < planar else (3, 3, 3) for k in levels]
    return UNet(inputs, outputs, filters, kernels, strides)


def fold(x: Tensor) -> Tensor:
    """(n, c, z, y, x) to (n, 4c, z, y/2, x/2): each slice's 2x2 blocks become channels.

    Raises:
        RuntimeError: y or x is odd.
    """
    n, c, z, height, width = x.shape
    # one copy and contiguous: two transposes around pixel_unshuffle cost the convolution behind it a reorder
    x = x.reshape(n, c, z, height // 2, 2, width // 2, 2).permute(0, 1, 4, 6, 2, 3, 5)
    return x.reshape(n, 4 * c, z, height // 2, width // 2)


def unfold(x: Tensor) -> Tensor:
    """The inverse of :func:`fold`."""
    n, c, z, height, width = x.shape
    x = x.reshape(n, c // 4, 2, 2, z, height, width).permute(0, 1, 4, 5, 2, 6, 3)
    return x.reshape(n, c // 4, z, height * 2, width * 2)


def smooth(x: Tensor, folded: bool) -> Tensor:
    """Features (n, c, z, y, x) without the lattice that a stem's up-convolutions leave in plane.

    The binomial 1-2-1 is zero at a period of two pixels; a folded stem, whose lattice has periods of two and four,
    takes 1-2-2-2-1, zero at both. The outermost pixels are repeated. A map that a person looks at must not show the
    network's own grid, and what a concept reads is what its map shows, so a network is trained and read with these
    features.
    """
    # 1-2-1 is (1 1)(1 1) and 1-2-2-2-1 is (1 1)(1 1)(1 0 1): a few shifted sums, where a depthwise convolution of this
    # size is several times slower on a CPU
    steps = (1, 1, 2) if folded else (1, 1)
    r = sum(steps) // 2
    n, c, z, height, width = x.shape
    y = F.pad(x.reshape(n * c, z, height, width), (r, r, r, r), mode="replicate")
    for axis in (2, 3):
        for step in steps:
            size = y.shape[axis] - step
            y = y.narrow(axis, 0, size) + y.narrow(axis, step, size)
    return (y / 4 ** len(steps)).reshape(x.shape)


class Tower(nn.Module):
    """The concepts' own small encoder-decoder over a stem's features; the masks do not pass here.

    What tells a wedge from a focus need not be what outlines either, and whether tissue is dark is a matter of what
    lies around it, centimetres away. The tower adds to the features and starts by adding nothing, so that a network
    trained without one can be given one.
    """

    def __init__(self, features: int, width: int, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        c = (4 if folded else 1) * features
        self.enter = nn.Conv3d(c, width, 1)
        # in plane but for the widest view: the stem has seen the neighbouring slices
        self.body = UNet(width, width, (width, width * 4 // 3, width * 2), [(1, 3, 3), (1, 3, 3), (3, 3, 3)],
                         [(1, 1, 1), (1, 2, 2), (1, 2, 2)])  # fmt: skip
        self.leave = nn.Conv3d(width, c, 1)
        nn.init.zeros_(self.leave.weight)
        if self.leave.bias is not None:
            nn.init.zeros_(self.leave.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(n, c, z, y, x) to the same."""
        x = self.enter(fold(features) if self.folded else features)
        x = self.leave(F.leaky_relu(x + self.body(x), 0.01))
        return features + (unfold(x) if self.folded else x)


class Placed(nn.Module):
    """What a region's outline adds to its voxels when it is read: the same image means another thing inside an outline,
    on it, and beside it, and whether a dark band is a wedge or a focus is a matter of its outline, too.

    It starts by adding nothing.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.enter = nn.Linear(spec.features + len(GEOMETRY), spec.tower)
        self.mix = nn.Linear(spec.tower, spec.tower)
        self.leave = nn.Linear(spec.tower, len(EXTENTS) * (spec.embedding + 1))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, features: Tensor, geometry: Tensor) -> tuple[Tensor, Tensor]:
        """(c, k) and (len(GEOMETRY), k) to what is added to embeddings (3, d, k) and attention logits (3, k)."""
        x = F.leaky_relu(self.enter(torch.cat([features, geometry]).T), 0.01)
        x = self.leave(F.leaky_relu(self.mix(x), 0.01)).T.reshape(len(EXTENTS), -1, features.shape[1])
        return x[:, :-1], x[:, -1]


class Together(nn.Module):
    """What a region's interior, rim and context say together, of one sequence, and how large and long the region is.

    A band that is dark inside and goes on beyond the outline is another pattern than one that ends there; neither the
    inside nor the surroundings alone can tell. It starts by adding nothing. Evidence maps know nothing of it.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        size = len(EXTENTS) * spec.embedding
        self.enter = nn.Linear(size + len(OF_A_REGION), spec.together)
        self.leave = nn.Linear(spec.together, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, pooled: Tensor, whole: Tensor) -> Tensor:
        """Pooled embeddings (3, d) and the region's own geometry to new ones."""
        x = F.leaky_relu(self.enter(torch.cat([pooled.flatten(), whole])), 0.01)
        return F.normalize(pooled + self.leave(x).reshape(pooled.shape), dim=1)


class Stem(nn.Module):
    """One sequence's encoder-decoder: features for the trunk, embeddings and attention for its own concepts.

    A folded stem works on 2x2 blocks and hands out features of every pixel all the same.
    """

    def __init__(self, spec: NetworkSpec, filters: Sequence[int], folded: bool) -> None:
        super().__init__()
        self.folded = folded
        times = 4 if folded else 1
        self.body = _unet(times, times * spec.features, filters, flat=1, planar=2)
        self.embed = nn.Conv3d(spec.features, len(EXTENTS) * spec.embedding, 1)
        self.attention = nn.Conv3d(spec.features, len(EXTENTS), 1)
        self.tower: Tower | None = None
        self.conspicuity: nn.Conv3d | None = None
        self.placed: Placed | None = None
        self.together: Together | None = None
        if spec.tower:
            with torch.random.fork_rng(devices=[]):  # a seed gives the same masks with a tower and without
                # a diffusion stem's grid has more voxels than T2W's folded one
                self.tower = Tower(spec.features, spec.tower if folded else spec.tower * 2 // 3, folded)
                self.conspicuity = nn.Conv3d(spec.features, len(EXTENTS), 1)
                self.placed = Placed(spec)
                self.together = Together(spec) if spec.together else None
            if self.conspicuity.bias is not None:
                nn.init.constant_(self.conspicuity.bias, -2.0)  # most of a gland shows nothing

    def forward(self, image: Tensor) -> Tensor:
        """(n, 1, z, y, x) to features (n, c, z, y, x)."""
        x = self.body(fold(image) if self.folded else image)
        return F.leaky_relu(unfold(x) if self.folded else x, 0.01)


class Trunk(nn.Module):
    """Fuses the stems' features into masks. An absent sequence adds nothing but its learned absence."""

    shrink: Tensor

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        c = spec.trunk
        # a 1x1x1 convolution over the concatenation, split by sequence: each runs on its own grid, and what has to be
        # resampled is kept narrow
        narrow = c // 2
        self.enter = nn.ModuleDict({
            "t2w": nn.Conv3d(4 * spec.features, c, 1, bias=False),
            "adc": nn.Conv3d(spec.features, narrow, 1, bias=False),
            "hbv": nn.Conv3d(spec.features, narrow, 1, bias=False),
        })  # fmt: skip
        self.widen = nn.ModuleDict({s: nn.Conv3d(narrow, c, 1, bias=False) for s in ("adc", "hbv")})
        self.presence = nn.Linear(len(SEQUENCES), c)
        self.mix = nn.Sequential(
            nn.Conv3d(c, c, 3, padding=1, bias=False), nn.InstanceNorm3d(c, affine=True), nn.LeakyReLU(0.01),
            nn.Conv3d(c, c, (1, 3, 3), padding=(0, 1, 1), bias=False), nn.InstanceNorm3d(c, affine=True),
            nn.LeakyReLU(0.01),
        )  # fmt: skip
        self.zones = nn.Conv3d(c, 4 * 3, 1)
        self.lesion = nn.Conv3d(c, 4, 1)
        self.residual = nn.Conv3d(c, 4, 1)
        # the folded grid's outermost centres lie half a pixel further in than the fine grid's
        z, height, width = FINE.shape
        self.folded_shape = (z, height // 2, width // 2)
        shrink = torch.diag(torch.tensor([(width - 2) / (width - 1), (height - 2) / (height - 1), 1.0, 1.0]))
        self.register_buffer("shrink", shrink, persistent=False)

    def forward(self, features: Mapping[str, Tensor | None], thetas: Mapping[str, Tensor],
                presence: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Masks on the fine grid.

        Args:
            features: by sequence, (n, c, z, y, x) on the stem's own grid, or None.
            thetas: by sequence, (n, 3, 4) affine from the fine grid's normalised (x, y, z) to the stem's; left out for
                a sequence whose stem grid *is* the fine grid.
            presence: (n, 3) of 0 and 1 in the order of ``SEQUENCES``.

        Returns:
            Logits: zones (n, 3, z, y, x), lesion (n, 1, z, y, x), residual (n, 1, z, y, x).
        """
        n = presence.shape[0]
        x: Tensor = self.presence(presence)[:, :, None, None, None]
        for i, sequence in enumerate(SEQUENCES):
            f = features.get(sequence)
            if f is None:
                continue
            part = self.enter[sequence](fold(f) if sequence == "t2w" else f)
            if sequence in thetas:
                grid = F.affine_grid(thetas[sequence].float() @ self.shrink, [n, 1, *self.folded_shape],
                                     align_corners=True)  # fmt: skip
                part = F.grid_sample(part.float(), grid, align_corners=True, padding_mode="zeros").to(f.dtype)
                part = self.widen[sequence](part)
            x = x + part * presence[:, i].to(part.dtype).reshape(n, 1, 1, 1, 1)
        x = x.expand(-1, -1, *self.folded_shape)
        x = F.leaky_relu(x + self.mix(x), 0.01)
        return unfold(self.zones(x)), unfold(self.lesion(x)), unfold(self.residual(x))


#: What raises suspicion, as sums of value probabilities: (sequence, name, {attribute: values}). Monotone by sign.
SUSPICION_TERMS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("t2w", "focal on T2W", "t2.pattern", ("focal",)),
    ("t2w", "moderate hypointense on T2W", "t2.signal", ("moderate_hypo",)),
    ("t2w", "homogeneous on T2W", "t2.texture", ("homogeneous",)),
    ("t2w", "circumscribed", "t2.margin", ("circumscribed",)),
    (
        "t2w",
        "non-circumscribed, indistinct or spiculated",
        "t2.margin",
        ("non_circumscribed", "indistinct", "spiculated"),
    ),
    ("t2w", "lenticular or drop-shaped", "t2.shape", ("lenticular", "drop")),
    ("t2w", "no capsule", "t2.capsule", ("none",)),
    ("adc", "focal on ADC", "adc.pattern", ("focal",)),
    ("adc", "altered on ADC", "adc.signal", ("altered", "marked")),
    ("adc", "marked on ADC", "adc.signal", ("marked",)),
    ("hbv", "focal on high-b", "hbv.pattern", ("focal",)),
    ("hbv", "altered on high-b", "hbv.signal", ("altered", "marked")),
    ("hbv", "marked on high-b", "hbv.signal", ("marked",)),
)


@dataclass(frozen=True)
class Suspicion:
    """A candidate's suspicion and what it is made of; the parts add up to the logit.

    Attributes:
        logit: sum of bias, terms and residual.
        terms: (name, contribution >= 0) of the readings.
        residual: the trunk's bounded contribution; >= 0 in a network with towers, else of either sign.
        residual_share: |residual| over (sum of terms + |residual|).
    """

    logit: Tensor
    terms: tuple[tuple[str, Tensor], ...]
    residual: Tensor
    residual_share: Tensor


class Seen(NamedTuple):
    """What k voxels of one sequence show, by extent class.

    Attributes:
        features: (c, k) of :meth:`RationaleNet.for_concepts`.
        embedding: (3, d, k).
        attention: (3, k) logits, by which a region's voxels are pooled.
        conspicuity: (3, k) logits of something to be described lying there; None without a tower.
    """

    features: Tensor
    embedding: Tensor
    attention: Tensor
    conspicuity: Tensor | None

    def at(self, index: Tensor) -> Seen:
        """The same of some of the voxels."""
        shown = None if self.conspicuity is None else self.conspicuity[:, index]
        return Seen(self.features[:, index], self.embedding[..., index], self.attention[:, index], shown)


def _pointwise(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A 1x1x1 convolution at k voxels, (c, k) to (outputs, k)."""
    return F.linear(x.T, layer.weight.flatten(1).float(), layer.bias).T


class RationaleNet(nn.Module):
    """See the module's text. All forward methods take and give (n, c, z, y, x)."""

    phrases: Tensor

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stems = nn.ModuleDict(
            {
                "t2w": Stem(spec, spec.t2w_filters, folded=True),
                "adc": Stem(spec, spec.diffusion_filters, folded=False),
                "hbv": Stem(spec, spec.diffusion_filters, folded=False),
            }
        )
        self.trunk = Trunk(spec)
        self.localizer = _unet(1 + len(SEQUENCES), 1, spec.coarse_filters, flat=1, planar=1)
        count = sum(len(a.values) for a in spec.attributes)
        self.register_buffer("phrases", torch.zeros(count, spec.paraphrases, TEXT_DIM))
        self.project = nn.Linear(TEXT_DIM, spec.embedding, bias=False)
        self.scale = nn.Parameter(torch.full((len(spec.attributes),), 2.0))
        self.shift = nn.Parameter(torch.zeros(count))
        self.suspicion_weight = nn.Parameter(torch.zeros(2, len(SUSPICION_TERMS)))
        self.suspicion_bias = nn.Parameter(torch.full((2, 2 ** len(SEQUENCES)), -4.0))

    def slices(self) -> dict[str, slice]:
        """Where each attribute's values lie in a value tensor."""
        out, start = {}, 0
        for attribute in self.spec.attributes:
            out[attribute.id] = slice(start, start + len(attribute.values))
            start += len(attribute.values)
        return out

    def for_concepts(self, sequence: str, features: Tensor) -> Tensor:
        """What a sequence's concepts read: its stem's features (n, c, z, y, x) through its tower, see
        :attr:`NetworkSpec.tower` and :attr:`NetworkSpec.smoothed`."""
        tower = self.stem(sequence).tower
        x = features if tower is None else tower(features)
        return self._smooth(sequence, x) if self.spec.smoothed else x

    def stem(self, sequence: str) -> Stem:
        """A sequence's stem."""
        stem = self.stems[sequence]
        assert isinstance(stem, Stem)
        return stem

    def as_shown(self, sequence: str, evidence: Tensor) -> Tensor:
        """Evidence maps (values, z, y, x) without the lattice, where the features that they come from still have it."""
        return evidence if self.spec.smoothed else self._smooth(sequence, evidence[None])[0]

    def _smooth(self, sequence: str, x: Tensor) -> Tensor:
        return smooth(x, self.stem(sequence).folded)

    def value_embeddings(self, paraphrase: int | None = None) -> Tensor:
        """Unit embeddings (values, d): of one paraphrase, or of their mean.

        The encoder's text vectors of contradictory phrases lie close together. What a wording shares over all values
        of an attribute is taken off it before the learned projection, so that only what tells the values apart is
        left, and the paraphrases of one value come to lie together.
        """
        parts = []
        for where in self.slices().values():
            mine = self.phrases[where]
            centered = mine - mine.mean(0)
            parts.append(F.normalize(centered.mean(1) if paraphrase is None else centered[:, paraphrase], dim=-1))
        return F.normalize(self.project(torch.cat(parts)), dim=-1)

    def embed(self, sequence: str, features: Tensor) -> Seen:
        """What k voxels show, from (c, k) of :meth:`for_concepts`."""
        stem = self.stem(sequence)
        x = features.float()
        embedding = _pointwise(stem.embed, x).reshape(len(EXTENTS), self.spec.embedding, -1)
        return Seen(x, embedding, _pointwise(stem.attention, x), self.conspicuity(sequence, x))

    def conspicuity(self, sequence: str, features: Tensor) -> Tensor | None:
        """Logits (3, k) of something to be described lying at k voxels, from (c, k); None without a tower."""
        layer = self.stem(sequence).conspicuity
        return None if layer is None else _pointwise(layer, features.float())

    def evidence(self, sequence: str, seen: Seen, values: Tensor) -> dict[str, Tensor]:
        """Evidence sigmoid(s cos(v(x), t) + b) of every value of a sequence's attributes, times the conspicuity of its
        extent class for values that are not :data:`QUIET_VALUES`.

        Args:
            sequence: whose voxels were ``seen``.
            seen: from :meth:`embed`.
            values: (values, d) from :meth:`value_embeddings`.

        Returns:
            attribute id -> (values of the attribute, k) in 0..1.
        """
        out = {}
        slices = self.slices()
        # divided after the products: there are fewer values than channels
        length = seen.embedding.norm(dim=1).clamp_min(1e-12)
        shown = None if seen.conspicuity is None else torch.sigmoid(seen.conspicuity)
        for i, attribute in enumerate(self.spec.attributes):
            if attribute.sequence == sequence:
                where, extent = slices[attribute.id], EXTENTS.index(attribute.extent)
                cosine = values[where].float() @ seen.embedding[extent] / length[extent]
                p = torch.sigmoid(self.scale[i].exp() * cosine + self.shift[where][:, None])
                if shown is not None:
                    quiet = torch.tensor([(attribute.id, v) in QUIET_VALUES for v in attribute.values])
                    p = torch.where(quiet[:, None].to(p.device), p, p * shown[extent])
                out[attribute.id] = p
        return out

    def read(self, sequence: str, seen: Seen, region: Region, values: Tensor) -> dict[str, Tensor]:
        """Logits of one region's attributes (softmax over them gives the reading, before calibration).

        The embeddings of its extents' voxels, each with what the outline adds to it, pooled by attention, and what the
        extents say together.

        Args:
            sequence: whose attributes.
            seen: from :meth:`embed`, of the voxels ``region.index``.
            region: on this stem's grid.
            values: (values, d).

        Returns:
            attribute id -> (values of the attribute,) logits.
        """
        embedding, attention = seen.embedding, seen.attention
        placed = self.stem(sequence).placed
        if placed is not None:
            more = placed(seen.features, region.geometry)
            embedding, attention = embedding + more[0], attention + more[1]
        place = region.place
        pooled = {e: attend(embedding[i], attention[i], place[e]) for i, e in enumerate(EXTENTS) if len(place[e])}
        together = self.stem(sequence).together
        if together is not None and len(pooled) == len(EXTENTS):
            whole = region.geometry[-len(OF_A_REGION) :, 0]
            pooled = dict(zip(EXTENTS, together(torch.stack(list(pooled.values())), whole), strict=True))
        slices = self.slices()
        out = {}
        for i, attribute in enumerate(self.spec.attributes):
            if attribute.sequence == sequence and attribute.extent in pooled:
                where = slices[attribute.id]
                cosine = values[where].float() @ pooled[attribute.extent]
                out[attribute.id] = self.scale[i].exp() * cosine + self.shift[where]
        return out

    def locate(self, sequence: str, image: Tensor) -> Tensor:
        """Gland logits (n, 1, z, y, x) on the coarse grid from one sequence alone."""
        planes = torch.zeros((image.shape[0], len(SEQUENCES), *image.shape[2:]), dtype=image.dtype, device=image.device)
        planes[:, SEQUENCES.index(sequence)] = 1
        return self.localizer(torch.cat([image, planes], 1))

    def suspicion(
        self, zone: str, readings: Mapping[str, Tensor], residual: Tensor, presence: Sequence[bool]
    ) -> Suspicion:
        """Monotone function of the readings plus a bounded residual.

        Args:
            zone: "PZ" or "TZ".
            readings: attribute id -> calibrated probabilities (values,); absent sequences are absent.
            residual: () the trunk's pooled residual logit.
            presence: of t2w, adc, hbv.
        """
        z = 0 if zone == "PZ" else 1
        weights = F.softplus(self.suspicion_weight[z])
        index = {a.id: a.values for a in self.spec.attributes}
        terms = []
        for k, (_, name, attribute, accepted) in enumerate(SUSPICION_TERMS):
            if attribute in readings:
                p = readings[attribute]
                mass = p[[index[attribute].index(v) for v in accepted]].sum()
                terms.append((name, weights[k] * mass))
        state = sum(2**i for i, present in enumerate(presence) if present)
        # beside a tower the residual only ever adds: what the masks do not know takes nothing off what was read
        bounded = self.spec.residual_limit * torch.tanh(F.relu(residual) if self.spec.tower else residual)
        total = torch.stack([t for _, t in terms]).sum() if terms else residual.new_zeros(())
        logit = self.suspicion_bias[z, state] + total + bounded
        return Suspicion(logit, tuple(terms), bounded, bounded.abs() / (total + bounded.abs() + 1e-9))
