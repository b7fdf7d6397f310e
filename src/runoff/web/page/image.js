// An image file as the model's input tensor, as the manifest's `preprocess` says: colour, size, scale, normalisation.
// Shrinks by area and enlarges by linear interpolation, each axis for itself.

const LUMA = [0.299, 0.587, 0.114];

// file: a Blob. spec: of the input. options: the `preprocess` of runoff.json. Answers {dtype, shape, data}.
export async function imageTensor(file, spec, options) {
  return pixelsTensor(await decode(file), spec, options);
}

// The same from {data, width, height}, data being red, green, blue and alpha of each pixel.
export function pixelsTensor(decoded, spec, options) {
  const { size, color = "rgb", resize = "stretch", crop_share: share = 1, pad = 0, invert = false } = options;
  const { scale = 1 / 255, mean = [0], std = [1], layout = "NCHW" } = options;
  const image = inColor(decoded, color);
  const { pixels, channels } = fit(image, size, resize, share, pad);
  const [height, width] = size;
  const data = new Float32Array(pixels.length);
  for (let place = 0; place < height * width; place += 1) {
    for (let channel = 0; channel < channels; channel += 1) {
      const value = Math.min(255, Math.max(0, Math.round(pixels[place * channels + channel])));
      const figure = (invert ? 255 - value : value) * scale - (mean[channel] ?? mean[0]);
      const target = layout === "NCHW" ? channel * height * width + place : place * channels + channel;
      data[target] = figure / (std[channel] ?? std[0]);
    }
  }
  const row = layout === "NCHW" ? [channels, height, width] : [height, width, channels];
  const rows = typeof spec.shape[0] === "number" ? spec.shape[0] : 1;
  const all = new Float32Array(data.length * rows);
  for (let index = 0; index < rows; index += 1) all.set(data, index * data.length);
  return { dtype: "fp32", shape: [rows, ...row], data: all };
}

async function decode(file) {
  const bitmap = await createImageBitmap(file);
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return { data, width, height };
}

function inColor({ data, width, height }, color) {
  const channels = color === "gray" ? 1 : 3;
  const pixels = new Float32Array(width * height * channels);
  for (let place = 0; place < width * height; place += 1) {
    const rgb = data.subarray(place * 4, place * 4 + 3);
    if (color === "gray") pixels[place] = Math.round(rgb[0] * LUMA[0] + rgb[1] * LUMA[1] + rgb[2] * LUMA[2]);
    else pixels.set(color === "rgb" ? rgb : [rgb[2], rgb[1], rgb[0]], place * 3);
  }
  return { pixels, width, height, channels };
}

function fit(image, [height, width], resize, share, pad) {
  if (resize === "stretch") return resized(image, width, height);
  const ratios = [height / image.height, width / image.width];
  if (resize === "letterbox") {
    const ratio = Math.min(...ratios);
    const innerHeight = Math.min(Math.max(Math.round(image.height * ratio), 1), height);
    const innerWidth = Math.min(Math.max(Math.round(image.width * ratio), 1), width);
    const inner = resized(image, innerWidth, innerHeight);
    const filled = { width, height, channels: image.channels, pixels: new Float32Array(width * height * image.channels) };
    filled.pixels.fill(pad);
    const top = Math.floor((height - innerHeight) / 2);
    const left = Math.floor((width - innerWidth) / 2);
    for (let y = 0; y < innerHeight; y += 1) {
      const row = inner.pixels.subarray(y * innerWidth * image.channels, (y + 1) * innerWidth * image.channels);
      filled.pixels.set(row, ((top + y) * width + left) * image.channels);
    }
    return filled;
  }
  const ratio = Math.max(...ratios) / share;
  const keptHeight = Math.min(Math.max(Math.round(height / ratio), 1), image.height);
  const keptWidth = Math.min(Math.max(Math.round(width / ratio), 1), image.width);
  return resized(crop(image, keptWidth, keptHeight), width, height);
}

function crop(image, width, height) {
  const top = Math.floor((image.height - height) / 2);
  const left = Math.floor((image.width - width) / 2);
  const pixels = new Float32Array(width * height * image.channels);
  for (let y = 0; y < height; y += 1) {
    const start = ((top + y) * image.width + left) * image.channels;
    pixels.set(image.pixels.subarray(start, start + width * image.channels), y * width * image.channels);
  }
  return { ...image, pixels, width, height };
}

// First what shrinks, then what grows, with whole pixel values in between.
function resized(image, width, height) {
  const least = [Math.min(width, image.width), Math.min(height, image.height)];
  const small = axisResized(axisResized(image, least[0], true), least[1], false);
  const rounded = { ...small, pixels: small.pixels.map(Math.round) };
  return axisResized(axisResized(rounded, width, true), height, false);
}

// One axis at a time: each new pixel is a weighted sum of old ones.
function axisResized(image, size, horizontal) {
  const old = horizontal ? image.width : image.height;
  if (old === size) return image;
  const weights = Array.from({ length: size }, (_, index) => (size < old ? area : linear)(index, old, size));
  const [width, height] = horizontal ? [size, image.height] : [image.width, size];
  const { channels } = image;
  const pixels = new Float32Array(width * height * channels);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      for (const [from, weight] of weights[horizontal ? x : y]) {
        const source = ((horizontal ? y : from) * image.width + (horizontal ? from : x)) * channels;
        const target = (y * width + x) * channels;
        for (let c = 0; c < channels; c += 1) pixels[target + c] += weight * image.pixels[source + c];
      }
    }
  }
  return { pixels, width, height, channels };
}

function area(index, old, size) {
  const start = (index * old) / size;
  const end = ((index + 1) * old) / size;
  const found = [];
  for (let from = Math.floor(start); from < Math.min(Math.ceil(end), old); from += 1) {
    const overlap = Math.min(end, from + 1) - Math.max(start, from);
    if (overlap > 1e-9) found.push([from, overlap / (end - start)]);
  }
  return found;
}

function linear(index, old, size) {
  const place = Math.max(0, ((index + 0.5) * old) / size - 0.5);
  const from = Math.min(Math.floor(place), old - 1);
  const next = Math.min(from + 1, old - 1);
  const share = next === from ? 0 : place - from;
  return [[from, 1 - share], [next, share]];
}
