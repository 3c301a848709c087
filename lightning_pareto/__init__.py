"""Finds out whether a classifier can improve on some classes without losing on any other, and does it.

Data flow from batches to a better fit, in the order in which the modules depend on each other:

- ``arguments``, ``linprog``, ``display``, ``storage``, ``data``, ``datasets``: checks of options, LPs with HiGHS, text
  tables, artifacts on disk, labels of the user's datasets, and synthetic data whose status is known.
- ``influence``: per-sample gradients, curvature, and the influence of every training sample on every category, (N, K).
- ``pareto``: headroom, its held-out test, trade-offs, and the verdict.
- ``reweighting``, ``sampling``: sample weights from influence, and the sampler that draws with them.
- ``evaluation``: outcomes of a fit on validation data, paired tests between fits, results of a search.
- ``candidates``: ways to a better model, by other parameters or by weights for a fit.
- ``report``: figures, sample tables and the HTML report.
- ``integration``: everything that knows Lightning: the callbacks, the reweighted DataModule and the tuner.
- ``command_line``: the same on the results of a fit, from a shell.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_pareto.candidates import Candidate, ClassBalanced, Evidence, HeadRefit, InTurn, WeightedSteps
    from lightning_pareto.evaluation import ClasswiseChange, ClasswiseComparison, Outcome, ParetoResult
    from lightning_pareto.influence import (
        BatchError,
        ClassificationTask,
        CurvatureError,
        InfluenceMatrix,
        Shard,
        StagesError,
        average_influence,
        estimate_influence,
        label_quality,
    )
    from lightning_pareto.integration import (
        Correction,
        CourseCorrection,
        ParetoCallback,
        ParetoTuner,
        ReweightedDataModule,
        analyse,
        compare_models,
        reweighted_dataloader,
    )
    from lightning_pareto.linprog import InfeasibleError, LinearProgramError
    from lightning_pareto.pareto import ParetoVerdict, check_pareto
    from lightning_pareto.report import (
        Analysis,
        SamplePreviews,
        SampleTable,
        render_report,
        suspected_samples,
        trade_off_samples,
        write_report,
    )
    from lightning_pareto.report.figures import (
        plot_accuracy,
        plot_ceiling,
        plot_comparison,
        plot_exchange_rates,
        plot_frontier,
        plot_headroom,
        plot_influence,
        plot_predicted,
        plot_weights,
    )
    from lightning_pareto.reweighting import SampleWeights, WeightedDataset, reweight
    from lightning_pareto.sampling import ParetoSampler
    from lightning_pareto.storage import ArtifactError
else:
    # Names are imported at first access, so that the command line starts without torch and Lightning.
    _PARTS = (
        "storage",
        "linprog",
        "influence",
        "pareto",
        "reweighting",
        "sampling",
        "evaluation",
        "candidates",
        "report",
        "report.figures",
        "integration",
    )

    def __getattr__(name: str) -> Any:
        for part in _PARTS if name in __all__ else ():
            module = import_module(f"{__name__}.{part}")
            if hasattr(module, name):
                return globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Analysis",
    "ArtifactError",
    "BatchError",
    "Candidate",
    "ClassBalanced",
    "ClassificationTask",
    "ClasswiseChange",
    "ClasswiseComparison",
    "Correction",
    "CourseCorrection",
    "CurvatureError",
    "Evidence",
    "HeadRefit",
    "InTurn",
    "InfeasibleError",
    "InfluenceMatrix",
    "LinearProgramError",
    "Outcome",
    "ParetoCallback",
    "ParetoResult",
    "ParetoSampler",
    "ParetoTuner",
    "ParetoVerdict",
    "ReweightedDataModule",
    "SamplePreviews",
    "SampleTable",
    "SampleWeights",
    "Shard",
    "StagesError",
    "WeightedDataset",
    "WeightedSteps",
    "analyse",
    "average_influence",
    "check_pareto",
    "compare_models",
    "estimate_influence",
    "label_quality",
    "plot_accuracy",
    "plot_ceiling",
    "plot_comparison",
    "plot_exchange_rates",
    "plot_frontier",
    "plot_headroom",
    "plot_influence",
    "plot_predicted",
    "plot_weights",
    "render_report",
    "reweight",
    "reweighted_dataloader",
    "suspected_samples",
    "trade_off_samples",
    "write_report",
]
