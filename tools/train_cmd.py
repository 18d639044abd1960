# SPDX-License-Identifier: Apache-2.0
"""``xnortvm train``: train a binary network and save it, ready to be compiled."""

from __future__ import annotations

import argparse
import copy
import importlib
import io
import json
import logging
from pathlib import Path
from typing import Any

from xnortvm.errors import MissingDependencyError, ModelError, TrainingError, XnortvmError
from xnortvm.tools.outcome import Outcome, table

HELP = "train a binary network on digits, generated shapes, CIFAR-10 or a folder of images"

_log = logging.getLogger("xnortvm.tools.train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        "--data",
        default="digits",
        help="digits (scikit-learn's), shapes (generated), cifar10 or imagenet (both in "
        "--data-dir; imagenet is any folder with train/CLASS/ and val/CLASS/)",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the files of the data set are")
    parser.add_argument("--input-size", type=int, metavar="N", help="side of the images in pixels")
    parser.add_argument("--model", metavar="NET", help="network; the data set has a default one")
    parser.add_argument(
        "--scale", metavar="GAMMA", help="Γ: channel, dense, channel-spatial, "
        "channel-height-width (default), analytic, analytic-input or none"
    )  # fmt: skip
    parser.add_argument("--num-classes", type=int, metavar="N", help="logits, as the data have")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="further option of the network, such as width=32; VALUE is JSON or text",
    )
    parser.add_argument("--init", metavar="CHECKPOINT", help="start from these weights")
    parser.add_argument("--recipe", default="short", help="preset: paper, paper-alexnet or short")
    for name, kind in (
        ("epochs", int),
        ("batch-size", int),
        ("lr", float),
        ("weight-decay", float),
        ("label-smoothing", float),
    ):
        parser.add_argument(f"--{name}", type=kind, help="instead of the preset's")
    parser.add_argument("--optimizer", help="adam, adamw or sgd, instead of the preset's")
    parser.add_argument("--schedule", help="step or cosine, instead of the preset's")
    parser.add_argument("--scale-init", help="ones or analytic, instead of the preset's")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="folder to write (default: runs/DATA-NET-GAMMA)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    parser.add_argument(
        "--save-steps", type=int, metavar="N", help="save the state every N steps, too"
    )
    parser.add_argument(
        "--export", action="store_true", help="write DIR/model.pt2, which compile and bench take"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    parser.add_argument(
        "--precision", default="float32", choices=["float32", "bfloat16", "float16"],
        help="of convolutions while training",
    )  # fmt: skip
    parser.add_argument("--num-threads", type=int, metavar="N", help="threads of PyTorch")


def run(args: argparse.Namespace) -> Outcome:
    """Train and report."""
    torch = _torch()
    if args.num_threads is not None:
        if args.num_threads < 1:
            raise XnortvmError(f"--num-threads={args.num_threads} is no number; give at least 1")
        torch.set_num_threads(args.num_threads)
    models = importlib.import_module("xnortvm.models")
    training = importlib.import_module("xnortvm.models.training")
    recipe = training.make_recipe(
        args.recipe,
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        weight_decay=args.weight_decay,
        label_smoothing=args.label_smoothing,
        optimizer=args.optimizer,
        schedule=args.schedule,
        scale_init=args.scale_init,
    )
    data = training.load_data(args.data, args.data_dir, args.input_size)
    with training.join(args.device) as group:
        model, name = _network(args, models, training, data)
        output = Path(args.output or f"runs/{data.name}-{name}-{args.scale or 'default'}")
        _start(args, models, training, model, recipe, data)
        if group.leads:
            _log.info("training %s on %s, %d images, into %s", name, data.name,
                      len(data.train.labels), output)  # fmt: skip
        rows = training.train(
            model,
            data,
            recipe,
            seed=args.seed,
            options=training.Options(
                output, args.resume, args.precision, args.save_steps, args.quiet
            ),
            group=group,
        )
        if not group.leads:
            return Outcome("", None)
    exported = _export(models, model.cpu(), data, output) if args.export else None
    return _outcome(models, model, data, recipe, rows, output, exported)


def _network(args: argparse.Namespace, models: Any, training: Any, data: Any) -> tuple[Any, str]:
    """Build the network to start from."""
    name = args.model or training.SOURCES[args.data].network
    options: dict[str, Any] = dict(_option(text) for text in args.option)
    if name == "lenet":
        options.setdefault("in_channels", data.image_shape[0])
    classes = len(data.classes) if args.num_classes is None else args.num_classes
    try:
        model = models.build(
            name,
            scale=args.scale,
            num_classes=classes,
            input_size=tuple(data.image_shape[1:]),
            seed=args.seed,
            randomize=False,
            **options,
        )
    except (ValueError, TypeError) as error:
        raise ModelError(f"the network {name!r} cannot be built: {error}") from error
    training.check_fit(model, data)
    return model, name


def _start(
    args: argparse.Namespace, models: Any, training: Any, model: Any, recipe: Any, data: Any
) -> None:
    """Set where training starts: Γ by the recipe, or all weights from a checkpoint."""
    models.init_scales_(model, recipe.scale_init)
    if args.init is None or args.resume:
        return
    saved = models.saved.read(args.init)
    if saved.frozen:
        raise TrainingError(
            f"{args.init} holds signs instead of latent weights and cannot be trained further"
        )
    models.saved.load_tensors(model, saved.tensors, args.init)


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise XnortvmError(f"--option={text} is not KEY=VALUE, as in width=32")
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        return key, value
    return key, tuple(parsed) if isinstance(parsed, list) else parsed


def _export(models: Any, model: Any, data: Any, output: Path) -> Path:
    """Write the frozen network as an exported program for one image."""
    torch = _torch()
    files = importlib.import_module("xnortvm.models.files")
    frozen = models.freeze_(copy.deepcopy(model)).eval()
    program = torch.export.export(frozen, (torch.zeros(1, *data.image_shape),), strict=False)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    files.write_atomically(output / "model.pt2", buffer.getvalue())
    return output / "model.pt2"


def _outcome(
    models: Any, model: Any, data: Any, recipe: Any, rows: Any, output: Path, exported: Path | None
) -> Outcome:
    last = rows[-1]
    weights = output / "model.safetensors"
    result = {
        "output": str(output),
        "weights": str(weights),
        "exported": str(exported) if exported else None,
        "epochs": last.epoch,
        "test_accuracy": last.test_accuracy,
        "train_accuracy": last.train_accuracy,
        "seconds": sum(row.seconds for row in rows),
        "binary_layers": list(models.binary_layers(model)),
        "recipe": recipe.to_json(),
    }
    head = ["epochs", "training loss", "training %", "test %", "seconds"]
    row = [last.epoch, last.loss, 100 * last.train_accuracy, 100 * last.test_accuracy]
    wrong = round((1 - last.test_accuracy) * len(data.test.labels))
    text = (
        f"{table(head, [[*row, result['seconds']]])}\n\n"
        f"{wrong} of {len(data.test.labels)} test images are classified wrongly.\n"
        f"Saved to {weights}; load it by xnortvm.models.load({str(weights)!r})."
    )
    if exported:
        text += f"\nExported to {exported}; go on with: xnortvm bench {exported} --against torch"
    return Outcome(text, result)


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependencyError(
            'training needs PyTorch, which is not installed; run: pip install "xnortvm[train]"'
        ) from error
