// ONNX Runtime Web behind one function; the same in Node and on the page.

const TYPES = { fp64: "float64", fp32: "float32", fp16: "float16" };
const DTYPES = Object.fromEntries(Object.entries(TYPES).map(([ours, theirs]) => [theirs, ours]));

// ort: the module of onnxruntime-web. model: the bytes of the .onnx file. external: [{path, data}] of its weights
// files. Answers {run, close, runtime}.
export async function openModel({ ort, model, external, threads, provider }) {
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create(model, {
    executionProviders: [provider],
    externalData: external,
    logSeverityLevel: 3,
  });
  async function run(inputs) {
    const feeds = {};
    for (const [name, { dtype, shape, data }] of Object.entries(inputs)) {
      feeds[name] = new ort.Tensor(TYPES[dtype] ?? dtype, data, shape);
    }
    const answer = await session.run(feeds);
    const outputs = {};
    for (const [name, tensor] of Object.entries(answer)) {
      const data = await tensor.getData(true);
      outputs[name] = { dtype: DTYPES[tensor.type] ?? tensor.type, shape: tensor.dims, data };
    }
    for (const feed of Object.values(feeds)) feed.dispose();
    return outputs;
  }
  return { run, close: () => session.release() };
}
