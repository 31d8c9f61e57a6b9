// Runs an exported detector with ONNX Runtime's build for browsers: detect_onnx.js MODEL IMAGE.ppm
const fs = require("fs");
const ort = require("onnxruntime-web"); // in a page: <script src=".../ort.min.js"></script>

async function main(model, file) {
  const bytes = fs.readFileSync(model); // what the file says about itself stands at its end
  let at = bytes.lastIndexOf("\n\x08mmhcgnet\x12", "latin1") + 11;
  let length = 0;
  for (let shift = 0, byte = 128; byte & 128; shift += 7) length += ((byte = bytes[at++]) & 127) << shift;
  const facts = JSON.parse(bytes.toString("utf8", at, at + length));
  const [step] = facts.steps; // a detector's: resize into this size, with the ratio of the sides

  const ppm = fs.readFileSync(file); // RGB in bytes; in a page: getImageData of a canvas
  const [head, w, h] = /^P6\s+(\d+)\s+(\d+)\s+255\s/.exec(ppm.toString("latin1", 0, 64));
  const pixels = ppm.subarray(head.length);
  const scale = Math.min(Math.max(...step.size) / Math.max(w, h), Math.min(...step.size) / Math.min(w, h));
  const [width, height] = [w, h].map((side) => Math.floor(side * scale + 0.5));
  const divisor = facts.pad_divisor; // of both sides, by padding at the right and at the bottom
  const [wide, high] = [width, height].map((side) => Math.ceil(side / divisor) * divisor);
  const near = (i, from, to) => { // both neighbours, and the weight of the second
    const place = ((i + 0.5) * from) / to - 0.5, first = Math.floor(place);
    return [Math.max(first, 0), Math.min(first + 1, from - 1), place - first];
  };
  const batch = new Uint8Array(high * wide * 3);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++) {
    const [top, bottom, v] = near(y, +h, height), [left, right, u] = near(x, +w, width);
    const row = (i) => pixels[(i * w + left) * 3 + c] * (1 - u) + pixels[(i * w + right) * 3 + c] * u;
    batch[(y * wide + x) * 3 + c] = Math.round(row(top) * (1 - v) + row(bottom) * v);
  }
  const session = await ort.InferenceSession.create(bytes);
  const { boxes, scores, labels } = await session.run({
    images: new ort.Tensor("uint8", batch, [1, high, wide, 3]),
    sizes: new ort.Tensor("int64", BigInt64Array.of(BigInt(height), BigInt(width)), [1, 2]),
  });
  for (let i = 0; labels.data[i] >= 0n && scores.data[i] >= 0.3; i++) { // sorted; -1 behind the last
    const box = [0, 1, 2, 3].map((k) => boxes.data[4 * i + k] / [width / w, height / h][k % 2]);
    const name = facts.classes ? facts.classes[labels.data[i]] : labels.data[i];
    console.log(`${name} ${scores.data[i].toFixed(2)} at [${box.map((b) => b.toFixed(1)).join(", ")}]`);
  }
}

main(...process.argv.slice(2));
