"""Segmentation training as torchvision's reference script does it, according to its documentation.

Pillow decodes; the whole image is resized so that its shorter side is a random number of pixels between 0.5
and 2 times `base` (520), then flipped, cropped, and made a normalized float tensor; torch's loader has its
default settings; the network is torchvision's `lraspp_mobilenet_v3_large`; SGD has momentum 0.9, and its
learning rate decays by power 0.9 each step; cross entropy is computed at the input's size; the loss is read
each step.

As a script it is one side of `training_speed.py`: it trains once per line on its standard input. It does not
import this project, so that its process is set up as torchvision's would be.
"""

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as T

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IGNORE = 255


class ImageMaskDataset(Dataset[dict[str, Any]]):
    """Images and masks of contiguous classes; a sample includes what it cost, in CPU seconds."""

    def __init__(self, images: Sequence[str], masks: Sequence[str], *, base: int, crop: int) -> None:
        self.images, self.masks = list(images), list(masks)
        self.shortest, self.longest, self.crop = int(0.5 * base), int(2.0 * base), crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        started = time.process_time()
        image, mask = Image.open(self.images[index]).convert("RGB"), Image.open(self.masks[index])
        mask.load()
        decoded = time.process_time()
        pixels, labels = self._transformed(image, mask)
        costs = {"decode": decoded - started, "augment": time.process_time() - decoded}
        return {"image": pixels, "label": labels, **costs}

    def _transformed(self, image: Image.Image, mask: Image.Image) -> tuple[Tensor, Tensor]:
        side = random.randint(self.shortest, self.longest)
        image = T.resize(image, [side], antialias=True)
        mask = T.resize(mask, [side], interpolation=InterpolationMode.NEAREST)
        if random.random() < 0.5:
            image, mask = T.hflip(image), T.hflip(mask)
        short = [max(0, self.crop - length) for length in image.size]
        if any(short):
            image, mask = T.pad(image, [0, 0, *short], fill=0), T.pad(mask, [0, 0, *short], fill=IGNORE)
        top = random.randint(0, image.height - self.crop)
        left = random.randint(0, image.width - self.crop)
        image, mask = (T.crop(part, top, left, self.crop, self.crop) for part in (image, mask))
        pixels = T.normalize(T.convert_image_dtype(T.pil_to_tensor(image), torch.float), MEAN, STD)
        return pixels, T.pil_to_tensor(mask)[0].long()


def loader(
    dataset: ImageMaskDataset, *, samples: int, batch: int, workers: int
) -> DataLoader[dict[str, Any]]:
    """torch's loader with its defaults, over `samples` random samples."""
    sampler = RandomSampler(dataset, num_samples=samples)
    return DataLoader(dataset, batch_size=batch, sampler=sampler, num_workers=workers, drop_last=True)


class Training:
    """torchvision's network and loop, with `steps` steps per round."""

    def __init__(
        self,
        dataset: ImageMaskDataset,
        *,
        classes: int,
        batch: int,
        workers: int,
        steps: int,
        device: str = "cpu",
    ) -> None:
        self.dataset, self.batch, self.workers, self.steps = dataset, batch, workers, steps
        self.model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)
        self.model.train().to(device)
        self.device = device
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-6)
        self.schedule = torch.optim.lr_scheduler.PolynomialLR(
            self.optimizer, total_iters=100 * steps, power=0.9
        )

    def round(self) -> dict[str, float]:
        """Train for `steps` batches, from the start of the loader on: seconds, in total and by part."""
        spent = dict.fromkeys(("wait", "forward", "backward", "optimizer", "decode", "augment"), 0.0)
        started = time.perf_counter()
        batches: Iterator[dict[str, Any]] = iter(
            loader(self.dataset, samples=self.steps * self.batch, batch=self.batch, workers=self.workers)
        )
        for _ in range(self.steps):
            self._step(batches, spent)
        return {"seconds": time.perf_counter() - started, "images": self.steps * self.batch, **spent}

    def _step(self, batches: Iterator[dict[str, Any]], spent: dict[str, float]) -> None:
        marks = [time.perf_counter()]
        batch = next(batches)
        marks.append(time.perf_counter())
        scores = self.model(batch["image"].to(self.device))["out"]
        loss = F.cross_entropy(scores, batch["label"].to(self.device), ignore_index=IGNORE)
        marks.append(time.perf_counter())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        marks.append(time.perf_counter())
        self.optimizer.step()
        self.schedule.step()
        loss.item()
        marks.append(time.perf_counter())
        for name, start, end in zip(
            ("wait", "forward", "backward", "optimizer"), marks, marks[1:], strict=False
        ):
            spent[name] += end - start
        for name in ("decode", "augment"):
            spent[name] += float(batch[name].sum())


def main() -> None:
    options = json.loads(sys.argv[1])
    if options.pop("keep_memory"):
        from engine.runtime import keep_freed_memory

        keep_freed_memory()
    images, masks = options.pop("images"), options.pop("masks")
    dataset = ImageMaskDataset(images, masks, base=options.pop("base"), crop=options.pop("crop"))
    training = Training(dataset, **options)
    for _ in sys.stdin:
        print(json.dumps(training.round()), flush=True)


if __name__ == "__main__":
    main()
