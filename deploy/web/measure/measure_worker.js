// Runs one graph after another and sends back the time of a call.

import { load, open } from "./runtime.js";

const WARMUP = 3; // calls that are not counted
const LEAST = 10; // counted times
const SAMPLE_MS = 2; // shorter calls are timed several at once: clocks of browsers are coarse
const INTERVAL = 0.02; // enough when the 95% interval of the median is within this share of it

let ort, choice, session, folder;

self.onmessage = async ({ data }) => {
  ({ choice, session, folder } = data);
  try {
    ort = await load(choice, data.assets);
    for (;;) {
      const job = await nextJob();
      if (job?.finished) return self.postMessage({ finished: job.finished });
      if (!job) continue;
      self.postMessage({ done: job.done, total: job.total });
      await send(await result(job));
    }
  } catch (error) {
    self.postMessage({ error: String(error?.message ?? error) });
  }
};

async function result({ number, ...job }) {
  try {
    return { number, ms: await measured(job) };
  } catch (error) {
    return { number, error: String(error?.message ?? error) };
  }
}

async function measured({ graph, inputs, seconds, statistic }) {
  const model = await open(ort, choice, graph);
  try {
    const feeds = Object.fromEntries(model.inputNames.map((name, i) => [name, numbers(inputs[i])]));
    for (let i = 0; i < WARMUP; i++) await model.run(feeds);
    const calls = Math.max(1, Math.round(SAMPLE_MS / (await time(model, feeds, 1))));
    const times = [], began = performance.now();
    const enough = () => statistic === "median" && precise(times);
    while (times.length < LEAST || (performance.now() - began < 1000 * seconds && !enough())) {
      times.push((await time(model, feeds, calls)) / calls);
      if (performance.now() - began > 5000 * seconds && times.length > 1) break; // a slow network
    }
    times.sort((a, b) => a - b);
    return statistic === "min" ? times[0] : times[times.length >> 1];
  } finally {
    await model.release();
  }
}

async function time(model, feeds, calls) {
  const began = performance.now();
  for (let i = 0; i < calls; i++) await model.run(feeds);
  return performance.now() - began;
}

/** Whether the order statistics that enclose the median with 95% confidence are close enough to it. */
function precise(times) {
  const sorted = Float64Array.from(times).sort(), middle = sorted[sorted.length >> 1];
  const reach = 0.98 * Math.sqrt(sorted.length);
  const low = Math.max(0, Math.floor(sorted.length / 2 - reach));
  const high = Math.min(sorted.length - 1, Math.ceil(sorted.length / 2 + reach));
  return sorted.length >= LEAST && sorted[high] - sorted[low] < 2 * INTERVAL * middle;
}

function numbers(shape) {
  const values = new Float32Array(shape.reduce((product, side) => product * side, 1));
  for (let i = 0, state = 1; i < values.length; i++) {
    state = (state * 48271) % 2147483647;
    values[i] = state / 2147483647;
  }
  return new ort.Tensor("float32", values, shape);
}

async function nextJob() {
  const response = await answered("api/job", {});
  if (response.status === 204) return null;
  if (!response.headers.has("X-Job")) return response.json();
  return { ...JSON.parse(response.headers.get("X-Job")), graph: new Uint8Array(await response.arrayBuffer()) };
}

function send(content) {
  return answered("api/result", { method: "POST", body: JSON.stringify(content) });
}

/** The server's answer; asked again if the connection is lost, as when a phone sleeps. */
async function answered(path, options) {
  for (let attempt = 0; ; attempt++) {
    try {
      const headers = { Authorization: `Bearer ${session}`, "Content-Type": "application/json" };
      const response = await fetch(new URL(path, folder), { ...options, headers });
      if (response.ok || response.status === 409) return response; // 409: an earlier attempt has arrived
      throw new Error((await response.json()).error);
    } catch (error) {
      if (!(error instanceof TypeError) || attempt === 5) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}
