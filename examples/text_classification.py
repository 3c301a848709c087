"""Dict batches, as with Hugging Face: a small transformer that sorts generated sentences into three classes.

The sentences come from templates, and 25 % of the training labels are wrong. The batches are dicts with `input_ids`,
`attention_mask` and `labels`, and the output has `.logits` and `.loss`. The callback reads these by default. You can
replace `Transformer` with a model from `transformers` without other changes.

    python examples/text_classification.py

Takes about ten seconds. Expected output: "Pareto improvement possible: YES", then ten suspected sentences, each with a
label that does not fit.
"""

import random
import tempfile
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from main_job import quiet
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_pareto import ParetoCallback, suspected_samples

CLASSES = ["sport", "weather", "market"]
SUBJECTS = [
    ["the home team", "the young goalkeeper", "our captain", "the champion"],
    ["the storm", "a cold front", "the rain", "morning fog"],
    ["the central bank", "the share price", "an investor", "the exporter"],
]
VERBS = [
    ["won", "lost", "played well", "missed the final"],
    ["arrived", "moved on", "will last", "cleared up"],
    ["fell", "recovered", "raised its rate", "sold everything"],
]
TIMES = ["yesterday", "on monday", "this week", "after a long break", "in the evening", "as expected", "once again"]


def sentences(count: int, seed: int, noise: float) -> tuple[list[str], list[int], list[bool]]:
    """Sentences from templates, their labels, and which of these are wrong."""
    rng = random.Random(seed)
    texts, labels, wrong = [], [], []
    for _ in range(count):
        label = rng.randrange(3)
        other = label if rng.random() < 0.8 else rng.randrange(3)  # some sentences mix two subjects
        texts.append(f"{rng.choice(SUBJECTS[label])} {rng.choice(VERBS[other])} {rng.choice(TIMES)}")
        wrong.append(rng.random() < noise)
        labels.append((label + rng.randint(1, 2)) % 3 if wrong[-1] else label)
    return texts, labels, wrong


WORDS = ["[pad]", *sorted({word for part in (*SUBJECTS, *VERBS, TIMES) for text in part for word in text.split()})]


class Sentences(Dataset[dict[str, Any]]):
    classes = CLASSES

    def __init__(self, texts: list[str], labels: list[int]) -> None:
        self.tokens = [[WORDS.index(word) for word in text.split()] for text in texts]
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[index], "label": self.labels[index]}


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Pad the tokens of a batch to its longest sentence."""
    tokens = [torch.tensor(sample["input_ids"]) for sample in samples]
    ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    return {"input_ids": ids, "attention_mask": ids != 0, "labels": torch.tensor([s["label"] for s in samples])}


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None


class Transformer(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), width, padding_idx=0)
        self.positions = nn.Embedding(16, width)
        layer = nn.TransformerEncoderLayer(width, 2, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Output:
        x = self.words(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        x = self.encoder(x, src_key_padding_mask=~attention_mask)
        mask = attention_mask[..., None]
        logits = self.head((x * mask).sum(dim=1) / mask.sum(dim=1))
        return Output(logits, None if labels is None else nn.functional.cross_entropy(logits, labels))


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Transformer()

    def forward(self, **batch: Tensor) -> Any:
        return self.model(**batch)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        return self(**batch).loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self(**batch).loss, batch_size=len(batch["labels"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    quiet()
    pl.seed_everything(0, verbose=False)
    texts, labels, wrong = sentences(1500, seed=0, noise=0.25)
    train = Sentences(texts, labels)
    validation = Sentences(*sentences(600, seed=1, noise=0.0)[:2])
    pareto = ParetoCallback(budget=0.3)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=6, accelerator="cpu", enable_progress_bar=False, callbacks=[pareto], default_root_dir=folder
        )
        trainer.fit(
            Classifier(),
            DataLoader(train, 32, shuffle=True, collate_fn=collate),
            DataLoader(validation, 100, collate_fn=collate),
        )
    suspects = suspected_samples(pareto.influence, 10)
    for row in suspects.rows():
        print(f"  labelled {CLASSES[row['given']]:8} {texts[row['index']]}")
    print(f"really wrong: {sum(wrong[row['index']] for row in suspects.rows())} of {len(suspects)}")


if __name__ == "__main__":
    main()
