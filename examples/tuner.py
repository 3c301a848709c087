"""A search for a better second fit on scikit-learn's digits with 30 % flipped training labels. A minute on one core.

    python examples/tuner.py [--search genetic] [--include-validation]

Only the call of `ParetoTuner` is specific to `lightning_pareto`. It prints a line for every trial and the result on
validation samples. The last lines compare it with an ordinary fit, on test data that no decision used. Expected output:
weights are accepted, and the mean over the classes rises by about two points.
"""

import argparse
import tempfile
from pathlib import Path

import lightning.pytorch as pl
import torch
from main_job import Classifier, Images, classwise_accuracy, quiet
from quickstart import digits, network

from lightning_pareto import ParetoCallback, ParetoTuner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", default="mass_preserving", choices=["mass_preserving", "genetic"])
    parser.add_argument("--include-validation", action="store_true", help="also train on validation data at the end")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of every complete fit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    split = digits(options.seed, noise=0.3)
    data = Images(split.train, split.val, batch_size=64)
    pl.seed_everything(options.seed, verbose=False)
    model = Classifier(network(), lr=5e-3)

    with tempfile.TemporaryDirectory() as folder:

        def trainer() -> pl.Trainer:
            return pl.Trainer(
                max_epochs=options.epochs, accelerator="cpu", enable_progress_bar=False, default_root_dir=folder
            )

        tuner = ParetoTuner(
            trainer,
            search=options.search,
            include_validation=options.include_validation,
            callback=ParetoCallback(class_names=split.class_names, budget=0.3),
            dirpath=Path(folder) / "search",
            seed=options.seed,
        )
        tuner.fit(model, data)

        pl.seed_everything(options.seed, verbose=False)
        ordinary = Classifier(network(), lr=5e-3)
        trainer().fit(ordinary, datamodule=data)

    for name, fitted in (("ordinary fit, last epoch", ordinary), ("chosen fit, best epoch", model)):
        accuracy = classwise_accuracy(fitted, split.test, 10)
        print(f"{name}: test accuracy {accuracy.mean():.1%} on average, {accuracy.min():.1%} for the worst class")


if __name__ == "__main__":
    main()
