"""Can a classifier still improve on some classes without losing on any other? Find out, and do it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_pareto.evaluation import ClasswiseComparison, ParetoResult
    from lightning_pareto.influence import (
        BatchError,
        ClassificationTask,
        CurvatureError,
        InfluenceMatrix,
        Shard,
        StagesError,
        average_influence,
        estimate_influence,
    )
    from lightning_pareto.integration import (
        Correction,
        CourseCorrection,
        ParetoCallback,
        ParetoTuner,
        ReweightedDataModule,
        reweighted_dataloader,
    )
    from lightning_pareto.linprog import InfeasibleError, LinearProgramError
    from lightning_pareto.pareto import ParetoVerdict, check_pareto
    from lightning_pareto.report import (
        SamplePreviews,
        SampleTable,
        plot_accuracy,
        plot_comparison,
        plot_exchange_rates,
        plot_headroom,
        plot_influence,
        plot_predicted,
        plot_search,
        plot_weights,
        render_report,
        suspected_samples,
        trade_off_samples,
        write_report,
    )
    from lightning_pareto.reweighting import SampleWeights, WeightedDataset, reweight
    from lightning_pareto.sampling import ParetoSampler
    from lightning_pareto.storage import ArtifactError
else:
    # Each name is looked up when it is first asked for, so that the command line need not wait for torch and Lightning.
    _PARTS = (
        "storage",
        "linprog",
        "influence",
        "pareto",
        "reweighting",
        "sampling",
        "evaluation",
        "report",
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
    "ArtifactError",
    "BatchError",
    "ClassificationTask",
    "ClasswiseComparison",
    "Correction",
    "CourseCorrection",
    "CurvatureError",
    "InfeasibleError",
    "InfluenceMatrix",
    "LinearProgramError",
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
    "average_influence",
    "check_pareto",
    "estimate_influence",
    "plot_accuracy",
    "plot_comparison",
    "plot_exchange_rates",
    "plot_headroom",
    "plot_influence",
    "plot_predicted",
    "plot_search",
    "plot_weights",
    "render_report",
    "reweight",
    "reweighted_dataloader",
    "suspected_samples",
    "trade_off_samples",
    "write_report",
]
