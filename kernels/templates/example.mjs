// Runs one image through a model: node example.mjs model.bspn image.raw [RUNS]
//
// image.raw holds the bytes of one input as README.txt describes it. Prints a line for each class:
// its number, its score, and a star at the best; with RUNS, the time of one image as well. In a
// web page, fetch the files instead of reading them.
import { readFileSync } from "node:fs";

export function open(wasm, file) {
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(wasm));
  let end = exports.__heap_base.value;
  const place = (bytes) => {
    const at = Math.ceil(end / 64) * 64;
    end = at + bytes;
    const missing = end - exports.memory.buffer.byteLength;
    if (missing > 0) exports.memory.grow(Math.ceil(missing / 65536));
    return at;
  };
  const put = (bytes) => {
    const at = place(bytes.length);
    new Uint8Array(exports.memory.buffer).set(bytes, at);
    return at;
  };
  const check = (error) => {
    if (!error) return;
    const text = new Uint8Array(exports.memory.buffer, exports.bs_strerror(error));
    throw new Error(new TextDecoder().decode(text.subarray(0, text.indexOf(0))));
  };
  const model = place(64);
  check(exports.bs_open(model, put(file), BigInt(file.length)));
  const arena = place(Number(exports.bs_arena_bytes(model)));
  const input = place(Number(exports.bs_input_bytes(model)));
  const count = Number(exports.bs_output_count(model));
  const output = place(4 * count);
  return (image) => {
    if (BigInt(image.length) !== exports.bs_input_bytes(model))
      throw new Error("not the size of one input");
    new Uint8Array(exports.memory.buffer).set(image, input);
    check(exports.bs_run(model, arena, input, output));
    return new Int32Array(exports.memory.buffer, output, count).slice();
  };
}

function main(modelPath, imagePath, runs) {
  const wasm = readFileSync(new URL("bitspin.wasm", import.meta.url));
  const run = open(wasm, readFileSync(modelPath));
  const image = readFileSync(imagePath);
  const scores = run(image);
  const best = scores.indexOf(Math.max(...scores)); // of equal scores the first wins
  scores.forEach((score, i) => console.log(`${i} ${score}${i === best ? " *" : ""}`));
  if (!runs) return;
  const times = Array.from({ length: Number(runs) }, () => {
    const start = performance.now();
    run(image);
    return 1e3 * (performance.now() - start);
  }).sort((a, b) => a - b);
  const median = times[times.length >> 1];
  console.log(`min ${times[0].toFixed(3)} us, median ${median.toFixed(3)} us, ${runs} runs`);
}

try {
  main(...process.argv.slice(2));
} catch (error) {
  console.error(error.message);
  process.exitCode = 2;
}
