// Prepares images, runs the network and decodes its outputs, away from the page so that it stays responsive.

import { decode, prepare } from "./decoder.js";
import { load, open } from "./runtime.js";

let ort, session, about;

async function start({ choice, assets, folder }) {
  const began = performance.now();
  about = await (await answer(new URL("preprocess.json", folder))).json();
  const bytes = await (await answer(new URL("model.onnx", folder))).arrayBuffer();
  ort = await load(choice, assets);
  await session?.release();
  session = await open(ort, choice, new Uint8Array(bytes));
  const dims = about.input.shape.map((side) => side ?? 1); // the first call takes longer than the others
  if (!about.input.shape.slice(2).includes(null)) await session.run({ [about.input.name]: blank(dims) });
  return { seconds: (performance.now() - began) / 1000, bytes: bytes.byteLength };
}

function blank(dims) {
  const count = dims.reduce((product, side) => product * side, 1);
  const values = new (about.input.dtype === "uint8" ? Uint8Array : Float32Array)(count);
  return new ort.Tensor(about.input.dtype, values, dims);
}

async function answer(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.pathname}: ${response.status} ${response.statusText}`);
  return response;
}

async function run({ data, width, height }) {
  const times = [performance.now()];
  const { values, dims } = prepare({ data: new Uint8ClampedArray(data), width, height }, about);
  times.push(performance.now());
  const outputs = await session.run({ [about.input.name]: new ort.Tensor(about.input.dtype, values, dims) });
  times.push(performance.now());
  const prediction = decode(outputs, about, [height, width]);
  times.push(performance.now());
  const [prepareMs, networkMs, decodeMs] = times.slice(1).map((time, i) => time - times[i]);
  return { prediction, width, height, times: { prepareMs, networkMs, decodeMs, allMs: times[3] - times[0] } };
}

self.onmessage = async ({ data: { id, call, ...details } }) => {
  try {
    const result = await (call === "start" ? start(details) : run(details));
    const buffers = Object.values(result.prediction ?? {}).map((array) => array.buffer);
    self.postMessage({ id, result }, buffers);
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
