"""Real-world projects with the callback added and nothing else changed. Anything but a classifier is refused.

Each is written in the style of its source, without regard to this package.
"""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos import LightningTransformer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_pareto import ParetoCallback, ReweightedDataModule, reweight
from lightning_pareto.influence import BatchError
from tests.integration._models import trainer


def stripes(count, classes=4, size=8, channels=1, seed=0):
    """Images with a bright row for each class, and labels of which a fifth is wrong."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=generator)
    x = torch.randn(count, channels, size, size, generator=generator)
    x[torch.arange(count), :, y] += 1.5
    wrong = torch.rand(count, generator=generator) < 0.2
    return x, torch.where(wrong, (y + 1) % classes, y)


def analysed(tmp_path, model, **fit):
    """Fit with the callback, and check that influence and verdict cover every sample and class."""
    callback = ParetoCallback(verbose=False)
    options = {"max_epochs": 2, **fit.pop("trainer", {})}
    fitted = trainer(tmp_path, callback, **options)
    fitted.fit(model, **fit)
    influence = callback.influence
    assert np.isfinite(influence.scores).all()
    assert len(influence.labels) == len(fitted.train_dataloader.dataset)
    assert np.isfinite(callback.verdict.p_value)
    assert {f"val_accuracy/{name}" for name in influence.category_names} <= fitted.callback_metrics.keys()
    return callback


class LitMNIST(pl.LightningModule):
    """As in Lightning's tutorials: the module has the loaders, and its forward ends in a log-softmax."""

    def __init__(self, hidden_size=64, learning_rate=2e-4):
        super().__init__()
        self.hidden_size = hidden_size
        self.learning_rate = learning_rate
        self.num_classes = 4
        self.model = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, hidden_size),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden_size, self.num_classes),
        )
        self.val_accuracy = MulticlassAccuracy(num_classes=self.num_classes)

    def forward(self, x):
        return F.log_softmax(self.model(x), dim=1)

    def training_step(self, batch):
        x, y = batch
        return F.nll_loss(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.val_accuracy.update(torch.argmax(logits, dim=1), y)
        self.log("val_loss", F.nll_loss(logits, y), prog_bar=True)
        self.log("val_acc", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def setup(self, stage=None):
        if stage == "fit" or stage is None:
            full = TensorDataset(*stripes(360))
            self.mnist_train, self.mnist_val = random_split(full, [240, 120], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return DataLoader(self.mnist_train, batch_size=32)

    def val_dataloader(self):
        return DataLoader(self.mnist_val, batch_size=32)


def test_tutorial_of_lightning(tmp_path):
    analysed(tmp_path, LitMNIST())


class Backbone(nn.Module):
    def __init__(self, hidden_dim=32):
        super().__init__()
        self.l1 = nn.Linear(64, hidden_dim)
        self.l2 = nn.Linear(hidden_dim, 4)

    def forward(self, x):
        x = x.view(x.size(0), -1)
        return torch.relu(self.l2(torch.relu(self.l1(x))))


class LitClassifier(pl.LightningModule):
    """As in Lightning's example of an image classifier with a backbone."""

    def __init__(self, backbone=None, learning_rate=1e-3):
        super().__init__()
        self.save_hyperparameters(ignore=["backbone"])
        self.backbone = backbone or Backbone()

    def forward(self, x):
        return self.backbone(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("valid_loss", F.cross_entropy(self(x), y), on_step=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)


class MyDataModule(pl.LightningDataModule):
    def __init__(self, batch_size: int = 32):
        super().__init__()
        full = TensorDataset(*stripes(360))
        self.train, self.val = random_split(full, [240, 120], generator=torch.Generator().manual_seed(42))
        self.batch_size = batch_size

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=self.batch_size)


@pytest.mark.filterwarnings("ignore:the verdict is")
def test_image_classifier_of_lightning(tmp_path):
    callback = analysed(tmp_path, LitClassifier(), datamodule=MyDataModule())
    second = ReweightedDataModule(MyDataModule(), reweight(callback.influence))
    trainer(tmp_path, ParetoCallback(analyse=False)).fit(LitClassifier(), datamodule=second)


def test_project_with_lightning_cli(tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse", reason="LightningCLI needs it: pip install 'lightning_pareto[cli]'")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning calls it in an older way
    monkeypatch.setattr("sys.argv", ["main.py"])
    callback = ParetoCallback(verbose=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    LightningCLI(
        LitClassifier,
        MyDataModule,
        args=["fit", "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}", "--data.batch_size=16"],
        trainer_defaults=quiet | {"callbacks": callback},
        save_config_callback=None,
        seed_everything_default=0,
    )
    assert np.isfinite(callback.verdict.p_value)


WORDS = ["[PAD]", "[CLS]", "[SEP]", "good", "bad", "fine", "awful", "the", "film", "was", "a", "plot", "cast"]


class TextModule(pl.LightningModule):
    """As in tutorials that fine-tune a transformer: batches come from a tokenizer and a collator."""

    def __init__(self, config, lr=1e-3):
        super().__init__()
        from transformers import BertForSequenceClassification

        self.model = BertForSequenceClassification(config)
        self.lr = lr

    def forward(self, **inputs):
        return self.model(**inputs)

    def training_step(self, batch, batch_idx):
        return self(**batch)[0]

    def validation_step(self, batch, batch_idx):
        val_loss, logits = self(**batch)[:2]
        self.log("val_loss", val_loss)
        return {"preds": torch.argmax(logits, axis=1), "labels": batch["labels"]}

    def configure_optimizers(self):
        no_decay = ["bias", "LayerNorm.weight"]
        named = list(self.model.named_parameters())
        groups = [
            {"params": [p for n, p in named if not any(d in n for d in no_decay)], "weight_decay": 0.01},
            {"params": [p for n, p in named if any(d in n for d in no_decay)], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
        return [optimizer], [{"scheduler": schedule, "interval": "step", "frequency": 1}]


class Sentences(Dataset):
    """Token lists of different lengths, as a tokenizer returns them."""

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(3, size=count)
        lengths = rng.integers(3, 8, size=count)
        self.tokens = [
            [1, *(rng.integers(7, len(WORDS), size=length)), 3 + int(label), 2]
            for label, length in zip(self.labels, lengths, strict=True)
        ]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"input_ids": self.tokens[i], "label": int(self.labels[i])}


def pad(samples):
    """As DataCollatorWithPadding."""
    longest = max(len(sample["input_ids"]) for sample in samples)
    ids = [sample["input_ids"] + [0] * (longest - len(sample["input_ids"])) for sample in samples]
    mask = [[1] * len(sample["input_ids"]) + [0] * (longest - len(sample["input_ids"])) for sample in samples]
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor([sample["label"] for sample in samples]),
    }


def test_transformer_on_text(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install transformers")
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    torch.manual_seed(0)
    train = DataLoader(Sentences(160, 0), batch_size=16, shuffle=True, collate_fn=pad)
    val = DataLoader(Sentences(90, 1), batch_size=16, collate_fn=pad)
    callback = analysed(tmp_path, TextModule(config), train_dataloaders=train, val_dataloaders=val)
    assert not callback.influence.metadata["parameters"].get("by_loop"), "all layers have a fast rule"


class BasicBlock(nn.Module):
    def __init__(self, inplanes, planes, stride=1, drop_path=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.act2 = nn.ReLU(inplace=True)
        self.drop_path = drop_path
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.drop_path and self.training:
            x = x * (torch.rand(len(x), 1, 1, 1) > self.drop_path) / (1 - self.drop_path)
        x += shortcut
        return self.act2(x)


class ResNet(nn.Module):
    def __init__(self, layers=(1, 1), in_chans=3, num_classes=1000, drop_rate=0.0, drop_path_rate=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.act1 = nn.ReLU(inplace=True)
        stages, planes = [], 8
        for stage, depth in enumerate(layers):
            blocks = [BasicBlock(planes, 8 * 2**stage, 1 + (stage > 0), drop_path_rate)]
            planes = 8 * 2**stage
            stages += [*blocks, *(BasicBlock(planes, planes) for _ in range(depth - 1))]
        self.layers = nn.Sequential(*stages)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.drop_rate = drop_rate
        self.fc = nn.Linear(planes, num_classes)

    def forward_features(self, x):
        return self.layers(self.act1(self.bn1(self.conv1(x))))

    def forward_head(self, x):
        return self.fc(F.dropout(self.global_pool(x).flatten(1), self.drop_rate, self.training))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


MODELS = {"resnet_tiny": ResNet}


def create_model(name, **options):
    return MODELS[name](**options)


class ImageModule(pl.LightningModule):
    def __init__(self, model_name="resnet_tiny", num_classes=4, lr=0.05, weight_decay=5e-4):
        super().__init__()
        self.save_hyperparameters()
        self.net = create_model(model_name, num_classes=num_classes, drop_rate=0.1, drop_path_rate=0.1)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        images, target = batch
        loss = F.cross_entropy(self(images), target, label_smoothing=0.1)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        images, target = batch
        logits = self(images)
        self.log_dict(
            {"val/loss": F.cross_entropy(logits, target), "val/acc": (logits.argmax(1) == target).float().mean()}
        )

    def configure_optimizers(self):
        options = {"lr": self.hparams.lr, "momentum": 0.9, "nesterov": True, "weight_decay": self.hparams.weight_decay}
        optimizer = torch.optim.SGD(self.parameters(), **options)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.hparams.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Augmented(Dataset):
    """Images with a random flip and crop, as with torchvision's transforms."""

    def __init__(self, count, seed, augment):
        self.images, self.targets = stripes(count, channels=3, seed=seed)
        self.classes = ["aeroplane", "bird", "car", "deer"]
        self.augment = augment

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image, target = self.images[index], int(self.targets[index])
        if self.augment:
            image = image.flip(-1) if torch.rand(()) < 0.5 else image
            left = int(torch.randint(3, ()))
            image = F.pad(image, (1, 1, 0, 0))[..., left : left + 8]
        return image, target


@pytest.mark.filterwarnings(
    "ignore:the training dataset returns a different sample each time", "ignore:training_step has another loss"
)
def test_image_classifier_with_batch_norm_augmentation_and_schedule(tmp_path):
    torch.manual_seed(0)
    train = DataLoader(Augmented(160, 0, True), batch_size=32, shuffle=True, drop_last=True)
    val = DataLoader(Augmented(100, 1, False), batch_size=64)
    options = {"gradient_clip_val": 1.0, "accumulate_grad_batches": 2}
    callback = analysed(tmp_path, ImageModule(), train_dataloaders=train, val_dataloaders=val, trainer=options)
    assert callback.influence.category_names == ("aeroplane", "bird", "car", "deer")


class TabularNet(pl.LightningModule):
    """Numbers, and embeddings of the categorical columns."""

    def __init__(self, numbers, cardinalities, classes, dims=(32, 16), lr=1e-2):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(n, min(8, (n + 1) // 2)) for n in cardinalities])
        width = numbers + sum(each.embedding_dim for each in self.embeddings)
        self.norm = nn.BatchNorm1d(numbers)
        layers = []
        for dim in dims:
            layers += [nn.Linear(width, dim), nn.ReLU(), nn.BatchNorm1d(dim), nn.Dropout(0.1)]
            width = dim
        self.head = nn.Sequential(*layers, nn.Linear(width, classes))
        self.lr = lr

    def forward(self, x):
        numbers, categories = x
        embedded = [layer(categories[:, i]) for i, layer in enumerate(self.embeddings)]
        return self.head(torch.cat([self.norm(numbers), *embedded], dim=1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
        return {"optimizer": optimizer, "lr_scheduler": schedule, "monitor": "val_loss"}


class Rows(Dataset):
    def __init__(self, numbers, categories, labels):
        self.numbers, self.categories, self.labels = numbers, categories, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return (self.numbers[i], self.categories[i]), self.labels[i]


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_table_with_categorical_columns(name, tmp_path):
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn: pip install scikit-learn")
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x = torch.tensor(x[order], dtype=torch.float32)
    quarters = torch.tensor([0.25, 0.5, 0.75])
    columns = x[:, :2].T.contiguous()
    quartiles = torch.stack([torch.bucketize(column, column.quantile(quarters)) for column in columns], dim=1)
    rows = Rows(x[:, 2:], quartiles, torch.tensor(y[order]))
    torch.manual_seed(0)
    split = int(0.6 * len(y))
    train, val = (torch.utils.data.Subset(rows, part) for part in (range(split), range(split, len(y))))
    model = TabularNet(x.shape[1] - 2, [4, 4], int(y.max()) + 1)
    analysed(
        tmp_path,
        model,
        train_dataloaders=DataLoader(train, batch_size=16, shuffle=True, drop_last=True),
        val_dataloaders=DataLoader(val, batch_size=64),
    )


def test_other_models_are_refused_before_the_fit(tmp_path):
    model = BoringModel()
    before = model.layer.weight.clone()
    with pytest.raises(BatchError, match="cannot find the labels in a batch of type"):
        trainer(tmp_path, ParetoCallback()).fit(model, datamodule=BoringDataModule())
    torch.testing.assert_close(model.layer.weight, before, rtol=0, atol=0)


class Tokens(Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, i):
        return torch.arange(i, i + 5) % 16, torch.arange(i + 1, i + 6) % 16


class LanguageModel(LightningTransformer):
    def prepare_data(self):
        """Download nothing."""

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))


def test_language_model_is_refused_before_the_fit(tmp_path):
    loader = DataLoader(Tokens(), batch_size=8)
    with pytest.raises(BatchError, match=r"expected integer labels of shape \(B,\), found a torch.int64 tensor"):
        trainer(tmp_path, ParetoCallback()).fit(LanguageModel(16), loader, loader)
