"""Runs an exported detector with NumPy, Pillow and ONNX Runtime: detect_onnx.py MODEL IMAGE."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw


def main(model: str, file: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["mmhcgnet"])
    (step,) = facts["steps"]  # a detector's: resize into this size, with the ratio of the sides
    image = Image.open(file).convert("RGB")  # Pillow clips grey of 16 bits
    long, short = max(step["size"]), min(step["size"])
    scale = min(long / max(image.size), short / min(image.size))
    width, height = (int(side * scale + 0.5) for side in image.size)
    divisor = facts["pad_divisor"]  # of both sides, by padding at the right and at the bottom
    shape = (1, -(-height // divisor) * divisor, -(-width // divisor) * divisor, 3)
    batch = np.zeros(shape, dtype=np.uint8)
    batch[0, :height, :width] = np.array(image.resize((width, height), Image.BILINEAR))
    sizes = np.array([[height, width]], dtype=np.int64)

    names = ["boxes", "scores", "labels"]
    boxes, scores, labels = session.run(names, dict(images=batch, sizes=sizes))
    draw = ImageDraw.Draw(image)
    for box, score, label in zip(boxes[0], scores[0], labels[0], strict=True):
        if label < 0 or score < 0.3:  # the objects are sorted, and -1 stands behind the last
            break
        name = facts["classes"][label] if facts["classes"] else label
        print(f"{name} {score:.2f} at {(box / scale).round().tolist()}")
        draw.rectangle((box / scale).tolist(), outline="red")
    image.save("objects.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
