"""How much of the converters' curves is common, smooth, or of a SAR's bits: a ladder of models, judged by held-out reads.

    line        gain and offset of each converter
    master      + one smooth curve common to the die, a cubic B-spline in the code
    residual    + each converter's own deviation at each code, shrunk by its standard error: s^2 / (s^2 + se^2)
    sar         the master's curve + weights of each converter's SAR bits, instead of the residual
    table       the thresholds as measured

All give thresholds T_k; noise is that of the profile. They are fitted to four fifths of the reads, drawn at random at each
level, and judged by the mean log-likelihood of the rest. The simplest one is chosen that is not worse than the best by
more than its standard error over converters. The table is kept in the profile whatever is chosen.

Source of the shrinkage: James and Stein's rule in the form of Efron and Morris, J. Am. Stat. Assoc. 70 (1975).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from pimchip.characterize.estimators import Float
from pimchip.characterize.fit import fit
from pimchip.characterize.staircase import block_of
from pimchip.profile import Counts, PointResult
from pimchip.profile.model import code_positions

MODELS = ("line", "master", "residual", "sar", "table")
_KNOTS = 12
"""Intervals of the common curve: it may bend as often as a polynomial of this order."""
_HELD_OUT = 5
"""One read in so many is held out."""
_SURE_SHARE = 0.1
"""Of the variance of measuring: curves that have less are taken for straight."""
_FLOOR = 1e-9
"""Least probability of a code that came: no single read decides."""


@dataclass(frozen=True, eq=False)
class Rung:
    """A model. thresholds: float64 [adcs, transitions], LSB, NaN where the model says nothing. explained: share of the
    variance of the measured curves about their lines, errors of measurement taken off; NaN where they are straight as
    far as that goes. loss: mean over converters of minus
    the log-likelihood of a held-out read; loss_se: standard error of its distance from the best model's."""

    model: str
    thresholds: Float
    explained: float
    loss: float
    loss_se: float


@dataclass(frozen=True, eq=False)
class Ladder:
    """Models in the order of MODELS, fitted to all reads, and the one chosen. bit_weights: float64 [adcs, bits], lowest
    first, LSB by which each bit's weight is off; NaN for converters without a curve."""

    rungs: tuple[Rung, ...]
    chosen: str
    bit_weights: Float

    def of(self, model: str) -> Rung:
        """A rung by its name."""
        return next(rung for rung in self.rungs if rung.model == model)


def climb(counts: Counts, result: PointResult | None = None, *, seed: int = 0) -> Ladder:
    """Fit the ladder to a point's counts and choose. result: fit(counts), where it is there already. seed: of the reads that
    are held out.

    Where fewer than two converters have a curve, nothing is common and the table is chosen.
    """
    kept, held = split(counts, seed)
    whole, part = result or fit(counts), fit(kept, rough=True)
    weights, models = _models(whole)
    judged = np.flatnonzero(np.isfinite(part.gain) & np.isfinite(part.noise_lsb))
    if len(judged) < 2:
        rungs = tuple(Rung(m, models[m], float("nan"), float("nan"), float("nan")) for m in MODELS)
        return Ladder(rungs, "table", weights)
    losses = {m: _loss(held, part, t, judged) for m, t in _models(part)[1].items()}
    best = min(MODELS, key=lambda m: float(losses[m].mean()))
    apart = {m: losses[m] - losses[best] for m in MODELS}
    se = {m: float(apart[m].std(ddof=1)) / len(judged) ** 0.5 for m in MODELS}
    chosen = next(m for m in MODELS if float(apart[m].mean()) <= se[m])
    share = _explained(whole, models)
    rungs = tuple(Rung(m, models[m], share[m], float(losses[m].mean()), se[m]) for m in MODELS)
    return Ladder(rungs, chosen, weights)


def told(found: Ladder, result: PointResult) -> dict[str, Any]:
    """What a profile keeps of a ladder, plain values; figures that are not known are left out. Its thresholds follow from the
    counts. bit_weights: largest deviation of a SAR bit's weight of any converter, LSB, lowest bit first."""

    def known(name: str) -> dict[str, float]:
        return {r.model: _plain(getattr(r, name)) for r in found.rungs if np.isfinite(getattr(r, name))}

    weights = found.bit_weights[np.isfinite(found.bit_weights).all(axis=1)]
    return {
        "adc_bits": result.mac.adc_bits,
        "range_divisor": result.mac.range_divisor,
        "chosen": found.chosen,
        "explained": known("explained"),
        "held_out_loss": known("loss"),
        "held_out_loss_se": known("loss_se"),
        **({"largest_bit_weight_errors": [_plain(w) for w in np.abs(weights).max(axis=0)]} if len(weights) else {}),
    }


def _plain(value: float) -> float:
    """To six digits: the last bits of a least-squares solution depend on the machine, and a profile's hash must not."""
    return float(f"{value:.6g}") if abs(value) > 1e-9 else 0.0


def models_of(
    results: Sequence[PointResult],
    counts: Sequence[Counts],
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Any], ...]:
    """`told` of every point. progress: called with points done and points in all."""
    out = []
    for result, own in zip(results, counts, strict=True):
        out.append(told(climb(own, result, seed=seed), result))
        if progress:
            progress(len(out), len(results))
    return tuple(out)


def split(counts: Counts, seed: int) -> tuple[Counts, Counts]:
    """Four fifths of the reads at each level, and the rest; drawn without putting back."""
    rng = np.random.default_rng(seed)
    adcs, levels, span = counts.histogram.shape
    rows = counts.histogram.reshape(adcs * levels, span).astype(np.int64)
    reads = rows.sum(axis=1)
    out = np.maximum(reads // _HELD_OUT, np.where(reads >= 3, 1, 0))
    taken = np.zeros_like(rows)
    left, wanted = reads.copy(), out.copy()
    for i in range(span):  # hypergeometric, code by code
        here = rows[:, i]
        taken[:, i] = rng.hypergeometric(here, left - here, wanted)
        wanted, left = wanted - taken[:, i], left - here
    held = taken.reshape(counts.histogram.shape)

    def of(histogram: NDArray[np.int64]) -> Counts:
        lowest = (histogram > 0).argmax(axis=2)
        moved = np.take_along_axis(
            np.pad(histogram, ((0, 0), (0, 0), (0, span))), lowest[:, :, None] + np.arange(span), axis=2
        )
        most = max(int(histogram.sum(axis=2).max()), 2)
        return replace(
            counts, reads=most, base=(counts.base + lowest).astype(np.int32), histogram=moved.astype(np.uint32)
        )

    keep = counts.histogram.astype(np.int64) - held
    return of(keep), _unchecked(counts, held)


def _unchecked(counts: Counts, histogram: NDArray[np.int64]) -> Counts:
    """Held-out reads, which need not reach two a level; not for fitting."""
    made = object.__new__(Counts)
    for name, value in vars(counts).items():
        object.__setattr__(made, name, value)
    object.__setattr__(made, "histogram", histogram.astype(np.uint32))
    return made


def _models(r: PointResult) -> tuple[Float, dict[str, Float]]:
    """Weights of the bits, and thresholds of every model."""
    x = code_positions(r.mac)
    line = x[None, :] / r.gain[:, None] - (r.offset / r.gain)[:, None]
    known = np.isfinite(r.inl) & np.isfinite(r.se_by_code)
    master = _spline(x, r.inl, known, r.inl_se)
    rest = np.where(known, r.inl - master, np.nan)
    shrunk = _shrink(rest, r.inl_se)
    weights, sar = _bits(r, rest, known)
    per_code = 1 / r.gain[:, None]
    return weights, {
        "line": line,
        "master": line + master * per_code,
        "residual": line + (master + shrunk) * per_code,
        "sar": line + (master + sar) * per_code,
        "table": np.where(np.isfinite(r.thresholds), r.thresholds, np.nan),
    }


def _spline(x: Float, inl: Float, known: NDArray[np.bool_], se: Float) -> Float:
    """The common curve [transitions]: least squares on a cubic B-spline, weighted by the converters' errors."""
    from scipy.interpolate import BSpline  # takes long to import, and most do without

    lo, hi = float(x[0]), float(x[-1])
    pieces = min(_KNOTS, max((len(x) - 4) // 2, 1))
    inner = np.linspace(lo, hi, pieces + 1)
    knots = np.concatenate([np.full(3, lo), inner, np.full(3, hi)])
    design = BSpline.design_matrix(np.clip(x, lo, hi), knots, 3).toarray()
    weight = np.where(known, 1 / np.maximum(np.nan_to_num(se, nan=1.0), 1e-6) ** 2, 0.0)
    # Two steps: each code's mean over the converters, then the spline through the means.
    total = weight.sum(axis=0)
    mean = (weight * np.nan_to_num(inl)).sum(axis=0) / np.maximum(total, 1e-300)
    some = total > 0
    root = np.sqrt(total[some] / total[some].max()) if some.any() else np.empty(0)
    if some.sum() < 4:
        return np.zeros(len(x))
    fitted = np.linalg.lstsq(design[some] * root[:, None], mean[some] * root, rcond=1e-9)[0]
    return np.asarray((design * fitted).sum(axis=1))


def _shrink(rest: Float, se: Float) -> Float:
    """Each deviation times s^2 / (s^2 + se^2), s^2 its own variance over the codes of the converter."""
    known = np.isfinite(rest)
    count = np.maximum(known.sum(axis=1), 1)
    square = np.where(known, np.nan_to_num(rest) ** 2, 0.0).sum(axis=1) / count
    error = np.where(known, np.nan_to_num(se) ** 2, 0.0)
    own = np.maximum(square - error.sum(axis=1) / count, 0.0)[:, None]
    return np.where(known, np.nan_to_num(rest) * own / np.maximum(own + error, 1e-300), 0.0)


def _bits(r: PointResult, rest: Float, known: NDArray[np.bool_]) -> tuple[Float, Float]:
    """Errors of the bits' weights [adcs, bits], LSB, and the deviations that they make [adcs, transitions].

    The threshold of word w is off by the sum of the errors of the bits that are set in w. A line through all of them is
    in gain and offset already, so the weights are those of what is left of each bit's pattern.
    """
    word = np.arange(1, rest.shape[1] + 1)
    pattern = (word[:, None] >> np.arange(r.mac.adc_bits) & 1).astype(np.float64)
    weights, made = np.full((len(rest), r.mac.adc_bits), np.nan), np.zeros(rest.shape)
    for j in np.flatnonzero(known.sum(axis=1) > r.mac.adc_bits + 2):
        here = known[j]
        straight = np.stack([np.ones(here.sum()), word[here]], axis=1)
        project = pattern[here] - straight @ np.linalg.lstsq(straight, pattern[here], rcond=None)[0]
        found = np.linalg.lstsq(project, rest[j, here], rcond=1e-6)[0]
        weights[j] = found
        made[j, here] = project @ found
    return weights, made


def _explained(r: PointResult, models: dict[str, Float]) -> dict[str, float]:
    """Of the variance of the curves about their lines, noise of measurement taken off, the share that each model has."""
    known = np.isfinite(r.inl) & np.isfinite(r.inl_se)
    inl, noise = r.inl[known], r.inl_se[known] ** 2
    total = float((inl**2 - noise).mean())
    out = {}
    for name, thresholds in models.items():
        left = ((r.thresholds - thresholds) * r.gain[:, None])[known]
        # The residual and the table follow the noise too: what they leave is below it.
        surely = total > _SURE_SHARE * float(noise.mean())
        out[name] = float(1 - max(float((left**2 - noise).mean()), 0.0) / total) if surely else float("nan")
    return out


def _loss(held: Counts, r: PointResult, thresholds: Float, who: NDArray[np.intp]) -> Float:
    """Minus the mean log-likelihood of a held-out read, of each converter; codes at whose ends a model has no threshold
    are judged together with their neighbours."""
    block = block_of(held, who)
    out = np.zeros(len(who))
    for i, j in enumerate(who):
        t = thresholds[j]
        # The outermost known thresholds stand for those beyond: what lies there is one class for every model alike.
        both = np.isfinite(t) & np.isfinite(r.thresholds[j])
        places = np.flatnonzero(both)
        if not len(places):
            continue
        classes = np.searchsorted(places, np.arange(block.transitions + 1), side="left")
        edge = np.concatenate([[-np.inf], t[places], [np.inf]])
        scale = r.noise_lsb[j] / r.gain[j]
        cell = classes[block.code[i]]
        u = block.u[:, None]
        p = ndtr((u - edge[cell]) / scale) - ndtr((u - edge[cell + 1]) / scale)
        reads = block.histogram[i]
        out[i] = -(reads * np.log(np.maximum(p, _FLOOR))).sum() / max(float(reads.sum()), 1.0)
    return out
