// How the page loads TensorFlow.js and the model.

import { openModel } from "./tfjs.js";

const BACKENDS = { wasm: "runtime/tf-backend-wasm.js", webgl: "runtime/tf-backend-webgl.js" };
const loaded = new Map();

function script(src) {
  if (!loaded.has(src)) {
    const done = new Promise((resolve, reject) => {
      const made = document.createElement("script");
      made.src = src;
      made.onload = resolve;
      made.onerror = () => reject(new Error(`${src} cannot be loaded`));
      document.head.append(made);
    });
    loaded.set(src, done);
  }
  return loaded.get(src);
}

export async function providersHere(known) {
  const hasGl = new OffscreenCanvas(1, 1).getContext("webgl2") !== null;
  return known.filter((id) => id !== "webgl" || hasGl);
}

export async function loadModel(config, provider) {
  for (const name of ["tf-core", "tf-converter", "tf-backend-cpu"]) await script(`runtime/${name}.js`);
  await script(BACKENDS[provider]);
  const { tf } = globalThis;
  if (provider === "wasm") tf.wasm.setWasmPaths(new URL("runtime/", document.baseURI).href);
  const dtypes = Object.fromEntries(config.signature.outputs.map(({ name, dtype }) => [name, dtype]));
  return openModel({ tf, source: config.model, dtypes, provider });
}
