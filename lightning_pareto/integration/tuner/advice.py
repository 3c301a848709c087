"""What to do after a search."""

from lightning_pareto.display.terminal import paragraph
from lightning_pareto.evaluation.result import ParetoResult
from lightning_pareto.pareto.verdict import ParetoVerdict


def next_step(result: ParetoResult, verdict: ParetoVerdict, include_validation: bool) -> str:
    """A line or two, by how the search has ended."""
    return "\n".join(paragraph(f"Next: {_advice(result, verdict, include_validation)}."))


def _advice(result: ParetoResult, verdict: ParetoVerdict, include_validation: bool) -> str:
    if result.accepted:
        return "measure the model on data that no decision has seen, trainer.test(model, datamodule)"
    if verdict.underfitted:
        return "train longer first, the first fit was underfitted: more epochs in trainer_factory; then search again"
    samples = "more validation samples tell a smaller gain from chance"
    if include_validation:
        return f"look at suspected_samples(tuner.influence) for wrong labels; {samples}"
    return f"ParetoTuner(…, include_validation=True), which trains on the validation data as well; {samples}"
