// Measures the layers that tools/serve.py sends, in a worker, and shows the progress.

import { choices } from "./runtime.js";

const element = (id) => document.getElementById(id);
const status = element("status");
const SESSION = "session"; // where a reload of the page finds its admission

const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname); // the token admits one page, so nobody needs to see it
let awake = null;

start().catch(complain);

async function start() {
  for (const choice of await choices()) {
    const option = new Option(choice.label, choice.name);
    option.choice = choice;
    element("runtime").append(option);
  }
  document.querySelector("main").hidden = false;
  const before = JSON.parse(sessionStorage.getItem(SESSION) ?? "null");
  if (before) {
    say("Continuing ...");
    return measure(before);
  }
  if (!token) throw new Error("Open the address that tools/serve.py printed; it admits one page.");
  say(`${navigator.hardwareConcurrency} cores${self.crossOriginIsolated ? "" : "; no threads: the page is not served over https"}`);
  element("start").onclick = () => begin(element("runtime").selectedOptions[0].choice).catch(complain);
}

async function begin(choice) {
  const response = await fetch("api/device", {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ ...choice, ...(await device()) }),
  });
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  const admitted = { choice, session: content.session };
  sessionStorage.setItem(SESSION, JSON.stringify(admitted));
  await measure(admitted);
}

async function device() {
  const brands = navigator.userAgentData?.brands?.filter(({ brand }) => !/not.*brand/i.test(brand));
  const details = await navigator.userAgentData?.getHighEntropyValues?.(["model", "platformVersion"]).catch(() => null);
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const { vendor, architecture } = adapter?.info ?? {};
  const name = [navigator.userAgentData?.platform ?? navigator.platform, details?.platformVersion, details?.model];
  return {
    browser: brands?.length ? brands.map(({ brand, version }) => `${brand} ${version}`).join(", ") : navigator.userAgent,
    platform: name.filter(Boolean).join(" ") || navigator.userAgent,
    gpu: [vendor, architecture].filter(Boolean).join(" "),
    cores: navigator.hardwareConcurrency || 1,
    isolated: self.crossOriginIsolated,
  };
}

async function measure({ choice, session }) {
  element("start").disabled = element("runtime").disabled = true;
  element("runtime").value = choice.name;
  element("running").hidden = false;
  say("Loading onnxruntime-web ...");
  document.addEventListener("visibilitychange", stayAwake);
  await stayAwake();
  const assets = await (await fetch("runtime.json")).json();
  const worker = new Worker(new URL("measure_worker.js", import.meta.url), { type: "module" });
  worker.onerror = ({ message }) => complain(new Error(message || "the worker cannot be started"));
  worker.onmessage = ({ data: { error, finished, done, total } }) => {
    if (error) return complain(new Error(error));
    if (finished) return showResult(finished);
    say("Measuring; keep this page in front.");
    Object.assign(element("bar"), { value: done, max: total || 1 });
    element("layer").textContent = total ? `${done} of ${total} layers` : "the whole network";
  };
  worker.postMessage({ choice, session, assets, folder: new URL("./", location.href).href });
}

async function stayAwake() {
  if (document.visibilityState !== "visible" || awake === false) return;
  awake = await navigator.wakeLock?.request("screen").catch(() => null);
}

function showResult({ layers, sum_ms, network_ms, file }) {
  awake?.release?.();
  awake = false;
  sessionStorage.removeItem(SESSION);
  element("running").hidden = true;
  element("result").hidden = false;
  element("sum").textContent = `${sum_ms.toFixed(1)} ms`;
  element("whole").textContent = `${network_ms.toFixed(1)} ms`;
  element("difference").textContent = `${(100 * (sum_ms / network_ms - 1)).toFixed(1)}%`;
  say(`Done: ${layers} layers are in ${file} on the computer. You can close this page.`);
}

function say(text) {
  status.textContent = text;
  status.classList.remove("error");
}

function complain(error) {
  status.textContent = error.message;
  status.classList.add("error");
}
