// Runs one model in Node for a parent process: frames of ../page/tensors.js on standard input, answers on standard
// output. Ends when its input does. Called as `node worker.js RUNTIME NODE_MODULES`.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

import { openModel as openOrt } from "../page/ort-web.js";
import { decodeFrame, encodeFrame, frameHeader } from "../page/tensors.js";
import { openModel as openTfjs } from "../page/tfjs.js";

const [runtime, modules] = process.argv.slice(2);

// Standard output is the pipe: what a library says goes to standard error.
for (const level of ["log", "info", "debug", "warn"]) console[level] = (...words) => console.error(...words);

const OPENERS = {
  "ort-web": async ({ model, external, threads }) => {
    const ort = await import(pathToFileURL(path.join(modules, "onnxruntime-web/dist/ort.node.min.mjs")));
    const files = external.map(async (file) => ({ path: path.basename(file), data: await readFile(file) }));
    return openOrt({
      ort,
      model: await readFile(model),
      external: await Promise.all(files),
      threads,
      provider: "wasm",
    });
  },
  tfjs: async ({ model, external, dtypes }) => {
    const require = createRequire(path.join(modules, "runoff.js"));
    const core = require("@tensorflow/tfjs-core");
    const { loadGraphModel } = require("@tensorflow/tfjs-converter");
    require("@tensorflow/tfjs-backend-cpu");
    require("@tensorflow/tfjs-backend-wasm");
    const tf = { ...core, loadGraphModel };
    return openTfjs({ tf, source: { load: () => readArtifacts(model, external) }, dtypes, provider: "wasm" });
  },
};

// Only the files that the parent names are read, whatever model.json says.
async function readArtifacts(file, external) {
  const { modelTopology, weightsManifest, signature, format } = JSON.parse(await readFile(file, "utf8"));
  const parts = await Promise.all(
    weightsManifest
      .flatMap((group) => group.paths)
      .map((name) => {
        const found = external.find((place) => path.basename(place) === name);
        if (!found) throw new Error(`${name} is none of the files of the model`);
        return readFile(found);
      }),
  );
  const all = Buffer.concat(parts);
  return {
    modelTopology,
    signature,
    format,
    weightSpecs: weightsManifest.flatMap((group) => group.weights),
    weightData: all.buffer.slice(all.byteOffset, all.byteOffset + all.byteLength),
  };
}

let session = null;

async function answer(frame) {
  const { header, tensors } = decodeFrame(frame);
  if (header.op === "open") {
    session = await OPENERS[runtime](header);
    return encodeFrame({ node: process.versions.node });
  }
  return encodeFrame({}, await session.run(tensors));
}

function write(frame) {
  return new Promise((resolve) => process.stdout.write(frame, resolve));
}

// One frame after the other; its size is only known once its header is there.
let pending = [];
let size = 0;

function frameSize() {
  if (size < 4) return Infinity;
  const start = Buffer.concat(pending);
  pending = [start];
  const length = start.readUInt32LE(0);
  if (size < 4 + length) return Infinity;
  const { header } = frameHeader(start);
  return 4 + length + (header.tensors ?? []).reduce((sum, tensor) => sum + tensor.bytes, 0);
}

let wanted = Infinity;
for await (const chunk of process.stdin) {
  pending.push(chunk);
  size += chunk.length;
  if (wanted === Infinity) wanted = frameSize();
  while (size >= wanted) {
    const all = Buffer.concat(pending);
    const frame = all.subarray(0, wanted);
    pending = [all.subarray(wanted)];
    size = pending[0].length;
    let reply;
    try {
      reply = await answer(frame);
    } catch (error) {
      reply = encodeFrame({ error: String(error?.message ?? error) });
    }
    await write(reply);
    wanted = frameSize();
  }
}
process.exit(0);
