"""A page that shows what networks find in an image; Gradio makes it."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mmhcgnet.analysis.gates import maps as gate_maps
from mmhcgnet.analysis.gates.images import make_reader
from mmhcgnet.analysis.report import check_matplotlib
from mmhcgnet.checkpoints.checkpoint import find_file
from mmhcgnet.checkpoints.newest import pointed
from mmhcgnet.engine.configs import config_in, shipped_config
from mmhcgnet.engine.inference import TorchPredictor
from mmhcgnet.errors import MissingFileError, ReadableError, UsageError, readable
from mmhcgnet.paths import shipped_configs, shipped_weights
from mmhcgnet_runtime import Predictor, RuntimeFileError, draw
from mmhcgnet_runtime.drawing import name_of
from mmhcgnet_runtime.images import lacks_scale, read

from .export import export_file
from .images import EXPORTED, open_predictor

if TYPE_CHECKING:
    import gradio as gr

TORCH = "PyTorch"
WEIGHTS = (".pth", ".pt", ".safetensors")
ENGINES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
MOST_BYTES = 20 * 2**20  # of an upload
MOST_PIXELS = 50_000_000  # of an upload
SIDE = 2048  # pixels; larger images are made smaller, as their masks and the page would be huge
# Pillow knows formats, too, that start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
# No telemetry, no look-ups, and no list of what was uploaded.
_GRADIO = dict(
    GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False", HF_HUB_OFFLINE="1"
)  # fmt: skip
_GATES = "Takes some seconds; the figure explains itself."
_NO_GATES = "An exported file has no gate maps: only PyTorch shows them."


class Network:
    """A network that the page offers.

    Args:
        model: A config, or an exported file.
        checkpoint: The weights of the config.
        device: Where PyTorch computes.

    Attributes:
        name (str): What the page calls it.
        engines (list[str]): What can run it here, the default first.

    Raises:
        MissingFileError: If a file does not exist.
    """

    def __init__(self, model: str, checkpoint: str | None = None, device: str = "cpu") -> None:
        for path in filter(None, (model, checkpoint)):
            if not os.path.isfile(path):
                raise MissingFileError(f"{path} does not exist.")
        self._model, self._checkpoint, self._device = model, checkpoint, device
        self._predictors: dict[str, TorchPredictor | Predictor] = {}
        self._exported: str | None = None
        self.name = Path(model).name
        # OpenVINO's own files are read by it alone.
        installed = [
            name
            for name, package in ENGINES.items()
            if find_spec(package) and not (model.endswith(".xml") and name != "OpenVINO")
        ]
        self.engines = installed
        if checkpoint:
            self.name = Path(model).stem
            if str(shipped_weights(self.name)) != checkpoint:
                self.name += f", {Path(checkpoint).name}"
            self.engines = [TORCH, *(installed if find_spec("onnx") else [])]

    def open(self, engine: str, folder: str) -> TorchPredictor | Predictor:
        """Open it with an engine, which takes seconds the first time.

        Args:
            engine: One of ``engines``.
            folder: Where a network of PyTorch is exported to for the others.

        Raises:
            UsageError: If it cannot be opened, or exported.
        """
        if not self.engines:
            raise UsageError(f"{self.name} needs an engine: pip install onnxruntime or openvino.")
        if engine not in self.engines:
            raise UsageError(f"{self.name} does not run with {engine} here.")
        if engine not in self._predictors:
            self._predictors[engine] = self._open(engine, folder)
        return self._predictors[engine]

    def _open(self, engine: str, folder: str) -> TorchPredictor | Predictor:
        if engine == TORCH:
            return open_predictor(self._model, self._checkpoint, self._device, None)
        if self._checkpoint and self._exported is None:
            path = os.path.join(tempfile.mkdtemp(dir=folder), "model.onnx")
            self._exported = export_file(self._model, self._checkpoint, path)
        return open_predictor(self._exported or self._model, None, self._device, ENGINES[engine])


def find_networks(words: Sequence[str], device: str = "cpu") -> dict[str, Network]:
    """Find the networks that a command line names.

    Args:
        words: Exported files; names of networks that ship with their weights, which without any
            are all of these; configs, by path or by name, each with its checkpoint after it; and
            folders with exported files or the work directory of a training, of which the newest
            checkpoint is taken.
        device: Where PyTorch computes.

    Returns:
        The networks by their names, of which no two are the same.

    Raises:
        MissingFileError: If a file does not exist.
        UsageError: If there is none, or a config has no checkpoint.
    """
    pairs: list[tuple[str, str | None]] = []
    rest = list(words) or [name for name in shipped_configs() if shipped_weights(name)]
    while rest:
        word = rest.pop(0)
        if os.path.isdir(word):
            pairs += _networks_in(word)
        elif word.endswith(EXPORTED):
            pairs.append((word, None))
        elif (weights := shipped_weights(word)) and not (rest and rest[0].endswith(WEIGHTS)):
            pairs.append((shipped_config(word), str(weights)))
        elif not rest:
            raise UsageError(f"{word} is a config and has no weights: name a checkpoint after it.")
        else:
            pairs.append((shipped_config(word), find_file(rest.pop(0))))
    if not pairs:  # the package was copied without its weights
        raise UsageError("Name a network: CONFIG CHECKPOINT, MODEL.onnx, or a folder with one.")
    networks: dict[str, Network] = {}
    for model, checkpoint in pairs:
        network = Network(model, checkpoint, device)
        if network.name in networks:
            network.name = ", ".join(filter(None, (model, checkpoint)))
        networks[network.name] = network
    return networks


def _networks_in(folder: str) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = [
        (str(path), None) for path in sorted(Path(folder).iterdir()) if path.suffix in EXPORTED
    ]
    config = config_in(folder)
    checkpoints = {path.name: path for path in Path(folder).glob("*.pth")}
    if config and checkpoints:
        newest = max(checkpoints.values(), key=os.path.getmtime)
        newest = checkpoints.get(pointed([folder]), newest)
        found.insert(0, (config, str(newest)))
    if not found:
        raise UsageError(f"{folder} has neither exported models nor a config with a checkpoint.")
    return found


@dataclasses.dataclass(frozen=True)
class Found:
    """What a network has found in an image.

    Args:
        image: RGB, uint8 ``(H, W, 3)``, as the network was given it.
        result: What its predictor returned.
        classes: Names of the classes.
        about: A sentence on how long it took.
    """

    image: np.ndarray
    result: dict[str, Any]
    classes: Sequence[str]
    about: str


def read_upload(path: str) -> np.ndarray:
    """Read an image of anybody.

    Args:
        path: The file.

    Returns:
        RGB, uint8 ``(H, W, 3)``, of at most ``SIDE`` pixels on the longer side.

    Raises:
        UsageError: If it is not an image of a common format, or has too many bytes or pixels.
    """
    name = readable(os.path.basename(path))
    if os.path.getsize(path) > MOST_BYTES:
        raise UsageError(f"{name} is larger than {MOST_BYTES >> 20} MB: choose a smaller file.")
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            width, height = opened.size
            has_no_scale = lacks_scale(opened.mode, opened.format)
    except Image.DecompressionBombError as error:
        raise UsageError(f"{name} has too many pixels: choose a smaller image.") from error
    except Exception as error:  # decoders raise what they like
        raise UsageError(
            f"{name} is not an image that can be read here: choose one of {', '.join(_FORMATS)}."
        ) from error
    if width * height > MOST_PIXELS:
        raise UsageError(
            f"{name} has {width} × {height} pixels, more than {MOST_PIXELS // 10**6} million: "
            "choose a smaller image."
        )
    if has_no_scale:
        raise UsageError(f"{name} has values of 32 bits: choose an image with 8 or 16 bits.")
    try:
        image = Image.fromarray(read(path))
    except RuntimeFileError as error:
        raise UsageError(f"{name} is damaged: choose another image.") from error
    image.thumbnail((SIDE, SIDE))
    return np.array(image)


def sentence_of(error: Exception) -> str:
    """What a page says about an error: one sentence, and no more than the user can act on."""
    if isinstance(error, ReadableError | RuntimeFileError | FileNotFoundError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "Memory has run out: choose a smaller image or network."
    logging.getLogger(__name__).error("The page could not do it.", exc_info=error)
    return f"That failed unexpectedly ({type(error).__name__}): the terminal says where."


class Callbacks:
    """What the page does; no method raises.

    Args:
        networks: As :func:`find_networks` returns them.
        folder: A temporary folder.
    """

    def __init__(self, networks: dict[str, Network], folder: str) -> None:
        self.networks = networks
        self._folder = folder
        # Of the image that was seen last, so that engines can be compared.
        self._timed: tuple[str, str] | None = None
        self._times: dict[str, str] = {}

    def predict(self, path: str | None, network: str, engine: str) -> Found | str:
        """Return what is found, or a sentence on why nothing is.

        Args:
            path: The image.
            network: Name of a network.
            engine: One of its engines.
        """
        if path is None:
            return ""
        try:
            image = read_upload(path)
            predictor = self.networks[network].open(engine, self._folder)
            predictor(image)  # an engine prepares itself for images of this size
            start = time.perf_counter()
            result = predictor(image)
            milliseconds = 1000 * (time.perf_counter() - start)
        except Exception as error:
            return sentence_of(error)
        height, width = image.shape[:2]
        if self._timed != (path, network):
            self._timed, self._times = (path, network), {}
        self._times[engine] = f"{engine} {milliseconds:.0f} ms"
        about = f"For {width} × {height} pixels: {', '.join(self._times.values())}."
        return Found(image, result, predictor.classes, about)

    def show(self, found: Found | str, threshold: float) -> tuple[np.ndarray | None, str]:
        """Return the drawn image, and sentences on it.

        Args:
            found: As :meth:`predict` returns it.
            threshold: Objects with a lower score are left out.
        """
        if isinstance(found, str):
            return None, found
        try:
            drawn = draw(found.image, found.result, found.classes, threshold)
            return drawn, f"{_describe(found, threshold)} {found.about}"
        except Exception as error:
            return None, sentence_of(error)

    def show_gates(
        self, path: str | None, network: str, engine: str, wanted: bool
    ) -> tuple[np.ndarray | None, str]:
        """Return the figure of all gates, or why there is none.

        Args:
            path: The image.
            network: Name of a network.
            engine: One of its engines.
            wanted: Whether there is to be one.
        """
        if not wanted or path is None or engine != TORCH:
            return None, ""
        try:
            check_matplotlib()
            image = read_upload(path)
            predictor = self.networks[network].open(engine, self._folder)
            hcgnet = gate_maps.find_network(predictor.model)
            if hcgnet is None:
                raise UsageError(f"{network} has no HCGNet, whose gates to show.")
            with tempfile.NamedTemporaryFile(suffix=".png", dir=self._folder) as file:
                Image.fromarray(image).save(file.name)
                sample = make_reader(predictor.cfg, predictor.model)(file.name)
            gates = gate_maps.read_gates(hcgnet, sample.inputs)
            figure = gate_maps.contact_sheet(sample, gates)
            figure.canvas.draw()
            return np.array(figure.canvas.buffer_rgba())[..., :3], ""
        except Exception as error:
            return None, sentence_of(error)


def _describe(found: Found, threshold: float) -> str:
    result = found.result
    if "label" in result:
        label = result["label"]
        score = float(result["scores"][label])
        return f"{name_of(label, found.classes)}, with a score of {score:.2f}."
    kept = [
        label for label, s in zip(result["labels"], result["scores"], strict=True) if s >= threshold
    ]
    if not kept:
        best = f"; the best is {max(result['scores']):.2f}" if len(result["scores"]) else ""
        return f"No object has a score of {threshold:.2f} or more{best}."
    counts = Counter(name_of(int(label), found.classes) for label in kept)
    names = ", ".join(
        f"{number} × {name}" if number > 1 else name for name, number in counts.most_common()
    )
    return f"{len(kept)} object{'s' if len(kept) > 1 else ''}: {names}."


def build_page(callbacks: Callbacks) -> gr.Blocks:
    """Make the page, which nothing serves yet.

    Args:
        callbacks: What it does.
    """
    import gradio as gr

    networks = callbacks.networks
    first = next(iter(networks.values()))

    def offer(network: str) -> dict[str, Any]:
        engines = networks[network].engines
        return gr.update(choices=engines, value=engines[0] if engines else None)

    def offer_gates(engine: str, wanted: bool) -> dict[str, Any]:
        there = engine == TORCH
        return gr.update(
            interactive=there, info=_GATES if there else _NO_GATES, value=wanted and there
        )

    with gr.Blocks(title="mmhcgnet", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("## What a network finds in an image", elem_id="title")
        with gr.Row():
            with gr.Column(min_width=300):
                image = gr.Image(
                    label="Image", type="filepath", sources=["upload", "clipboard"], height=320,
                    buttons=[], elem_id="image",
                )  # fmt: skip
                # Gradio would decode it, and meet what is broken before this page does.
                image.preprocess = lambda upload: upload and upload.path
                network = gr.Dropdown(
                    list(networks), value=first.name, label="Network", elem_id="network"
                )
                engine = gr.Radio(
                    first.engines, value=next(iter(first.engines), None), label="Engine",
                    elem_id="engine",
                )  # fmt: skip
                threshold = gr.Slider(
                    0, 1, value=0.3, step=0.01, label="Score threshold", elem_id="threshold",
                    info="Objects below it are hidden.",
                )  # fmt: skip
                gates = gr.Checkbox(
                    label="Show where the gates look", elem_id="gates",
                    interactive=TORCH in first.engines,
                    info=_GATES if TORCH in first.engines else _NO_GATES,
                )  # fmt: skip
            with gr.Column(scale=2, min_width=300):
                drawn = gr.Image(
                    label="Result", interactive=False, buttons=["download", "fullscreen"],
                    elem_id="result",
                )  # fmt: skip
                sentence = gr.Textbox(label="What was found", lines=2, elem_id="sentence")
        figure = gr.Image(
            label="Where the gates look", interactive=False, buttons=["download", "fullscreen"],
            visible=False, elem_id="figure",
        )  # fmt: skip
        found = gr.State("")

        def show_gates(*args: Any) -> tuple[dict[str, Any], Any]:
            picture, problem = callbacks.show_gates(*args)
            shown = gr.update(value=picture, visible=picture is not None)
            return shown, problem or gr.skip()

        chosen = [image, network, engine]
        hidden = dict(api_visibility="private", concurrency_limit=1, concurrency_id="network")

        def follow(event: Any) -> None:
            """Predict, and show all that there is to see."""
            event = event.then(callbacks.predict, chosen, found, **hidden)
            event = event.then(callbacks.show, [found, threshold], [drawn, sentence], **hidden)
            event.then(show_gates, [*chosen, gates], [figure, sentence], **hidden)

        follow(image.change(None))
        change = network.input(offer, network, engine, **hidden)
        follow(change.then(offer_gates, [engine, gates], gates, **hidden))
        follow(engine.input(offer_gates, [engine, gates], gates, **hidden))
        threshold.change(
            callbacks.show, [found, threshold], [drawn, sentence],
            trigger_mode="always_last", show_progress="hidden", **hidden,
        )  # fmt: skip
        gates.input(show_gates, [*chosen, gates], [figure, sentence], **hidden)
    return page


@contextmanager
def serve(
    networks: dict[str, Network], host: str = "127.0.0.1", port: int | None = None
) -> Iterator[str]:
    """Serve the page as long as the context lasts.

    Nothing is loaded from other machines or sent to them, and uploads are deleted at the end.

    Args:
        networks: As :func:`find_networks` returns them. The first one is opened before.
        host: The address to listen at; others than 127.0.0.1 let other machines in.
        port: By default the first free one from 7860 on.

    Yields:
        Where the page is.

    Raises:
        UsageError: If Gradio is not installed, or the address cannot be used, or as
            :meth:`Network.open`.
    """
    if find_spec("gradio") is None:
        raise UsageError("The page needs Gradio: pip install 'mmhcgnet[demo]'")
    with tempfile.TemporaryDirectory(prefix="mmhcgnet-") as folder:
        os.environ.update(_GRADIO, GRADIO_TEMP_DIR=folder)  # some of it is read at the import
        first = next(iter(networks.values()))
        first.open(next(iter(first.engines), TORCH), folder)
        page = build_page(Callbacks(networks, folder))
        try:
            page.queue(max_size=32).launch(
                server_name=host, server_port=port, share=False, quiet=True, footer_links=[],
                max_file_size=MOST_BYTES, prevent_thread_lock=True, ssr_mode=False, pwa=False,
                enable_monitoring=False,
            )  # fmt: skip
        except OSError as error:
            raise UsageError(
                f"The page cannot be served at {host}, port {port or '7860 to 7959'}: the port is "
                "taken, or the address is not one of this machine."
            ) from error
        try:
            yield page.local_url
        finally:
            page.close(verbose=False)
