// TensorFlow.js behind one function; the same in Node and on the page.

// tf: the namespace. source: where its `loadGraphModel` reads the model from, a URL or a handler. dtypes: those of the
// outputs by name, since the library has no integers but 32-bit ones. Answers {run, close}.
export async function openModel({ tf, source, dtypes, provider }) {
  await tf.setBackend(provider);
  await tf.ready();
  const model = await tf.loadGraphModel(source);
  const { inputs, outputs } = model.modelSignature;
  const names = Object.keys(outputs);
  async function run(given) {
    const feeds = {};
    for (const [name, { dtype, shape, data }] of Object.entries(given)) {
      feeds[inputs[name].name] = toTensor(tf, name, dtype, shape, data);
    }
    const fetches = names.map((name) => outputs[name].name);
    const found = [].concat(tf.tidy(() => model.execute(feeds, fetches)));
    const answer = {};
    for (const [index, name] of names.entries()) {
      answer[name] = fromTensor(found[index].shape, await found[index].data(), dtypes[name]);
    }
    tf.dispose(found);
    tf.dispose(feeds);
    return answer;
  }
  return { run, close: async () => model.dispose() };
}

function toTensor(tf, name, dtype, shape, data) {
  if (dtype === "fp32") return tf.tensor(data, shape, "float32");
  if (dtype === "bool") return tf.tensor(data, shape, "bool");
  if (data instanceof BigInt64Array) {
    if (data.some((value) => value !== BigInt.asIntN(32, value))) {
      throw new Error(`input ${name} has a value that does not fit 32 bits, which is all that TensorFlow.js has`);
    }
    return tf.tensor(Int32Array.from(data, Number), shape, "int32");
  }
  return tf.tensor(Int32Array.from(data), shape, "int32");
}

function fromTensor(shape, data, dtype) {
  if (dtype === "int64") return { dtype, shape, data: BigInt64Array.from(data, BigInt) };
  if (dtype === "bool") return { dtype, shape, data: Uint8Array.from(data) };
  return { dtype, shape, data: dtype === "int32" ? Int32Array.from(data) : Float32Array.from(data) };
}
