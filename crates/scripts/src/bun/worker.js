// What a worker of pool.js runs: one call.
import { readFileSync, readlinkSync } from "node:fs";
import { parentPort } from "node:worker_threads";
import { heapStats } from "bun:jsc";

const { parse, stringify } = JSON;
const post = parentPort.postMessage.bind(parentPort);
const soon = setImmediate;
const bun = Bun;
const collect = bun.gc;
const utf8Bytes = Buffer.byteLength;
const AsyncFunction = (async () => {}).constructor;
const makeContext = (0, eval)(readFileSync(new URL("ctx.js", import.meta.url), "utf8"));
// Which thread this is and how many nanoseconds of a processor it had. Where there are no such files nobody knows.
const thread = () => {
  try {
    return { tid: Number(readlinkSync("/proc/thread-self").split("/").pop()), cpu: Number(readFileSync("/proc/thread-self/schedstat", "latin1").split(" ", 1)[0]) };
  } catch {
    return { tid: 0, cpu: 0 };
  }
};

// A promise that nobody waits for may fail: the script goes on, as elsewhere.
process.on("unhandledRejection", () => {});
process.on("uncaughtException", () => {});

// What scripts find besides the language: the same as in the other engines. Everything else of Bun's is taken away.
const KEEP = new Set(
  `Object Function Array Number parseFloat parseInt Infinity NaN undefined Boolean String Symbol Date Promise RegExp Error
  AggregateError EvalError RangeError ReferenceError SyntaxError TypeError URIError globalThis JSON Math Intl ArrayBuffer Atomics
  Uint8Array Int8Array Uint16Array Int16Array Uint32Array Int32Array Float32Array Float64Array Float16Array Uint8ClampedArray
  BigUint64Array BigInt64Array DataView Map BigInt Set WeakMap WeakSet WeakRef FinalizationRegistry Iterator SharedArrayBuffer
  Proxy Reflect decodeURI decodeURIComponent encodeURI encodeURIComponent escape unescape eval isFinite isNaN SuppressedError
  DisposableStack AsyncDisposableStack
  URL URLSearchParams TextEncoder TextDecoder atob btoa structuredClone crypto queueMicrotask Headers Response performance
  setTimeout clearTimeout setInterval clearInterval`.split(/\s+/),
);

const strip = () => {
  for (const target of [globalThis, Object.getPrototypeOf(globalThis)]) {
    for (const key of Reflect.ownKeys(target)) {
      if (KEEP.has(key) || (target !== globalThis && (key === "constructor" || typeof key === "symbol" || key in Object.prototype))) continue;
      if (!Reflect.deleteProperty(target, key)) Reflect.set(target, key, undefined);
    }
  }
  // This one stays, so it is emptied as far as it can be, and scripts see another of its name.
  for (const key of Reflect.ownKeys(bun)) Reflect.deleteProperty(bun, key) || Reflect.set(bun, key, undefined);
};

// --- between script and host ---

const pending = new Map();
const fromHost = new WeakMap();
let limits;
let asked = 0;
let flushing = false;
let over = false;

// Everything that one entry into the script said goes out together, when nothing of it is left to run.
const flush = () => {
  if (flushing || over) return;
  flushing = true;
  soon(() => {
    flushing = false;
    if (over) return;
    post({ type: "step" });
    // With nothing to wait for the event loop ends, and the worker with it.
    if (pending.size) parentPort.ref();
    else parentPort.unref();
  });
};

const opError = (code, message) => {
  const error = new Error(message);
  Object.defineProperty(error, "code", { value: code, enumerable: true, configurable: true, writable: true });
  fromHost.set(error, code);
  return error;
};

const rpc = (op, args) =>
  new Promise((resolve, reject) => {
    if (asked >= limits.ops) return reject(opError("user_error", `more than ${limits.ops} operations`));
    if (pending.size >= limits.opsPending) return reject(opError("user_error", `more than ${limits.opsPending} operations at once`));
    const seq = ++asked;
    const text = stringify(args === undefined ? null : args);
    pending.set(seq, { resolve, reject });
    post({ type: "rpc", seq, op, args: text });
    flush();
  });

const settle = ({ seq, value, error }) => {
  const waiter = pending.get(seq);
  pending.delete(seq);
  if (!waiter) return;
  if (error) waiter.reject(opError(error.code, error.message));
  else waiter.resolve(value ?? null);
};

let lines = 0;
let bytes = 0;
let cut = false;
const log = (level, text) => {
  if (cut || over) return;
  lines += 1;
  bytes += utf8Bytes(text);
  let line = { level, atMs: Date.now(), text };
  if (lines > limits.logLines || bytes > limits.logBytes) {
    cut = true;
    line = { level: "warn", atMs: line.atMs, text: "[more was logged than is kept]" };
  }
  post({ type: "log", line: stringify({ level: line.level, at_ms: line.atMs, text: line.text }) });
  flush();
};

// --- the call ---

// The code is a body by itself, or it is refused; only then is it written into another function.
const LINES_BEFORE = 3;
const compile = (code, name) => {
  new AsyncFunction("ctx", code);
  return new Function("Bun", `return async function (ctx) {\n${code}\n}\n//# sourceURL=${encodeURI(name)}`)(undefined);
};

const heapBytes = () => {
  const { heapSize, extraMemorySize } = heapStats();
  return heapSize + extraMemorySize;
};

const run = async (text) => {
  const { code, name, data, user, ...rest } = parse(text);
  limits = rest;
  post({ type: "tid", ...thread() });
  strip();
  const end = (what) => {
    over = true;
    post({ type: "result", heap: heapBytes(), ...what });
  };
  let value;
  try {
    const ctx = makeContext(rpc, log, data, user);
    const script = compile(code, name);
    flush();
    value = await script(ctx);
  } catch (error) {
    return end({ failure: failureOf(error, name) });
  }
  let json;
  try {
    json = stringify(value);
  } catch (error) {
    return end({ failure: { code: "unserializable", name: nameOf(error), message: `what it returned is no JSON: ${messageOf(error)}` } });
  }
  if (json !== undefined && utf8Bytes(json) > limits.outputBytes) {
    return end({ failure: { code: "payload_too_large", name: "RangeError", message: `what it returned is more than ${limits.outputBytes} bytes` } });
  }
  end({ value: json });
};

const isObject = (value) => (typeof value === "object" && value !== null) || typeof value === "function";

// Getters of a script's own errors may throw, too.
const safely = (read, otherwise) => {
  try {
    return read();
  } catch {
    return otherwise;
  }
};
const nameOf = (error) => safely(() => (isObject(error) && error.name !== undefined ? String(error.name) : "Error"), "Error");
const messageOf = (error) => safely(() => String(isObject(error) && "message" in error ? error.message : error), "[unprintable]");

const failureOf = (error, name) => {
  const failure = { code: (isObject(error) && fromHost.get(error)) || "user_error", name: nameOf(error), message: messageOf(error) };
  if (failure.code !== "denied" && failure.code !== "internal") failure.code = "user_error";
  if (error instanceof RangeError && /out of memory/i.test(failure.message)) failure.code = "memory";
  const stack = safely(() => framesOf(String(error.stack), name), undefined);
  if (stack) failure.stack = stack;
  return failure;
};

// Frames of the script alone, with its own lines.
const framesOf = (stack, name) => {
  const frames = [];
  for (const line of stack.split("\n")) {
    const at = /^\s*at (?:(.*) )?\(?(.+?):(\d+):(\d+)\)?$/.exec(line);
    if (!at || at[2] !== encodeURI(name)) continue;
    const [, called, , row, column] = at;
    frames.push(`    at ${!called || called === "anonymous" || called === "async anonymous" ? "<anonymous>" : called} (${name}:${Number(row) - LINES_BEFORE}:${column})`);
  }
  return frames.join("\n");
};

parentPort.on("message", ({ type, text }) => {
  if (type === "run") run(text);
  else if (type === "rpc-reply") {
    settle(parse(text));
    flush();
  } else if (type === "heap") {
    collect(true);
    post({ type: "heap", bytes: heapBytes() });
  }
});
