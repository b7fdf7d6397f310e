// The page: opens the model, runs it on the sample or on a chosen image, and shows what it answers and how long it took.
// With `?check=TOKEN` it runs the sample once and sends the outputs back to the server, which the export does.

import { imageTensor } from "./image.js";
import { loadModel, providersHere } from "./runtime.js";
import { decodeFrame, encodeFrame } from "./tensors.js";

const NAMES = { wasm: "WebAssembly (CPU)", webgpu: "WebGPU", webgl: "WebGL" };
const RUNS = 10;
const MAX_CLASSES = 5;
const MAX_VALUES = 8;
const at = (id) => document.getElementById(id);
const check = new URLSearchParams(location.search).get("check");

let config;
let golden = null;
let model = null;
let busy = false;

async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function row(cells) {
  const made = element("tr");
  made.append(...cells);
  return made;
}

function milliseconds(value) {
  return `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ms`;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

// The largest error over the largest magnitude of the output, the worst output first.
function largestError(found, expected) {
  let worst = 0;
  for (const [name, { data }] of Object.entries(expected)) {
    let error = 0;
    let magnitude = 0;
    for (let index = 0; index < data.length; index += 1) {
      const got = Number(found[name].data[index]);
      const wanted = Number(data[index]);
      if (Number.isFinite(got) || Number.isFinite(wanted)) error = Math.max(error, Math.abs(got - wanted));
      if (Number.isNaN(got) !== Number.isNaN(wanted)) error = Infinity;
      magnitude = Math.max(magnitude, Math.abs(wanted));
    }
    worst = Math.max(worst, error / (magnitude || 1));
  }
  return worst;
}

function describe() {
  document.title = config.name;
  at("name").textContent = config.name;
  const size = config.model_bytes / 2 ** 20;
  const runtime = config.runtime === "tfjs" ? "TensorFlow.js" : "ONNX Runtime Web";
  at("about").textContent = `${config.precision}, ${size.toFixed(size < 10 ? 1 : 0)} MiB, ${runtime} ${config.version}`;
  const head = row(["", "name", "type", "shape"].map((text) => element("th", text)));
  const rows = [["takes", config.signature.inputs], ["gives", config.signature.outputs]].flatMap(([verb, specs]) =>
    specs.map(({ name, dtype, shape }) =>
      row([verb, name, dtype, shape.join(" × ") || "one value"].map((text) => element("td", text))),
    ),
  );
  at("signature").append(head, ...rows);
}

function figures(pairs) {
  at("figures").replaceChildren(
    ...pairs.map(([term, value, bad]) => {
      const pair = element("div");
      pair.append(element("dt", term), element("dd", value, bad ? "bad" : ""));
      return pair;
    }),
  );
}

function showOutputs(outputs) {
  const table = element("table");
  table.append(row(["output", "shape", "values"].map((text) => element("th", text))));
  for (const [name, { shape, data }] of Object.entries(outputs)) {
    const shown = Array.from(data.slice(0, MAX_VALUES), (value) => Number(Number(value).toPrecision(5)));
    const rest = data.length > MAX_VALUES ? ", …" : "";
    const values = element("td", shown.join(", ") + rest, "values");
    table.append(row([element("td", name), element("td", shape.join(" × "), "shape"), values]));
  }
  at("outputs").replaceChildren(table);
}

function scores(data, how) {
  if (how === "none") return Array.from(data);
  if (how === "sigmoid") return Array.from(data, (value) => 1 / (1 + Math.exp(-value)));
  const most = Math.max(...data);
  const powers = Array.from(data, (value) => Math.exp(value - most));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}

function showClasses(outputs) {
  const found = Object.values(outputs).find(({ shape }) => shape.length === 2);
  const count = found.shape[1];
  const ranked = scores(found.data.slice(0, count), config.preprocess.scores ?? "softmax")
    .map((score, index) => ({ score, label: config.labels[index] ?? String(index) }))
    .sort((a, b) => b.score - a.score)
    .slice(0, MAX_CLASSES);
  at("classes").replaceChildren(
    ...ranked.map(({ score, label }) => {
      const item = element("li");
      item.style.setProperty("--share", `${Math.max(0, Math.min(1, score)) * 100}%`);
      item.append(element("span", label), element("span", score.toFixed(3)));
      return item;
    }),
  );
}

async function timed(inputs) {
  const outputs = await model.run(inputs);
  const times = [];
  for (let index = 0; index < RUNS; index += 1) {
    const start = performance.now();
    await model.run(inputs);
    times.push(performance.now() - start);
  }
  return { outputs, latency: median(times) };
}

async function show(title, inputs, image) {
  const { outputs, latency } = await timed(inputs);
  const facts = [["Time for one run", milliseconds(latency)]];
  if (!image && golden.outputs) {
    const error = largestError(outputs, golden.outputs);
    const verdict = error <= config.limit ? "as the reference" : "not as the reference";
    facts.push(["Largest error", `${error.toExponential(1)}: ${verdict}`, error > config.limit]);
  }
  at("result-title").textContent = title;
  at("preview").hidden = !image;
  at("classes").hidden = !image;
  if (image) showClasses(outputs);
  figures(facts);
  showOutputs(outputs);
  at("result").hidden = false;
  say(`Done. Each figure is the median of ${RUNS} runs.`);
}

// One thing at a time; what goes wrong is said where the state is said.
async function act(doing, work) {
  if (busy) return;
  busy = true;
  for (const part of at("controls").querySelectorAll("button, select, input")) part.disabled = true;
  say(doing);
  try {
    await work();
  } catch (error) {
    say(`That failed: ${error.message ?? error}`, true);
  } finally {
    busy = false;
    for (const part of at("controls").querySelectorAll("button, select, input")) part.disabled = false;
  }
}

async function openModel(provider) {
  if (model) await model.close();
  model = null;
  model = await loadModel(config, provider);
}

function opening(provider) {
  return act(`Opening the model with ${NAMES[provider]} …`, async () => {
    await openModel(provider);
    at("result").hidden = true;
    say("Ready.");
  });
}

async function readGolden() {
  if (!config.golden) return;
  const { tensors } = decodeFrame(await fetchBytes("golden.bin"));
  golden = { inputs: {}, outputs: {} };
  for (const kind of ["inputs", "outputs"]) {
    for (const { name } of config.signature[kind]) golden[kind][name] = tensors[`${kind}/${name}`];
  }
}

async function start() {
  config = JSON.parse(new TextDecoder().decode(await fetchBytes("page.json")));
  describe();
  await readGolden();
  const providers = await providersHere(config.providers);
  at("provider").append(...config.providers.map((id) => new Option(NAMES[id], id)));
  for (const option of at("provider").options) {
    if (providers.includes(option.value)) continue;
    option.disabled = true;
    option.textContent += " (not in this browser)";
  }
  at("provider").addEventListener("change", () => opening(at("provider").value));
  at("image-field").hidden = config.task !== "image-classification";
  at("image").addEventListener("change", () => {
    const [file] = at("image").files;
    if (!file) return;
    act("Running …", async () => {
      const [spec] = config.signature.inputs;
      const inputs = { [spec.name]: await imageTensor(file, spec, config.preprocess) };
      const preview = at("preview");
      URL.revokeObjectURL(preview.src);
      preview.src = URL.createObjectURL(file);
      await preview.decode();
      preview.classList.toggle("small", Math.max(preview.naturalWidth, preview.naturalHeight) < 64);
      await show(file.name, inputs, true);
    });
  });
  at("golden").hidden = golden === null;
  at("golden").addEventListener("click", () => act("Running …", () => show("The sample", golden.inputs, false)));
  at("controls").hidden = false;
  await opening(providers[0]);
}

async function answerCheck() {
  const provider = new URLSearchParams(location.search).get("provider") ?? config.providers[0];
  let frame;
  try {
    await openModel(provider);
    const outputs = await model.run(golden.inputs);
    frame = encodeFrame({ details: { provider, agent: navigator.userAgent } }, outputs);
  } catch (error) {
    frame = encodeFrame({ error: String(error?.message ?? error) });
  }
  await fetch(`result?check=${check}`, { method: "POST", body: frame });
}

try {
  await start();
} catch (error) {
  say(`The model cannot be opened: ${error.message ?? error}`, true);
}
if (check) await answerCheck();
