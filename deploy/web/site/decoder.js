// How an image becomes the input of an exported network, and its outputs predictions, as tools/predict.py does it.
// Needs only the content of preprocess.json; docs/reference/exported-files.md explains its keys.
// Apache-2.0; from mobilenet-dense, deploy/web/site/decoder.js.

/** Bytes of an image (RGB or RGBA rows) -> {values, dims}: the network's input, [N, 3, h, w]. */
export function prepare({ data, width, height }, about) {
  const [count, , ...fixed] = about.input.shape;
  const { pixels, size } = resized({ data, width, height }, about.preprocessing.resize, fixed);
  if (about.min_size && size.some((side, axis) => side < about.min_size[axis])) {
    throw new Error(`the network takes images of at least ${about.min_size[1]}x${about.min_size[0]} pixels`);
  }
  const plane = size[0] * size[1];
  const bytes = about.input.dtype === "uint8";
  const values = new (bytes ? Uint8Array : Float32Array)((count ?? 1) * 3 * plane);
  const { in_graph, mean, std } = about.preprocessing;
  for (let channel = 0; channel < 3; channel++) {
    const [center, scale] = in_graph ? [0, 1] : [Math.fround(mean[channel]), Math.fround(std[channel])];
    for (let i = 0; i < plane; i++) {
      const value = pixels[3 * i + channel];
      values[channel * plane + i] = in_graph ? value : Math.fround(value - center) / scale;
    }
  }
  for (let n = 1; n < (count ?? 1); n++) values.copyWithin(n * 3 * plane, 0, 3 * plane);
  return { values, dims: [count ?? 1, 3, ...size] };
}

/** Outputs by name ({data, dims}) -> {boxes, scores, labels}, {labels} (of each pixel) or {probabilities}.
 * size: [height, width] of the image before it was resized. */
export function decode(outputs, about, size) {
  if (about.task === "det") {
    return about.output === "detections" ? finishedBoxes(outputs, size) : decodedBoxes(outputs, about.decoding, size);
  }
  if (about.task === "seg") return { labels: labelMap(outputs, about, size) };
  if (about.task === "cls") return { probabilities: softmax(outputs.logits.data.subarray(0, outputs.logits.dims[1])) };
  throw new Error(`task=${about.task}: this page knows only the outputs of seg, det and cls`);
}

// --- resizing ---

/** Interleaved RGB of the input's size: the same bytes as OpenCV or Pillow gives. */
function resized(image, how, fixed) {
  const { width: W, height: H } = image;
  if (how.mode === "custom") throw new Error("the run resizes images with a transform of its own");
  let size = fixed[0] ? fixed : how.size ?? [H, W];
  if (how.mode === "shorter_side") size = [H, W].map((side) => Math.floor((how.side * side) / Math.min(H, W)));
  if (how.mode === "scale") size = [H, W].map((side) => Math.max(1, even(side * how.factor)));
  const same = size[0] === H && size[1] === W;
  const smaller = size[0] <= H && size[1] <= W;
  const resize = same ? copied : how.antialias ? likePillow : how.when_smaller === "area" && smaller ? averaged : linear;
  const pixels = resize(image, size);
  if (!how.center_crop) return { pixels, size };
  const [rows, columns] = how.center_crop;
  const top = even((size[0] - rows) / 2), left = even((size[1] - columns) / 2);
  const cropped = new Uint8ClampedArray(3 * rows * columns);
  for (let y = 0; y < rows; y++) {
    const start = 3 * ((top + y) * size[1] + left);
    cropped.set(pixels.subarray(start, start + 3 * columns), 3 * y * columns);
  }
  return { pixels: cropped, size: [rows, columns] };
}

/** Rounds halves to even. */
function even(value) {
  const below = Math.floor(value), rest = value - below;
  return rest === 0.5 ? below + (below & 1) : rest < 0.5 ? below : below + 1;
}

function copied({ data, width, height }) {
  const step = data.length / (width * height), pixels = new Uint8ClampedArray(3 * width * height);
  for (let i = 0, from = 0, to = 0; i < width * height; i++, from += step, to += 3) {
    for (let c = 0; c < 3; c++) pixels[to + c] = data[from + c];
  }
  return pixels;
}

/** OpenCV's bilinear interpolation of bytes, in its fixed-point numbers: 11 bits per weight. */
function linear({ data, width: w, height: h }, [H, W]) {
  const step = data.length / (w * h);
  const across = fixedPoint(w, W, true), down = fixedPoint(h, H, false);
  const rows = new Map(); // the two rows interpolated last, by their place in the image
  const row = (y) => {
    if (!rows.has(y)) {
      if (rows.size > 1) rows.delete(Math.min(...rows.keys()));
      const values = new Int32Array(3 * W);
      for (let x = 0; x < W; x++) {
        const a = step * (y * w + across.first[x]), b = step * (y * w + across.second[x]);
        const u = across.weights[2 * x], v = across.weights[2 * x + 1];
        for (let c = 0; c < 3; c++) values[3 * x + c] = data[a + c] * u + data[b + c] * v;
      }
      rows.set(y, values);
    }
    return rows.get(y);
  };
  const pixels = new Uint8ClampedArray(3 * H * W);
  for (let y = 0; y < H; y++) {
    const a = row(down.first[y]), b = row(down.second[y]);
    const u = down.weights[2 * y], v = down.weights[2 * y + 1];
    for (let i = 0, to = 3 * y * W; i < 3 * W; i++, to++) {
      pixels[to] = (((u * (a[i] >> 4)) >> 16) + ((v * (b[i] >> 4)) >> 16) + 2) >> 2;
    }
  }
  return pixels;
}

/** For each output position: the two input positions around it, and their weights times 2048. */
function fixedPoint(length, newLength, clampWeights) {
  const first = new Int32Array(newLength), second = new Int32Array(newLength), weights = new Int32Array(2 * newLength);
  const scale = 1 / (newLength / length);
  for (let i = 0; i < newLength; i++) {
    const exact = Math.fround((i + 0.5) * scale - 0.5);
    const below = Math.floor(exact);
    let share = Math.fround(exact - below);
    if (clampWeights && (below < 0 || below >= length - 1)) share = 0; // OpenCV clamps rows, but not their weights
    first[i] = Math.min(Math.max(below, 0), length - 1);
    second[i] = Math.min(Math.max(below + 1, 0), length - 1);
    weights[2 * i] = even(Math.fround(1 - share) * 2048);
    weights[2 * i + 1] = even(share * 2048);
  }
  return { first, second, weights };
}

/** The mean over the area that a new pixel covers, as OpenCV's INTER_AREA. */
function averaged(image, [H, W]) {
  const { width: w, height: h } = image;
  const halves = w === 2 * W && h === 2 * H;
  const sum = (length, newLength) => {
    const scale = length / newLength;
    return Array.from({ length: newLength }, (_, i) => {
      const from = i * scale, to = from + scale, covered = Math.min(scale, length - from);
      const end = Math.min(Math.floor(to), length - 1), start = Math.min(Math.ceil(from), end);
      const weights = new Array(end - start).fill(1 / covered);
      const before = start - from > 1e-3, after = to - end > 1e-3;
      if (before) weights.unshift((start - from) / covered);
      if (after) weights.push(Math.min(to - end, 1, covered) / covered);
      return { first: before ? start - 1 : start, weights };
    });
  };
  const across = weighted(copied(image), [h, w], sum(w, W), Float64Array, (value) => value);
  return downwards(across, [h, W], sum(h, H), (value) => (halves ? Math.floor(value + 0.5) : even(Math.fround(value))));
}

/** Pillow's bilinear filter, in its fixed-point numbers: 22 bits per weight, bytes between the axes. */
function likePillow(image, [H, W]) {
  const { width: w, height: h } = image;
  const taps = (length, newLength) => {
    const scale = length / newLength, reach = Math.max(scale, 1);
    return Array.from({ length: newLength }, (_, i) => {
      const center = (i + 0.5) * scale;
      const first = Math.max(Math.trunc(center - reach + 0.5), 0);
      const last = Math.min(Math.trunc(center + reach + 0.5), length);
      const weights = [];
      for (let x = first; x < last; x++) weights.push(Math.max(0, 1 - Math.abs((x - center + 0.5) / reach)));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      return { first, weights: weights.map((weight) => Math.floor(0.5 + (weight / total) * 4194304)) };
    });
  };
  const bytes = (value) => (value + 2097152) >> 22;
  let pixels = copied(image);
  if (w !== W) pixels = weighted(pixels, [h, w], taps(w, W), Uint8ClampedArray, bytes);
  return h === H ? pixels : downwards(pixels, [h, W], taps(h, H), bytes);
}

function weighted(pixels, [h, w], taps, Kind, round) {
  const W = taps.length, result = new Kind(3 * h * W);
  taps.forEach(({ first, weights }, x) => {
    for (let y = 0; y < h; y++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0, from = 3 * (y * w + first) + c; k < weights.length; k++, from += 3) sum += weights[k] * pixels[from];
        result[3 * (y * W + x) + c] = round(sum);
      }
    }
  });
  return result;
}

function downwards(pixels, [, w], taps, round) {
  const result = new Uint8ClampedArray(3 * taps.length * w), sums = new Float64Array(3 * w);
  taps.forEach(({ first, weights }, y) => {
    sums.fill(0);
    weights.forEach((weight, k) => {
      for (let i = 0, from = 3 * (first + k) * w; i < 3 * w; i++, from++) sums[i] += weight * pixels[from];
    });
    for (let i = 0; i < 3 * w; i++) result[3 * y * w + i] = round(sums[i]);
  });
  return result;
}

// --- classification ---

function softmax(scores) {
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float32Array.from(scores, (score) => Math.exp(score - most));
  const total = powers.reduce((sum, value) => sum + value, 0);
  return powers.map((value) => value / total);
}

// --- segmentation ---

/** The class of each pixel of the image, [H * W] bytes. */
function labelMap(outputs, about, [H, W]) {
  const aligned = about.decoding.align_corners, labels = new Uint8Array(H * W);
  if (about.output === "argmax") {
    const { data, dims } = outputs.labels, [h, w] = dims.slice(1);
    const rows = nearest(h, H, aligned), columns = nearest(w, W, aligned);
    for (let y = 0, i = 0; y < H; y++) {
      for (let x = 0; x < W; x++, i++) labels[i] = data[rows[y] * w + columns[x]];
    }
    return labels;
  }
  const { data, dims } = outputs.logits, [, count, h, w] = dims;
  const down = between(h, H, aligned), across = between(w, W, aligned);
  const row = new Float32Array(count * w), best = new Float32Array(W);
  for (let y = 0; y < H; y++) {
    const share = down.share[y], rest = 1 - share;
    for (let k = 0; k < count; k++) {
      const a = (k * h + down.first[y]) * w, b = (k * h + down.second[y]) * w;
      for (let x = 0; x < w; x++) row[k * w + x] = data[a + x] * rest + data[b + x] * share;
    }
    const line = labels.subarray(y * W, (y + 1) * W);
    best.fill(-Infinity);
    for (let k = 0; k < count; k++) {
      for (let x = 0; x < W; x++) {
        const share = across.share[x];
        const score = row[k * w + across.first[x]] * (1 - share) + row[k * w + across.second[x]] * share;
        if (score > best[x]) {
          best[x] = score;
          line[x] = k;
        }
      }
    }
  }
  return labels;
}

/** For each output position: the two input positions around it, and the weight of the second. */
function between(length, newLength, aligned) {
  const first = new Int32Array(newLength), second = new Int32Array(newLength), share = new Float32Array(newLength);
  for (let i = 0; i < newLength; i++) {
    const scale = Math.fround(aligned ? (length - 1) / Math.max(newLength - 1, 1) : length / newLength);
    const exact = Math.fround(aligned ? i * scale : Math.max(0, Math.fround((i + 0.5) * scale) - 0.5));
    first[i] = Math.min(Math.floor(exact), length - 1);
    second[i] = Math.min(first[i] + 1, length - 1);
    share[i] = exact - first[i];
  }
  return { first, second, share };
}

/** The nearest input position of each output position, computed with integers. */
function nearest(length, newLength, aligned) {
  const steps = Math.max(newLength - 1, 1);
  return Int32Array.from({ length: newLength }, (_, i) =>
    aligned
      ? Math.floor((2 * i * (length - 1) + steps) / (2 * steps))
      : Math.floor(((2 * i + 1) * length) / (2 * newLength)),
  );
}

// --- detection ---

/** The boxes of output=detections, in pixels of the image. */
function finishedBoxes({ boxes, scores, labels }, [H, W]) {
  const all = Array.from(labels.data.subarray(0, labels.dims[1]), Number);
  const count = all.includes(-1) ? all.indexOf(-1) : all.length; // -1: unused rows
  return {
    boxes: Float32Array.from(boxes.data.subarray(0, 4 * count), (side, i) => side * (i % 2 ? H : W)),
    scores: Float32Array.from(scores.data.subarray(0, count)),
    labels: Int32Array.from(all.slice(0, count)),
  };
}

/** The boxes of output=raw: decoded with the anchors, and suppressed per class. */
function decodedBoxes(outputs, how, [H, W]) {
  const corners = anchors(how.anchors), [, total, columns] = outputs.scores.dims;
  const scores = confidences(outputs.scores.data, columns, how.activation, total);
  const deltas = outputs.deltas.data, boxes = new Float32Array(4 * total);
  const interval = how.coder.kind === "distances" ? byDistances : byDeltas;
  for (let i = 0; i < total; i++) {
    for (let axis = 0; axis < 2; axis++) {
      const low = corners[4 * i + axis], side = corners[4 * i + axis + 2] - low;
      const ends = interval(deltas, i, axis, low, side, how.coder, outputs.deltas.dims[2]);
      const pixels = axis ? H : W;
      boxes[4 * i + axis] = Math.min(Math.max(ends[0], 0), 1) * pixels;
      boxes[4 * i + axis + 2] = Math.min(Math.max(ends[1], 0), 1) * pixels;
    }
  }
  return suppressed(boxes, scores, columns, how);
}

/** Both ends of box i along an axis, from its center and its size (SSDLite). */
function byDeltas(deltas, i, axis, low, side, { scales, max_log_ratio }) {
  const center = (deltas[4 * i + axis] / scales[axis]) * side + low + side / 2;
  const half = (Math.exp(Math.min(deltas[4 * i + axis + 2] / scales[axis + 2], max_log_ratio ?? Infinity)) * side) / 2;
  return [center - half, center + half];
}

/** Both ends of box i along an axis, from the distances of its sides, each the mean of a distribution (PANLite). */
function byDistances(deltas, i, axis, low, side, coder, width) {
  const bins = width / 4, middle = low + side / 2;
  const distance = (which) => {
    const start = i * width + which * bins;
    return softmax(deltas.subarray(start, start + bins)).reduce((sum, share, bin) => sum + share * bin, 0);
  };
  return [middle - distance(axis) * side, middle + distance(axis + 2) * side];
}

/** [A * 4] corners as fractions of the input, in the order map, row, column, shape. */
function anchors(how) {
  if (how.boxes) return how.boxes.flat();
  const result = [];
  for (const { rows, columns, shapes } of how.maps) {
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        for (const [width, height] of shapes) {
          const [cx, cy] = [(x + 0.5) / columns, (y + 0.5) / rows];
          result.push(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2);
        }
      }
    }
  }
  return result;
}

function confidences(scores, columns, activation, total) {
  if (activation === "sigmoid") return Float32Array.from(scores.subarray(0, total * columns), (s) => 1 / (1 + Math.exp(-s)));
  const result = new Float32Array(total * columns);
  for (let i = 0; i < total; i++) result.set(softmax(scores.subarray(i * columns, (i + 1) * columns)), i * columns);
  return result;
}

/** Of two boxes of a class that overlap more than iou_threshold, the better one is kept. */
function suppressed(boxes, scores, columns, how) {
  const pairs = [];
  for (let i = 0; i < scores.length; i++) {
    if (i % columns !== how.background_column && scores[i] > how.score_threshold) pairs.push(i);
  }
  pairs.sort((a, b) => scores[b] - scores[a] || a - b);
  const [most, considered] = [how.per_class ?? Infinity, how.candidates ?? Infinity];
  const seen = new Map(), kept = [];
  for (const pair of pairs) {
    if (kept.length === how.max_detections) break;
    const column = pair % columns, box = 4 * Math.floor(pair / columns);
    const ofClass = seen.get(column) ?? { count: 0, boxes: [] };
    seen.set(column, ofClass);
    ofClass.count++;
    const empty = !(boxes[box + 2] > boxes[box] && boxes[box + 3] > boxes[box + 1]);
    if (ofClass.count > considered || ofClass.boxes.length === most || empty) continue;
    if (ofClass.boxes.some((other) => overlap(boxes, box, other) > how.iou_threshold)) continue;
    ofClass.boxes.push(box);
    kept.push({ box, score: scores[pair], label: column - (how.background_column !== null && column > how.background_column ? 1 : 0) });
  }
  return {
    boxes: Float32Array.from(kept.flatMap(({ box }) => [...boxes.subarray(box, box + 4)])),
    scores: Float32Array.from(kept, ({ score }) => score),
    labels: Int32Array.from(kept, ({ label }) => label),
  };
}

/** Intersection over union of two boxes of positive area. */
function overlap(boxes, a, b) {
  const side = (axis) => Math.max(0, Math.min(boxes[a + axis + 2], boxes[b + axis + 2]) - Math.max(boxes[a + axis], boxes[b + axis]));
  const area = (box) => (boxes[box + 2] - boxes[box]) * (boxes[box + 3] - boxes[box + 1]);
  const shared = side(0) * side(1);
  return shared / (area(a) + area(b) - shared);
}
