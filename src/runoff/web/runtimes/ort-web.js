// How the page loads ONNX Runtime Web and the model. The build with WebGPU is larger and loaded only for it.

import { openModel } from "./ort-web.js";

const BUILDS = {
  wasm: ["./runtime/ort.wasm.js", "runtime/ort-wasm-simd-threaded.wasm"],
  webgpu: ["./runtime/ort.webgpu.js", "runtime/ort-wasm-simd-threaded.asyncify.wasm"],
};
const MAX_THREADS = 4;

export async function providersHere(known) {
  const hasGpu = navigator.gpu && (await navigator.gpu.requestAdapter().catch(() => null));
  return known.filter((id) => id !== "webgpu" || hasGpu);
}

async function read(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

export async function loadModel(config, provider) {
  const [script, wasm] = BUILDS[provider];
  const ort = await import(script);
  ort.env.wasm.wasmPaths = { wasm: new URL(wasm, document.baseURI).href };
  const external = config.external.map(async (path) => ({ path, data: await read(path) }));
  return openModel({
    ort,
    model: await read(config.model),
    external: await Promise.all(external),
    // Threads need a page that is isolated from other origins, by headers that most servers do not send.
    threads: globalThis.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency) : 1,
    provider,
  });
}
