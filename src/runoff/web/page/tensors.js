// Tensors as bytes: one frame is a 32-bit little-endian length, a JSON header of that length, and the data of the
// tensors that the header lists, in its order, in the byte order of x86 and Arm. Used by the page and by Node.

const ARRAYS = {
  fp64: Float64Array,
  fp32: Float32Array,
  fp16: Uint16Array,
  int64: BigInt64Array,
  int32: Int32Array,
  int16: Int16Array,
  int8: Int8Array,
  uint64: BigUint64Array,
  uint32: Uint32Array,
  uint16: Uint16Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

export function arrayType(dtype) {
  const type = ARRAYS[dtype];
  if (!type) throw new Error(`tensors of dtype ${dtype} cannot be passed`);
  return type;
}

// header: any JSON object; tensors: {name: {dtype, shape, data}}.
export function encodeFrame(header, tensors = {}) {
  const parts = Object.entries(tensors).map(([name, { dtype, shape, data }]) => ({
    name,
    dtype,
    shape: Array.from(shape, Number),
    bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  }));
  const listed = parts.map(({ name, dtype, shape, bytes }) => ({ name, dtype, shape, bytes: bytes.byteLength }));
  const text = new TextEncoder().encode(JSON.stringify({ ...header, tensors: listed }));
  const frame = new Uint8Array(4 + text.length + parts.reduce((sum, part) => sum + part.bytes.byteLength, 0));
  new DataView(frame.buffer).setUint32(0, text.length, true);
  frame.set(text, 4);
  let offset = 4 + text.length;
  for (const { bytes } of parts) {
    frame.set(bytes, offset);
    offset += bytes.byteLength;
  }
  return frame;
}

export function frameHeader(bytes) {
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
  return { length, header: JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length))) };
}

// bytes: one whole frame. Answers {header, tensors}; the data are copies, so that they are aligned.
export function decodeFrame(bytes) {
  const { length, header } = frameHeader(bytes);
  const tensors = {};
  let offset = 4 + length;
  for (const { name, dtype, shape, bytes: count } of header.tensors ?? []) {
    const Type = arrayType(dtype);
    // Not bytes.slice(): a Buffer of Node would answer a view of its pool.
    const copy = Uint8Array.prototype.slice.call(bytes, offset, offset + count);
    tensors[name] = { dtype, shape, data: new Type(copy.buffer, 0, count / Type.BYTES_PER_ELEMENT) };
    offset += count;
  }
  return { header, tensors };
}
