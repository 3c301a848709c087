"""Would a test notice a bug in the lines that matter most?

    python examples/benchmarks/mutants.py [part of the name of a file …]

Run it in a checkout, after ``pip install -e ".[dev]"``. It puts one bug at a time into a copy of the checkout: a wrong
sign or norm, an off-by-one error, a fixed seed, a missing check. Then it runs the tests closest to the changed file,
and prints whether they failed ("killed") or passed ("SURVIVES"). "STALE" means that the line is no longer found exactly
once. The exit status is 1 unless all mutants are killed. All of them together take a quarter of an hour on one core.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

MUTANTS = """
pareto/significance.py: pareto/test_significance.py
    odds = share / (1 - share)  →  odds = share
    demand.bar(margin))  →  demand.bar(0.0))
    others = (total - _sums(scores, support)) /  →  others = total /
    stats.t.sf(statistic, degrees)  →  stats.norm.sf(statistic)
influence/recorder.py: influence/test_gradients.py
    apply_to_collection(batch, Tensor, self._data.add)  →  pass
    value in self._data or (value.requires_grad and not  →  (value.requires_grad and not
influence/verification.py: influence/test_gradients.py
    if all(len(uses.get(layer, [])) == len(before[layer])  →  if any(True
influence/verification.py: influence/test_routing.py
    found |= dict.fromkeys(_layers_with_other_sums(  →  0 and dict.fromkeys(_layers_with_other_sums(
candidates/weighted_steps.py: candidates/test_candidates.py
    signal = signal * weights[indices, None].to(signal)  →  pass
    if score > best:  →  if True:
candidates/head_refit.py: candidates/test_candidates.py
    losses.mean() + HARM * harm  →  losses.mean() + 0 * harm
integration/tuner/remedies.py: integration/tuner/test_candidates.py
    chosen=known)  →  chosen=list(range(len(remedy.known))))
pareto/headroom.py: pareto/test_targets.py pareto/test_tradeoff.py
    program.solve(n * demand.floors)  →  program.solve(demand.floors)
    max(found.value / n, least)  →  max(found.value / n, 0.0)
    prices[:, None] / prices[None, :]  →  prices[None, :] / prices[:, None]
pareto/sifting.py: pareto/test_sifting.py
    np.where(self._fixed > 0, -reduced, reduced)  →  np.where(self._fixed > 0, -np.inf, reduced)
    MAX_GAP = 1e-6  →  MAX_GAP = 1e6
pareto/result.py: pareto/test_verdict.py pareto/test_tradeoff.py
    self.p_value <= self.level and  →  self.p_value <= 2 * self.level and
    self.held_out_gain - self._quantile  →  self.held_out_gain + self._quantile
pareto/hyperplane.py: pareto/test_verdict.py
    scores.astype(np.float64) - scores.mean(axis=0, dtype=np.float64)  →  scores.astype(np.float64)
pareto/admissible.py: pareto/test_headroom.py reweighting/test_reweight.py
    self._class_means(exact) - exact  →  exact.mean(axis=0) - exact
influence/gains.py: pareto/test_headroom.py reweighting/test_reweight.py
    (weights - present) @ scores  →  (weights - weights.mean()) @ scores
linprog.py: test_linprog.py
    if status != highspy.HighsModelStatus.kOptimal:  →  if False:
reweighting/mass_preserving.py: reweighting/test_reweight.py reweighting/test_programs.py
    slopes[:, :-1] @ (targets / targets.sum())  →  slopes[:, :-1].mean(axis=1)
    None if budget is None else replace(self._admissible, budget=budget).capacity  →  None
reweighting/paper.py: reweighting/test_reweight.py
    scaled[:, targets] @ scale[targets] /  →  scaled[:, targets].sum(axis=1) /
integration/tuner/search.py: integration/tuner/test_search.py
    (error + ERROR_OFFSET) ** tilt  →  (error + ERROR_OFFSET) ** 1
    .mean() > SAME_WEIGHTS for w  →  .mean() >= 0 for w
reweighting/weights.py: reweighting/test_reweight.py
    if self._fingerprint(what) is not None and found  →  if False and found
    np.maximum(1 - self.values, 0)  →  np.abs(1 - self.values)
evaluation/paired_tests.py: evaluation/test_paired_tests.py
    np.arange(len(order), 0, -1)  →  len(order)
    stats.binom.sf(for_it - 1,  →  stats.binom.sf(for_it,
evaluation/change.py: evaluation/test_change.py
    level / looks / 2  →  level / 2
    self.macro + self.macro_tolerance) /  →  self.macro) /
    np.hypot(self.macro_error, np.sqrt(2)  →  np.hypot(self.macro_error, 0
    holm(p_values[tested], level)  →  p_values[tested] <= level
    self.level / 2 if level is None else level  →  2 * self.level if level is None else level
evaluation/tosses.py: evaluation/test_change.py
    mean <= observed + ROUNDING  →  mean < -observed
    observed - float(high)  →  observed - float(low)
evaluation/paired_tests.py: evaluation/test_change.py
    np.asarray(-margin))  →  np.asarray(margin))
    lost - won + others - 1  →  lost - won + others
    above, middle, low)  →  above, low, middle)
evaluation/outcome.py: evaluation/test_change.py
    found = special.softmax(found, axis=1)  →  pass
integration/compare.py: integration/test_compare.py
    checkpoint = str(which)  →  checkpoint = None
data/labels.py: data/test_labels.py
    labels[torch.as_tensor(dataset.indices, dtype=torch.int64)]  →  labels
sampling.py: test_sampling.py
    manual_seed(_combined(self.seed, self.epoch))  →  manual_seed(self.seed + self.epoch)
    [skipped:].copy()  →  [0:].copy()
    2**-20 + float(torch.rand((), dtype=torch.float64, generator=generator)) * (1 - 2**-19)  →  0.5
    self._scaled = values * (draws / values.sum())  →  self._scaled = values
storage/artifacts.py: storage/test_artifacts.py
    if digest != _digest(arrays, header):  →  if False:
    digest.update(f"{name}{array.dtype}{array.shape}".encode())  →  digest.update(f"{name}".encode())
influence/operations.py: influence/test_gradients.py
    a.new_full((*a.shape[:-1], 1), float(self.bias))  →  a.new_full((*a.shape[:-1], 1), 1.0)
    g = F.pad(g, (start, total - start - g.shape[-1]))  →  g = F.pad(g, (0, total - g.shape[-1]))
    slice(at * dilation, None, stride)  →  slice(at, None, stride)
influence/gradients.py: influence/test_gradients.py influence/test_routing.py influence/test_rows.py
    submodule.training = training  →  pass
    if len(arranged) == 1 else None  # several  →  if True else None  # several
    if not route.keeps_samples_apart(use, batch) or (route.derived  →  if (route.derived
    > SILENCE * float(rows.max())  →  > 1e9 * float(rows.max())
influence/factors.py: influence/test_factors.py influence/test_curvature.py
    restored = matrices @ self.inputs.transpose(-1, -2)  →  restored = matrices @ self.inputs
    result[:, :start, part] = result[:, part, :start].transpose(1, 2)  →  result[:, :start, part] = 0
influence/embedding.py: influence/test_factors.py
    self.tokens.flatten()[a.any(dim=1)]  →  self.tokens.flatten()
influence/curvature/ekfac.py: influence/test_curvature.py
    / (eigenvalues + self.shift(layer))  →  / (eigenvalues + 1e-9)
    total / train.size for  →  total for
    (counts + 0.5) / (counts + 0.5)  →  (counts + 1e-9) / (counts + 1e-9)
influence/curvature/fisher.py: influence/test_curvature.py test_invariances.py
    < uniforms[:, None].to(p))  →  < 0.5)
    self.uniforms[indices])  →  self.uniforms[: len(indices)])
influence/curvature/gauss_newton.py: influence/test_curvature.py
    sums)) / train.size  →  sums))
influence/curvature/conjugate_gradients.py: influence/test_curvature.py
    self.tolerance**2 * _dot  →  self.tolerance * _dot
    _plus(z, p, _ratio(new, rz)), new  →  _plus(z, p, 0 * rz), new
influence/directions.py: influence/test_estimate.py influence/test_memory.py
    .to(signal.device) - block.start  →  .to(signal.device)
    signal = signal.masked_fill(outside[:, None], 0)  →  pass
influence/categories.py: influence/test_categories.py
    order = torch.randperm(len(members), generator=generator)  →  order = torch.arange(len(members))
    if low < 0 or high >= count:  →  if False:
influence/estimate.py: influence/test_stages.py
    list(cells.names), cell, fingerprints, fitted])  →  list(cells.names), cell, fitted])
influence/averaging.py: influence/test_averaging.py
    np.nan_to_num(unit / matrix.scale)  →  np.nan_to_num(1 / matrix.scale)
influence/sharding.py: influence/test_sharding.py
    block.to(self.device, copy=True)  →  block.to(self.device)
influence/passes.py: influence/test_estimate.py influence/test_rows.py
    drop_last=False  →  drop_last=self.loader.drop_last
    _check_count(count, min(loader.batch_size or count, len(indices) - start))  →  pass
influence/sample_checks.py: influence/test_estimate.py influence/test_rows.py
    if float((together - alone).abs().max()) > LOGIT_TOLERANCE  →  if False and LOGIT_TOLERANCE
    and torch.equal(alone_labels.sort().values, labels.sort().values):  →  and False:
    and not _same(batch, found[0])):  →  and False):
influence/verification.py: influence/test_rows.py
    signal[silent] = 0  →  pass
influence/fingerprint.py: influence/test_stages.py
    [*module.named_parameters(), *module.named_buffers()]  →  [*module.named_parameters()]
influence/matrix.py: influence/test_matrix.py
    support / np.maximum(support.sum(axis=0), 1), strict  →  np.full(support.shape, 1 / len(support)), strict
    total[:, support.sum(axis=0) == 0] = np.nan  →  pass
influence/stages.py: influence/test_stages.py
    if metadata.get("key") != self._key:  →  if False:
influence/plan.py: influence/test_routing.py
    return found == 1 or (found > 0 and found in self.verified)  →  return found > 0
influence/verification.py: influence/test_routing.py influence/test_gradients.py
    GRADIENT_TOLERANCE_HALF = 1e-3, 5e-2  →  GRADIENT_TOLERANCE_HALF = 1e3, 5e-2
integration/datamodule.py: integration/test_weighted_fits.py integration/test_datamodule.py
    sampler.set_epoch(epoch)  →  pass
    sampler.skip(batches % max(1, len(twin)) * size_of_batches(twin))  →  pass
    return int(epoch.processed) + int(begun), 0  →  return int(epoch.processed), 0
integration/validation/callback.py: integration/validation/test_callback.py
    self._left -= count  →  pass
    dataloader_idx == self.data.val_dataloader_idx:  →  True:
integration/validation/metrics.py: integration/validation/test_metrics.py
    self._counts.update(logits[:count], targets[:count])  →  self._counts.update(logits, targets)
    predicted = hits + false_positives  →  predicted = support
integration/tuner/validation_data.py: integration/tuner/test_validation_data.py
    _some(other.dataset, chosen)])  →  other.dataset])
integration/tuner/starting_model.py: integration/tuner/test_starting_model.py
    options.folds, options.seed).numpy()  →  options.folds, 0).numpy()
integration/tuner/final_fits.py: integration/tuner/test_final_fits.py
    weights, ~unseen))  →  weights, unseen))
integration/tuner/search.py: integration/tuner/test_search.py
    looks=len(tried)  →  looks=1
    situation.judged(situation.reference), situation.judged(outcome)  →  situation.reference, outcome
integration/tuner/judge.py: integration/tuner/test_judge.py
    summaries = (incumbent, given),  →  summaries = (incumbent,),
    confirming = 1 if one.finalist.confirms else looks  →  confirming = 1
    [one for one in better if one.is_harmless(ordinaries, self.falls)]  →  better
    if not any(falls(ordinary, outcome).any() for ordinary in before):  →  if True:
integration/tuner/final_fits.py: integration/tuner/test_final_fits.py
    if after.macro < before.macro or  →  if
integration/correction/rules.py: integration/correction/test_rules.py
    .all() and not fallen(ordinary, rerun, level=self.level).any())  →  .all())
integration/correction/weights.py: integration/correction/test_weights.py
    (keep - 1) * ordinary  →  (1 - keep) * ordinary
influence/cost.py: influence/test_cost.py
    fit + blocks * max(0.0, base - few * each)  →  fit + max(0.0, base - few * each)
influence/clock.py: influence/test_cost.py
    min(found[1:] or found)  →  min(found)
influence/advice.py: influence/test_advice.py
    whole and not index  →  whole
data/overlap.py: data/test_overlap.py
    indices + first  →  indices
    if found <= natural or fisher_exact(table, "greater").pvalue > LEVEL:  →  if not found:
influence/copies.py: influence/test_copies.py
    refuse_copies(others <= tolerance,  →  refuse_copies(others < 0,
data/loaders.py: integration/analysis/test_checks.py
    return reads[0] if reads[0] == reads[1] and  →  return reads[0] if
integration/analysis/resumption.py: integration/analysis/test_resumption.py
    (several or _step_of(newest) == trainer.global_step)  →  several
integration/trainer/progress.py: faults/test_fits.py
    if trainer.received_sigterm:  →  if False:
"""
"""Each file of the package with the tests closest to it. Below it, the lines to replace and their replacements."""


def mutants() -> Iterator[tuple[str, list[str], str, str]]:
    """Yield (file, tests, line, replacement)."""
    name, tests = "", ""
    for row in MUTANTS.strip().splitlines():
        if row.startswith(" "):
            old, new = row.strip().split("  →  ")
            yield name, [f"tests/{test}" for test in tests.split()], old, new
        else:
            name, tests = row.split(": ")


def outcome(copy: Path, name: str, tests: list[str], old: str, new: str) -> str:
    """Test a mutant in a copy of the checkout: "killed", "SURVIVES" or "STALE"."""
    file = copy / "lightning_pareto" / name
    text = file.read_text()
    if text.count(old) != 1:
        return "STALE"
    file.write_text(text.replace(old, new))
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False)
    finally:
        file.write_text(text)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout.decode()[-2000:])
    return "killed" if done.returncode else "SURVIVES"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="run only the mutants of files whose names contain one of these")
    only = parser.parse_args().files
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for name, tests, old, new in mutants():
            if not only or any(part in name for part in only):
                outcomes.append(outcome(copy, name, tests, old, new))
                print(f"{outcomes[-1]:9} {name}: {old} → {new}", flush=True)
    killed = outcomes.count("killed")
    print(f"{killed} of {len(outcomes)} killed")
    sys.exit(killed < len(outcomes))


if __name__ == "__main__":
    main()
