// Loads onnxruntime-web with what the browser has: WebGPU, WebAssembly with threads, or WebAssembly alone.

/** Which of them this browser can run, best first: [{name, kind, threads, label}]. */
export async function choices() {
  const cores = navigator.hardwareConcurrency || 1;
  const most = self.crossOriginIsolated ? Math.min(cores, 4) : 1; // threads share memory, which needs isolation
  const found = [];
  if (await gpu()) found.push({ name: "webgpu", kind: "webgpu", threads: 1, label: "WebGPU" });
  if (most > 1) found.push({ name: `wasm-${most}`, kind: "wasm", threads: most, label: `WebAssembly, ${most} threads` });
  found.push({ name: "wasm-1", kind: "wasm", threads: 1, label: "WebAssembly, 1 thread" });
  return found;
}

async function gpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter); // no CPU in disguise
  } catch {
    return false;
  }
}

/** The library for a choice. assets: the content of runtime.json. */
export async function load({ kind, threads }, assets) {
  const { script, wasm } = assets.files[kind];
  const base = new URL(assets.base, import.meta.url);
  const [scriptUrl, wasmUrl] = assets.vendored
    ? [new URL(script.name, base).href, new URL(wasm.name, base).href]
    : await Promise.all([verified(script, base, "text/javascript"), verified(wasm, base, "application/wasm")]);
  const ort = await import(scriptUrl);
  ort.env.wasm.wasmPaths = { wasm: wasmUrl };
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return ort;
}

/** A local address of a file from elsewhere, whose hash the browser has compared with the one in runtime.json. */
async function verified({ name, integrity }, base, type) {
  const response = await fetch(new URL(name, base), { integrity, mode: "cors" });
  if (!response.ok) throw new Error(`${new URL(name, base)}: ${response.status} ${response.statusText}`);
  return URL.createObjectURL(new Blob([await response.arrayBuffer()], { type }));
}

/** A session of a model's bytes. */
export function open(ort, { kind }, bytes) {
  return ort.InferenceSession.create(bytes, {
    executionProviders: kind === "webgpu" ? ["webgpu", "wasm"] : ["wasm"],
    graphOptimizationLevel: "all",
  });
}
