// The page: takes images, a camera or a video, shows what the network predicts, and how long it takes.

import { color, drawBoxes, drawLabels, legend } from "./drawing.js";
import { choices } from "./runtime.js";

const folder = new URL("../", import.meta.url);
const element = (id) => document.getElementById(id);
const [canvas, status] = [element("canvas"), element("status")];
const RECENT = 200; // times that the median and the percentile are taken of
const REPEATS = 30;
const TRANSPARENT =
  "This image has transparent pixels, whose stored colors browsers do not give: tools/predict.py may predict something else.";

let about, assets, classes, worker;
let source = null; // {bitmap} or {video}, and what ends it
let shown = null; // the last result
let times = [];
const pending = new Map();

/** The last prediction, with the size of its image and its times; null if there is none. */
export function current() {
  return shown && { ...shown.result, threshold: Number(element("threshold").value) };
}

/** Resolves once the network is loaded. */
export const ready = start();

async function start() {
  try {
    [about, assets] = await Promise.all(["preprocess.json", "runtime.json"].map(json));
    classes = about.classes.classes;
    describe();
    for (const choice of await choices()) {
      const option = new Option(choice.label, choice.name);
      option.choice = choice;
      element("runtime").append(option);
    }
    document.querySelector("main").hidden = false;
    await openRuntime();
  } catch (error) {
    complain(error);
  }
}

async function json(name) {
  const response = await fetch(new URL(name, folder));
  if (!response.ok) throw new Error(`${name}: ${response.status} ${response.statusText}`);
  return response.json();
}

function describe() {
  const tasks = { seg: "segmentation", det: "detection", cls: "classification" };
  document.title = element("title").textContent = `${about.run}, ${tasks[about.task] ?? about.task}`;
  element("thresholds").hidden = about.task !== "det";
  element("opacities").hidden = about.task !== "seg";
  element("threshold").value = about.decoding.draw_threshold ?? 0.5;
  const shape = about.input.shape.slice(2).map((side) => side ?? "any").reverse().join("x");
  element("about").textContent =
    `Network input ${shape}, ${about.precision}. License of the weights: ${about.license}. ` +
    `Runs on onnxruntime-web ${assets.version} (MIT). ${about.made_by}.`;
}

/** Load the network with the chosen runtime; the next best if the browser's does not work. */
async function openRuntime() {
  const option = element("runtime").selectedOptions[0];
  say(`Loading the network for ${option.choice.label} ...`);
  worker?.terminate();
  pending.forEach(({ reject }) => reject(new Error("the runtime was changed")));
  pending.clear();
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { id, result, error } }) => {
    const { resolve, reject } = pending.get(id) ?? {};
    pending.delete(id);
    error === undefined ? resolve?.(result) : reject?.(new Error(error));
  };
  worker.onerror = ({ message }) => {
    const error = new Error(message || "the worker cannot be started");
    complain(error);
    for (const { reject } of pending.values()) reject(error);
    pending.clear();
  };
  try {
    const { seconds, bytes } = await ask("start", { choice: option.choice, assets, folder: folder.href });
    say(`Ready: ${(bytes / 1e6).toFixed(1)} MB, loaded in ${seconds.toFixed(1)} s.`);
  } catch (error) {
    if (option.nextElementSibling === null) throw error;
    option.remove(); // it cannot run this network
    await openRuntime();
  }
  forget();
}

function ask(call, details, transfer = []) {
  const id = crypto.getRandomValues(new Uint32Array(1))[0];
  return new Promise((resolve, reject) => {
    pending.set(id, { resolve, reject });
    worker.postMessage({ id, call, ...details }, transfer);
  });
}

function say(text) {
  status.textContent = text;
  status.classList.remove("error");
}

function complain(error) {
  status.textContent = error.message;
  status.classList.add("error");
}

// --- sources ---

export async function showFile(file) {
  await ready;
  stop();
  try {
    if (file.type.startsWith("video/")) return await showVideo({ src: URL.createObjectURL(file) });
    const orientation = about.preprocessing.upright ? "from-image" : "none";
    const options = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: orientation };
    source = { bitmap: await createImageBitmap(file, options) };
    await predict(source.bitmap, source.bitmap.width, source.bitmap.height);
  } catch (error) {
    complain(error.name === "InvalidStateError" ? new Error(`${file.name}: not an image that this browser reads`) : error);
  }
}

async function showCamera() {
  stop();
  try {
    if (!navigator.mediaDevices) throw new Error("Browsers allow the camera only over https, or on localhost.");
    const wanted = { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } };
    const stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
    await showVideo({ srcObject: stream }, () => stream.getTracks().forEach((track) => track.stop()));
  } catch (error) {
    complain(error.name === "NotAllowedError" ? new Error("The camera was not allowed.") : error);
  }
}

async function showVideo(origin, end = () => URL.revokeObjectURL(origin.src)) {
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, loop: true }, origin);
  const mine = (source = { video, end });
  await video.play();
  element("stop").hidden = false;
  while (source === mine) {
    await predict(video, video.videoWidth, video.videoHeight);
    await nextFrame(video);
  }
}

function nextFrame(video) {
  return new Promise((resolve) => {
    if (video.requestVideoFrameCallback && !video.paused) video.requestVideoFrameCallback(resolve);
    setTimeout(resolve, 200); // hidden pages get no frames
  });
}

function stop() {
  if (source?.video) {
    source.video.pause();
    source.end();
  }
  source = null;
  element("stop").hidden = true;
  forget();
}

// --- prediction ---

async function predict(image, width, height) {
  const frame = new OffscreenCanvas(width, height);
  const context = frame.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const remark = image instanceof ImageBitmap && transparent(data) ? TRANSPARENT : "Ready.";
  try {
    const result = await ask("run", { data: data.buffer, width, height }, [data.buffer]);
    shown = { frame, result };
    times.push(result.times);
    times = times.slice(-RECENT);
    draw();
    showTimes();
    if (remark !== "Ready." || !status.textContent.startsWith("Ready")) say(remark); // not an earlier error
  } catch (error) {
    stop();
    complain(error);
  }
}

function transparent(data) {
  for (let i = 3; i < data.length; i += 4) if (data[i] < 255) return true;
  return false;
}

function draw() {
  if (!shown) return;
  const { frame, result } = shown, threshold = Number(element("threshold").value);
  const opacity = Number(element("opacity").value);
  element("threshold_text").textContent = threshold.toFixed(2);
  element("opacity_text").textContent = `${Math.round(100 * opacity)}%`;
  [canvas.width, canvas.height] = [result.width, result.height];
  const context = canvas.getContext("2d");
  context.drawImage(frame, 0, 0);
  if (about.task === "seg") drawLabels(context, result.prediction, result, classes, opacity);
  if (about.task === "det") drawBoxes(context, result.prediction, result, classes, threshold);
  const entries = legend(about.task, result.prediction, classes, threshold);
  element("legend").replaceChildren(...entries.map(legendLine));
  element("legend_title").hidden = false;
  element("legend_title").textContent = about.task === "cls" ? "Most probable" : entries.length ? "Classes" : "Nothing found";
  canvas.hidden = false;
  element("hint").hidden = true;
  element("drop").classList.add("full");
  element("again").disabled = !source?.bitmap;
}

function legendLine({ index, name, text }) {
  const line = document.createElement("li"), [label, value] = [0, 0].map(() => document.createElement("span"));
  const swatch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [key, setting] of [["width", 16], ["height", 16], ["fill", color(classes, index)]]) square.setAttribute(key, setting);
  swatch.append(square);
  [label.textContent, value.textContent] = [name, text];
  line.append(swatch, label, value);
  return line;
}

// --- times ---

function forget() {
  times = [];
  showTimes();
}

function showTimes() {
  const network = times.map(({ networkMs }) => networkMs), all = times.map(({ allMs }) => allMs);
  element("network").textContent = ms(quantile(network, 0.5));
  element("p95").textContent = ms(quantile(network, 0.95));
  element("all").textContent = ms(quantile(all, 0.5));
  const count = times.length === 1 ? "1 image" : `${times.length} images`;
  element("count").textContent = times.length ? `Median and 95th percentile of ${count}.` : "";
}

export function quantile(values, share) {
  if (!values.length) return NaN;
  const sorted = Float64Array.from(values).sort(), place = share * (sorted.length - 1), below = Math.floor(place);
  return sorted[below] + (place - below) * (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]);
}

function ms(value) {
  return Number.isNaN(value) ? "–" : `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

// --- controls ---

element("file").onchange = ({ target }) => {
  if (target.files[0]) showFile(target.files[0]);
  target.value = "";
};
element("camera").onclick = showCamera;
element("stop").onclick = stop;
element("again").onclick = async ({ target }) => {
  target.disabled = true;
  forget();
  const { bitmap } = source;
  for (let i = 0; i < REPEATS && source?.bitmap === bitmap; i++) await predict(bitmap, bitmap.width, bitmap.height);
};
element("runtime").onchange = () => {
  openRuntime()
    .then(() => source?.bitmap && predict(source.bitmap, source.bitmap.width, source.bitmap.height))
    .catch(complain);
};
for (const id of ["threshold", "opacity"]) element(id).oninput = draw;
document.ondragover = (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
};
document.ondragleave = () => element("drop").classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  if (event.dataTransfer.files[0]) showFile(event.dataTransfer.files[0]);
};
document.onpaste = ({ clipboardData }) => {
  if (clipboardData.files[0]) showFile(clipboardData.files[0]);
};
