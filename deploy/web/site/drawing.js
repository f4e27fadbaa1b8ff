// Draws predictions over an image, and lists the classes.

const PALETTE_STEP = 0.61803398875;

/** CSS color of a class; those without a color get one from a fixed sequence of hues. */
export function color(classes, index) {
  const rgb = classes[index]?.color;
  return rgb ? `rgb(${rgb.join(" ")})` : `hsl(${Math.round(((index * PALETTE_STEP) % 1) * 360)} 80% 55%)`;
}

/** The label map in color over the image, which `context` shows already. */
export function drawLabels(context, { labels }, { width, height }, classes, opacity) {
  const layer = new OffscreenCanvas(width, height), paint = layer.getContext("2d");
  const pixels = paint.createImageData(width, height), packed = new Uint32Array(pixels.data.buffer);
  const colors = Uint32Array.from(classes, (_, index) => packedColor(paint, color(classes, index)));
  for (let i = 0; i < labels.length; i++) packed[i] = colors[labels[i]];
  paint.putImageData(pixels, 0, 0);
  context.globalAlpha = opacity;
  context.drawImage(layer, 0, 0);
  context.globalAlpha = 1;
}

function packedColor(paint, text) {
  paint.fillStyle = text;
  const hex = parseInt(paint.fillStyle.slice(1), 16); // #rrggbb -> 0xaabbggrr
  return ((255 << 24) | ((hex & 255) << 16) | (hex & 0xff00) | (hex >> 16)) >>> 0;
}

/** Boxes with names and scores. */
export function drawBoxes(context, { boxes, scores, labels }, { width, height }, classes, threshold) {
  const line = Math.max(2, Math.round(Math.max(width, height) / 320)), text = Math.max(12, 7 * line);
  context.lineWidth = line;
  context.font = `600 ${text}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (let i = scores.length - 1; i >= 0; i--) { // the best on top
    if (scores[i] < threshold) continue;
    const [left, top, right, bottom] = boxes.subarray(4 * i, 4 * i + 4);
    const fill = color(classes, labels[i]), name = `${classes[labels[i]].name} ${scores[i].toFixed(2)}`;
    context.strokeStyle = context.fillStyle = fill;
    context.strokeRect(left, top, right - left, bottom - top);
    const plate = context.measureText(name).width + text / 2, y = Math.max(0, top - 1.25 * text);
    const x = Math.max(0, Math.min(left - line / 2, width - plate));
    context.fillRect(x, y, plate, 1.25 * text);
    context.fillStyle = ink(context.fillStyle);
    context.fillText(name, x + text / 4, y + text / 8);
  }
}

/** Black or white, whichever is legible on #rrggbb. */
function ink(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#000" : "#fff";
}

/** What the legend lists: [{index, name, text, share}], most first. */
export function legend(task, prediction, classes, threshold) {
  const entries = classes.map(({ name }, index) => ({ index, name, count: 0, share: 0, text: "" }));
  if (task === "seg") {
    prediction.labels.forEach((label) => entries[label].count++);
    for (const entry of entries) {
      entry.share = entry.count / prediction.labels.length;
      entry.text = percent(entry.share);
    }
  } else if (task === "det") {
    prediction.labels.forEach((label, i) => (entries[label].count += prediction.scores[i] >= threshold));
    for (const entry of entries) entry.text = String(entry.count);
  } else {
    for (const entry of entries) {
      entry.share = entry.count = prediction.probabilities[entry.index];
      entry.text = percent(entry.share);
    }
  }
  const sorted = entries.sort((a, b) => b.count - a.count);
  return task === "cls" ? sorted.slice(0, 5) : sorted.filter((entry) => entry.count > 0);
}

function percent(share) {
  return share > 0 && share < 0.001 ? "< 0.1%" : `${(100 * share).toFixed(1)}%`;
}
